"""How a kernel ended: its exit code, the reason in words, its last output."""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["UNKNOWN_EXIT_CODE", "KernelExit"]

UNKNOWN_EXIT_CODE = 255
"""What stands for an exit code that nobody here knows; asyncio's child watchers use it too."""


@dataclass(frozen=True)
class KernelExit:
    """How a kernel ended.

    Args:
        code: The exit code; negative for the signal that ended it, as `subprocess.Popen.returncode`
            has it; None if it is not known (the process was another process's child).
        cause: What is known beyond the code ("likely out of memory", "evicted"), or in its place; may be empty.
        output: The last lines the kernel printed, where they were captured; may be empty.
    """

    code: int | None
    cause: str = ""
    output: str = ""

    @property
    def status(self) -> int:
        """The exit code for `poll` and `wait`, where None would mean that the kernel runs."""
        return UNKNOWN_EXIT_CODE if self.code is None else self.code

    @property
    def reason(self) -> str:
        """The exit in words: ``exited with code 3``, ``killed by SIGKILL, likely out of memory``."""
        if self.code is None:
            return self.cause or "ended with an unknown exit code"
        if self.code < 0:
            words = f"killed by {_signal_name(-self.code)}"
        else:
            words = f"exited with code {self.code}"
        return f"{words}, {self.cause}" if self.cause else words


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number and no name
        return f"signal {number}"
