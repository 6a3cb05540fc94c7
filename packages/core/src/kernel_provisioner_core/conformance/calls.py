"""Standing between the caller and a provisioner: what was called, and how long each step took."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

#: The asynchronous methods of the contract.
COROUTINES = (
    "poll",
    "wait",
    "send_signal",
    "kill",
    "terminate",
    "launch_kernel",
    "cleanup",
    "shutdown_requested",
    "pre_launch",
    "post_launch",
    "get_provisioner_info",
    "load_provisioner_info",
)

_in_provisioner: ContextVar[bool] = ContextVar("in_provisioner", default=False)


@dataclass
class Call:
    """One call of the caller to the provisioner."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    error: BaseException | None = None
    result: Any = None
    steps: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        # Of the arguments only the small ones: a launch's hold the environment.
        small = [repr(a) for a in self.args if isinstance(a, (int, bool))]
        small += [f"{k}={v!r}" for k, v in self.kwargs.items() if isinstance(v, (int, bool))]
        return f"{self.name}({', '.join(small)})"


class Recorder:
    """Stands in for a provisioner: records the calls and passes everything on.

    ``_recorder_calls`` has the calls; ``_recorder_hook``, if set, is called with each of them when
    it has ended.
    """

    def __init__(self, provisioner: Any) -> None:
        object.__setattr__(self, "_recorder_provisioner", provisioner)
        object.__setattr__(self, "_recorder_calls", [])
        object.__setattr__(self, "_recorder_hook", None)

    def __getattr__(self, name: str) -> Any:
        provisioner = object.__getattribute__(self, "_recorder_provisioner")
        value = getattr(provisioner, name)
        if name not in COROUTINES or not callable(value):
            return value

        async def recorded(*args: Any, **kwargs: Any) -> Any:
            call = Call(name, args, kwargs)
            object.__getattribute__(self, "_recorder_calls").append(call)
            try:
                call.result = await stepped(value(*args, **kwargs), call.steps)
                return call.result
            except BaseException as error:
                call.error = error
                raise
            finally:
                hook = object.__getattribute__(self, "_recorder_hook")
                if hook is not None:
                    hook(call)

        return recorded

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_recorder_"):
            object.__setattr__(self, name, value)
        else:
            setattr(object.__getattribute__(self, "_recorder_provisioner"), name, value)


class _Steps:
    """Awaits a coroutine and notes the seconds of each of its steps."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], steps: list[float]) -> None:
        self._coroutine = coroutine
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        advance: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        while True:
            token = _in_provisioner.set(True)
            begun = time.perf_counter()
            try:
                waiting_for = advance(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                self._steps.append(time.perf_counter() - begun)
                _in_provisioner.reset(token)
            try:
                argument = yield waiting_for
                advance = self._coroutine.send
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:
                argument, advance = error, self._coroutine.throw


async def stepped(awaitable: Awaitable[Any], steps: list[float]) -> Any:
    """The result of ``awaitable``; the seconds that each step held the loop go to ``steps``."""
    if inspect.iscoroutine(awaitable):
        return await _Steps(awaitable, steps)
    return await awaitable


def time_tasks(loop: asyncio.AbstractEventLoop, steps: list[float]) -> None:
    """From now on, time also the steps of the tasks that a provisioner's coroutine starts."""

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        if _in_provisioner.get() and inspect.iscoroutine(coroutine):
            coroutine = stepped(coroutine, steps)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
