"""`run`: code in a new kernel, its output on stdout and stderr, its verdict as the exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import Any

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.command import EXIT_INTERRUPTED
from kernel_provisioner_core.cli.kernelspec import check_options, find_kernelspec
from kernel_provisioner_core.cli.listing import load_provisioner
from kernel_provisioner_core.cli.session import KernelDiedError, KernelSession, Message
from kernel_provisioner_core.cli.signals import let_go_on_the_next, signals_handled_by
from kernel_provisioner_core.cli.source import Cell, read_cells
from kernel_provisioner_core.cli.terminal import read_input
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError

__all__ = ["EXIT_KERNEL_DIED", "EXIT_TIMED_OUT", "run_code"]

EXIT_CELL_RAISED = 1
EXIT_KERNEL_DIED = 3
EXIT_TIMED_OUT = 124  # as timeout(1) has it


def run_code(options: argparse.Namespace) -> int:
    """Launch a kernel, execute the code that the options give, and shut the kernel down in any case."""
    if options.code is not None:
        cells = [Cell(options.code)]
    elif options.file is not None or not sys.stdin.isatty():
        cells = read_cells(options.file or "-")
    else:
        raise ConfigurationError(
            "There is nothing to run.",
            hint="Give code with -c CODE, a FILE, or - and code on stdin.",
        )
    found = find_kernelspec(options.kernel)
    provisioner_class = load_provisioner(found.provisioner_name)
    check_options(provisioner_class, found.config, found.spec)
    with output.children_apart() as printed:
        session = KernelSession(found, provisioner_class, printed)
        return asyncio.run(_Run(session, cells, options).run())


class _Run:
    """One run: the kernel, the cells, and what Ctrl-C means just now."""

    def __init__(
        self, session: KernelSession, cells: list[Cell], options: argparse.Namespace
    ) -> None:
        self._session = session
        self._cells = cells
        self._timeout: float | None = options.timeout
        self._startup_timeout: float = options.startup_timeout
        self._executing = False
        self._interrupted = False
        self._ending = False
        self._exit_status = EXIT_INTERRUPTED
        self._work: asyncio.Task[int] | None = None
        self._interruption: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Do it all and return the exit status."""
        self._work = asyncio.ensure_future(self._launch_and_execute())
        with signals_handled_by(self._on_signal):
            try:
                return await self._work
            except asyncio.CancelledError:
                return self._exit_status
            except KernelDiedError as error:
                output.error(error)
                return EXIT_KERNEL_DIED
            finally:
                was_ending, self._ending = self._ending, True
                await self._session.shutdown(now=was_ending)

    async def _launch_and_execute(self) -> int:
        with output.working("launching the kernel") as on_progress:
            await self._session.launch(on_progress)
            await self._session.wait_until_ready(self._startup_timeout)
        self._executing = True
        try:
            return await asyncio.wait_for(self._execute(), self._timeout)
        except asyncio.TimeoutError:
            output.error(
                KernelProvisionerError(
                    f"The code took longer than {self._timeout:g} seconds.",
                    hint="The kernel is shut down; give it more time with --timeout.",
                )
            )
            return EXIT_TIMED_OUT
        finally:
            self._executing = False

    async def _execute(self) -> int:
        on_input = read_input if sys.stdin.isatty() else None
        status = 0
        for cell in self._cells:
            printer = _Printer()
            reply = await self._session.execute(cell.code, printer, on_input)
            if reply["status"] == "ok":
                continue
            if not printer.error_shown:
                _show_error(reply)
            if not cell.may_raise:
                status = EXIT_CELL_RAISED
                break
        await self._session.show_late_output(_Printer())
        return status

    def _on_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and self._executing and not self._interrupted:
            self._interrupted = True
            sys.stderr.write("\ninterrupting the kernel; Ctrl-C again ends it\n")
            self._interruption = asyncio.ensure_future(self._interrupt())
        elif self._ending:
            let_go_on_the_next(signum)
        else:
            self._ending = True
            self._exit_status = 128 + signum
            if self._work is not None:
                self._work.cancel()

    async def _interrupt(self) -> None:
        try:
            await self._session.interrupt()
        except KernelProvisionerError as error:
            output.error(error)


class _Printer:
    """Prints what the kernel publishes, as it comes."""

    def __init__(self) -> None:
        self.error_shown = False

    def __call__(self, message: Message) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            stream = sys.stderr if content["name"] == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()
        elif kind in ("execute_result", "display_data", "update_display_data"):
            output.line(str(content["data"].get("text/plain", "")))
        elif kind == "error":
            self.error_shown = True
            _show_error(content)


def _show_error(content: dict[str, Any]) -> None:
    lines = content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]
    text = "\n".join(lines)
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        text = output.strip_colours(text)
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
