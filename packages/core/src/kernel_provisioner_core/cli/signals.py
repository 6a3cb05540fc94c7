"""Signals for a command that has a kernel to shut down before it may end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["let_go_on_the_next", "signals_handled_by"]


@contextlib.contextmanager
def signals_handled_by(handler: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP handled on the running event loop while the body runs.

    Args:
        handler: Called on the loop with the signal's number.
    """
    loop = asyncio.get_running_loop()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handler, signum)

    # Windows has no SIGHUP
    signums = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {signum: signal.signal(signum, pass_on) for signum in signums}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def let_go_on_the_next(signum: int) -> None:
    """Have the next such signal end this process at once: what somebody wants whose shutdown hangs."""
    signal.signal(signum, signal.SIG_DFL)
    sys.stderr.write("\nshutting down; once more leaves the kernel behind\n")
