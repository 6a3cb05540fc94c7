"""One funnel from event loops to blocking calls, in daemon threads of our own.

docker, kubernetes and paramiko block. The default executor of an event loop is no place for them: it has few
workers, and a call that is given up holds up the interpreter's exit. A thread here costs a tenth of a
millisecond and lives for one call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["in_thread", "start_thread"]

T = TypeVar("T")


def start_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call a function in a daemon thread of its own; return the future of its result."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f"kernel-{function.__name__}", daemon=True).start()
    return future


async def in_thread(
    function: Callable[..., T],
    *arguments: Any,
    undo: Callable[[T], object] | None = None,
    stop: threading.Event | None = None,
) -> T:
    """Call a blocking function without holding the event loop; return its result.

    A call cannot be stopped in its thread. So a cancellation waits for the call to end, then undoes what it has done,
    and only then is raised.

    Args:
        function: What to call; it must not touch the event loop.
        *arguments: Its arguments.
        undo: What takes back the result; called, in a thread too, if this is cancelled.
        stop: Set if this is cancelled, for a function that looks at it and ends early.
    """
    future = start_thread(function, *arguments)
    try:
        return await _result(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await _outlast(future)
        if undo is not None and future.exception() is None:
            await _outlast(start_thread(undo, future.result()))
        raise


async def _result(future: Future[T]) -> T:
    # shielded: cancelling the wrapper would cancel the future that the thread is going to set
    return await asyncio.shield(_wrap(future))


async def _outlast(future: Future[Any]) -> None:
    """Wait until a call has ended, however often this is cancelled."""
    while not future.done():
        try:
            await asyncio.wait([_wrap(future)])
        except asyncio.CancelledError:
            continue


def _wrap(future: Future[T]) -> asyncio.Future[T]:
    wrapper = asyncio.wrap_future(future)
    # or asyncio complains of an error that nobody has asked for
    wrapper.add_done_callback(lambda done: done.cancelled() or done.exception())
    return wrapper
