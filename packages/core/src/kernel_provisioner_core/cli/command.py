"""From the arguments to the function of a command, and from its errors to an exit status."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.parser import parse
from kernel_provisioner_core.errors import KernelProvisionerError

__all__ = ["EXIT_INTERRUPTED", "run_command"]

EXIT_INTERRUPTED = 130  # what a shell reports for SIGINT


def run_command(argv: Sequence[str]) -> int:
    """Run the command that the arguments name and return the exit status; errors are told on stderr."""
    options = parse(argv)
    _set_up_logging(options.debug)
    module, _, function = options.function.partition(":")
    command = getattr(importlib.import_module(f"kernel_provisioner_core.cli.{module}"), function)
    try:
        return int(command(options))
    except KernelProvisionerError as error:
        output.error(error)
        if options.debug:
            output.traceback(error)
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`). Python flushes stdout at exit, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        output.error(KernelProvisionerError(f"The operating system refused: {error}."))
        if options.debug:
            output.traceback(error)
        return 1


def _set_up_logging(debug: bool) -> None:
    handler: logging.Handler = (
        logging.StreamHandler(sys.stderr) if debug else output.WarningHandler()
    )
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if debug else "%(message)s",
        handlers=[handler],
        force=True,
    )
    for name in ("asyncio", "parso", "markdown_it"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not debug:
        warnings.simplefilter("ignore")  # they concern developers
