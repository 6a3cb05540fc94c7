"""What the commands print: tables, JSON, errors; plain where nobody looks at a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import traceback as traceback_module
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

from kernel_provisioner_core.errors import KernelProvisionerError, LaunchError

__all__ = [
    "JUPYTER_LOGGER",
    "LogHandler",
    "WarningHandler",
    "children_apart",
    "error",
    "last_output",
    "line",
    "print_json",
    "strip_colours",
    "styled_line",
    "table",
    "traceback",
    "warning",
    "working",
]

JUPYTER_LOGGER = "kernel_provisioner_core.cli.jupyter"
"""Where jupyter_client's objects log. What they warn of, the commands tell better or do not need."""

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def line(text: str = "") -> None:
    """Print a line on stdout at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def styled_line(*parts: str | tuple[str, str]) -> None:
    """Print a line on stdout of texts and of (text, style) pairs; styles show on a terminal only."""
    if not sys.stdout.isatty():
        line("".join(part if isinstance(part, str) else part[0] for part in parts))
        return
    from rich.text import Text

    _console(sys.stdout).print(Text.assemble(*parts), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    line(json.dumps(value, indent=2, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout; off a terminal as lines of cells with tabs between them, for `grep` and `cut`."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            line("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    _console(sys.stdout).print(drawn)


def error(raised: KernelProvisionerError) -> None:
    """Print an error on stderr: one line, and what to do on a second one, and a kernel's last output below."""
    _mark("error", "bold red", raised.message)
    if raised.hint:
        _mark("hint", "bold cyan", raised.hint)
    if isinstance(raised, LaunchError) and raised.output:
        last_output(raised.output)


def last_output(text: str) -> None:
    """Print what a kernel printed last on stderr."""
    sys.stderr.write("the kernel's last output:\n")
    for printed in strip_colours(text).splitlines():
        sys.stderr.write(f"  {printed}\n")
    sys.stderr.flush()


def warning(text: str) -> None:
    """Print a warning on stderr."""
    _mark("warning", "bold yellow", text)


def traceback(raised: BaseException) -> None:
    """Print the traceback of an exception, with its causes, on stderr."""
    sys.stderr.write("".join(traceback_module.format_exception(raised)))


def strip_colours(text: str) -> str:
    """Return a text without the escape sequences of a terminal."""
    return _ESCAPE_SEQUENCE.sub("", text)


@contextlib.contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr, if it is a terminal, that something takes its time, for the length of the body.

    Yields:
        A function that changes the text, from any thread.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.text import Text

    with _console(sys.stderr).status(Text(text)) as status:
        yield lambda text: status.update(Text(text))


@contextlib.contextmanager
def children_apart() -> Iterator[IO[bytes]]:
    """Keep what child processes print out of what we print, for the length of the body.

    Kernels inherit the descriptors 1 and 2. They lead into a temporary file now; ours write on to where they did.

    Yields:
        The temporary file, to be read.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        printed = stack.enter_context(tempfile.TemporaryFile())
        for fd, redirect in ((1, contextlib.redirect_stdout), (2, contextlib.redirect_stderr)):
            ours = os.dup(fd)
            stack.callback(os.close, ours)
            stack.callback(os.dup2, ours, fd)
            stream = sys.stdout if fd == 1 else sys.stderr
            file = stack.enter_context(
                open(
                    ours,
                    "w",
                    encoding=stream.encoding,
                    errors=stream.errors,
                    buffering=1,
                    closefd=False,
                )
            )
            stack.enter_context(redirect(file))
            os.dup2(printed.fileno(), fd)
        yield printed


class LogHandler(logging.Handler):
    """Shows the whole log, with tracebacks, on what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        sys.stderr.write(self.format(record) + "\n")


class WarningHandler(logging.Handler):
    """Shows warnings of the log as one line each.

    Exceptions that are logged on their way to us are left out: we tell of them ourselves.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        if record.exc_info is None:
            warning(" ".join(record.getMessage().split()))


def _mark(label: str, style: str, text: str) -> None:
    if not sys.stderr.isatty():
        sys.stderr.write(f"{label}: {text}\n")
        sys.stderr.flush()
        return
    from rich.text import Text

    _console(sys.stderr).print(Text.assemble((f"{label}: ", style), text), soft_wrap=True)


def _console(file: IO[str]) -> Any:
    from rich.console import Console

    return Console(file=file, highlight=False)
