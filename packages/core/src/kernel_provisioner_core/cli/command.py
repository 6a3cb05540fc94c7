"""From the arguments to the function of a command, and from its errors to an exit status."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.parser import parse
from kernel_provisioner_core.errors import KernelProvisionerError

__all__ = ["EXIT_INTERRUPTED", "run_command"]

EXIT_INTERRUPTED = 130  # what a shell reports for SIGINT


def run_command(argv: Sequence[str]) -> int:
    """Run the command that the arguments name and return the exit status; errors are told on stderr."""
    options = parse(argv)
    try:
        with _logging(options.debug):
            module, _, function = options.function.partition(":")
            home = importlib.import_module(f"kernel_provisioner_core.cli.{module}")
            return int(getattr(home, function)(options))
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


@contextlib.contextmanager
def _logging(debug: bool) -> Iterator[None]:
    """Show the log on stderr while the body runs: all of it, or the warnings as one line each."""
    root = logging.getLogger()
    handler: logging.Handler = output.WarningHandler()
    if debug:
        handler = output.LogHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger(output.JUPYTER_LOGGER).setLevel(logging.NOTSET if debug else logging.ERROR)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # they concern developers
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
