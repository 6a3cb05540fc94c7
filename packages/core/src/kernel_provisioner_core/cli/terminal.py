"""Input from the terminal, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["read_input"]


async def read_input(prompt: str, secret: bool) -> str:
    r"""Show a prompt and return the line that is typed; the end of the input is "\x04", as Jupyter has it.

    May be cancelled; what was typed so far is lost then.

    Args:
        prompt: What to show.
        secret: Whether to hide what is typed.
    """
    if sys.platform == "win32":
        return await _read_in_thread(prompt, secret)
    sys.stdout.write(prompt)
    sys.stdout.flush()
    fd = sys.stdin.fileno()
    with _echo_off(fd) if secret else contextlib.nullcontext():
        line = await _read_line(fd)
    if secret or not line.endswith(b"\n"):
        sys.stdout.write("\n")
    return line.decode(errors="replace").rstrip("\n") if line else "\x04"


async def _read_line(fd: int) -> bytes:
    """Return what the terminal gives at once: a line, as it edits them itself."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fd, note)
    try:
        await readable
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 1 << 16)


@contextlib.contextmanager
def _echo_off(fd: int) -> Iterator[None]:
    import termios

    before = termios.tcgetattr(fd)
    silent = termios.tcgetattr(fd)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def _read_in_thread(prompt: str, secret: bool) -> str:
    # a thread of our own: one of the loop's would keep the program from ending
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def take(text: str) -> None:
        if not answer.done():
            answer.set_result(text)

    def read() -> None:
        try:
            text = getpass.getpass(prompt) if secret else input(prompt)
        except EOFError:
            text = "\x04"
        loop.call_soon_threadsafe(take, text)

    threading.Thread(target=read, daemon=True).start()
    return await answer
