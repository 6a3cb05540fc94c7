"""Turns, so that many launches at once do not hold the event loop in one piece.

The steps of a launch are short and do not suspend. Fifty launches that begin in one pass of the event loop would
run one after the other without a look at anything else, while the kernels already started take the processors
away: seconds pass (measured: 7 s on two busy processors). Here they stand in line, and after each step the
loop is free for as long as the step took. A launch that comes alone waits for nothing.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task
    from typing import Any

__all__ = ["turn"]

_LONGEST_PAUSE = 0.005  # seconds; a step takes longer where it waits for a processor itself


class _Line:
    """The launches of one event loop that wait for their turn, and the one whose turn it is."""

    def __init__(self) -> None:
        self.holder: Task[Any] | None = None
        self.waiting: deque[tuple[Future[None], Task[Any] | None]] = deque()

    def begin(self, loop: AbstractEventLoop, holder: Task[Any] | None) -> None:
        """Let a task make its step: it is what the loop does next, or is doing."""
        self.holder = holder
        loop.call_soon(self._step_is_over, loop, time.monotonic())

    def _step_is_over(self, loop: AbstractEventLoop, begun: float) -> None:
        if not self.waiting:
            del _lines[loop]
            return
        self.holder = None
        loop.call_later(min(time.monotonic() - begun, _LONGEST_PAUSE), self._next, loop)

    def _next(self, loop: AbstractEventLoop) -> None:
        while self.waiting:
            future, task = self.waiting.popleft()
            if not future.done():  # else its task was cancelled
                future.set_result(None)
                self.begin(loop, task)
                return
        del _lines[loop]


_lines: WeakKeyDictionary[AbstractEventLoop, _Line] = WeakKeyDictionary()


async def turn() -> None:
    """Wait until the next step of a launch may run: at once, unless other launches are under way.

    To be called before each step, from the task that makes the launch. May be cancelled.
    """
    from asyncio import current_task, get_running_loop

    loop = get_running_loop()
    task = current_task()
    line = _lines.get(loop)
    if line is None:
        line = _lines[loop] = _Line()
        line.begin(loop, task)
    elif line.waiting or line.holder is not task:
        mine = loop.create_future()
        line.waiting.append((mine, task))
        await mine
