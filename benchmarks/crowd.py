"""Fifty launches at once in one event loop.

Three processes: one launches the kernels, one has an idle event loop of its own meanwhile, and this one looks on.
Both loops note how late their timer is. What the idle one suffers, the machine does to everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import statistics
import sys
import time
from collections.abc import Generator, Iterable
from typing import Any

import worker
from contender import LOCAL, REFERENCE, Contender, kill
from measurement import Plan, Row, at_most, measurement, told

KERNELS = 50
TICK = 0.002
AFTER = 1.0  # seconds that are still watched once all launch calls have returned
HOLD = 0.020  # of the event loop, by one step of a provisioner's coroutine
STALL = 0.020  # over an idle loop's


@measurement("crowd", rounds=3, quick_rounds=1)
def crowd(plan: Plan) -> Iterable[Row]:
    """50 launches at once, ipykernel: do all come up, and who holds the event loop."""
    kernels = 6 if plan.quick else KERNELS
    found: dict[str, list[dict[str, Any]]] = {LOCAL.name: [], REFERENCE.name: []}
    for _ in range(plan.rounds):
        for contender in (LOCAL, REFERENCE):
            found[contender.name].append(_look_on(contender, kernels))

    def each(what: str) -> dict[str, list[float]]:
        return {name: [one[what] for one in rounds] for name, rounds in found.items()}

    ours = found[LOCAL.name]
    yield at_most(
        f"kernels of {kernels} that did not come up",
        "",
        each("missing"),
        max(one["missing"] for one in ours),
        0,
        "worst of ours",
    )
    yield at_most(
        "ports that two kernels have",
        "",
        each("collisions"),
        max(one["collisions"] for one in ours),
        0,
        "worst of ours",
    )
    yield at_most(
        "longest step of the provisioner in the event loop",
        "s",
        each("longest_step"),
        statistics.median(one["longest_step"] for one in ours),
        HOLD,
        "median of ours",
    )
    yield told("the same, in CPU time of its thread", "s", each("longest_step_cpu"))
    yield told("the same, with what other processes had", "s", each("longest_step_wall"))
    yield at_most(
        "worst stall of the launching loop, less the idle loop's at the time",
        "s",
        {
            name: [one["stall"] - one["idle_stall"] for one in rounds]
            for name, rounds in found.items()
        },
        statistics.median(one["stall"] - one["idle_stall"] for one in ours),
        STALL,
        "median of ours",
    )
    yield told("worst stall of the launching loop", "s", each("stall"))
    yield told("worst stall of the idle loop", "s", each("idle_stall"))
    yield told("until all launch calls have returned", "s", each("called"))
    yield told("until all kernels have answered", "s", each("answered"))


def _look_on(contender: Contender, kernels: int) -> dict[str, Any]:
    launching = worker.start(
        "crowd:launch", name=contender.name, provisioner=contender.provisioner, kernels=kernels
    )
    idle = worker.start("crowd:idle")
    assert idle.stdin is not None
    launched = worker.finish(launching)
    quiet = worker.finish(idle)  # closing its standard input ends it
    begin, end = launched.pop("from"), launched.pop("until")
    late = [lateness for at, lateness in quiet if begin <= at <= end]
    return {**launched, "idle_stall": max(late)}


def idle() -> list[tuple[float, float]]:
    """An event loop that does nothing until its standard input ends."""
    return asyncio.run(_idle())


async def _idle() -> list[tuple[float, float]]:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    ticker = _Ticker()
    await over.wait()
    loop.remove_reader(sys.stdin)
    return ticker.stop()


def launch(name: str, provisioner: str, kernels: int) -> dict[str, Any]:
    """Launch kernels at once, and see them answer."""
    return asyncio.run(_launch(Contender(name, provisioner), kernels))


async def _launch(contender: Contender, kernels: int) -> dict[str, Any]:
    # modules, caches, the provisioner's class: a server has them
    first = contender.manager()
    await first.start_kernel()
    await _answer(first)
    kind = type(first.provisioner)
    await kill(first)

    steps = _Steps(kind)
    managers = [contender.manager() for _ in range(kernels)]
    for manager in managers:
        _ = manager.kernel_spec
    await asyncio.sleep(0.2)
    ticker = _Ticker()
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    try:
        await asyncio.gather(*(manager.start_kernel() for manager in managers))
        called = time.monotonic()
        await asyncio.sleep(AFTER)
        until = time.monotonic()
        ticks = ticker.stop()
        steps.stop()
        answers = [await _answer(manager) for manager in managers]
        answered = time.monotonic()
        ports = [
            manager.get_connection_info()[f"{c}_port"] for manager in managers for c in _CHANNELS
        ]
    finally:
        for manager in managers:
            if manager.has_kernel:
                await kill(manager)
    return {
        "from": begin,
        "until": until,
        "called": called - begin,
        "answered": answered - begin,
        "missing": answers.count(False),
        "collisions": len(ports) - len(set(ports)),
        "longest_step": max(steps.seconds)[0],
        "longest_step_of": max(steps.seconds)[3],
        "longest_step_wall": max(wall for _, wall, _, _ in steps.seconds),
        "longest_step_cpu": max(cpu for _, _, cpu, _ in steps.seconds),
        "steps_wall": sum(wall for _, wall, _, _ in steps.seconds),
        "steps_cpu": sum(cpu for _, _, cpu, _ in steps.seconds),
        "stall": max(lateness for at, lateness in ticks if at >= begin),
    }


_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


async def _answer(manager: Any) -> bool:
    """Return whether the kernel, and no other one, answers: the key of another kernel would not fit."""
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        client.kernel_info()
        for _ in range(120):
            with contextlib.suppress(queue.Empty):
                await client.get_shell_msg(timeout=1)
                return await manager.is_alive() and await _beats(manager)
            if not await manager.is_alive():
                break
        return False
    finally:
        client.stop_channels()


def _waited() -> float:
    """Return for how long this thread was ready to run while others had the processors (proc(5), schedstat)."""
    with open("/proc/thread-self/schedstat", "rb") as file:
        return int(file.read().split()[1]) * 1e-9


async def _beats(manager: Any) -> bool:
    """Return whether the heartbeat answers: ipykernel goes on without it if its port was taken."""
    with manager.connect_hb() as heart:
        heart.send(b"ping")
        for _ in range(100):
            if heart.poll(0):
                return True
            await asyncio.sleep(0.05)
    return False


class _Ticker:
    """Notes how late a timer of the running event loop is, again and again."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._next()

    def _next(self) -> None:
        self._due = self._loop.time() + TICK
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        self._late.append((now, now - self._due))
        self._next()

    def stop(self) -> list[tuple[float, float]]:
        self._timer.cancel()
        return self._late


class _Steps:
    """Times every step that the event loop makes in a coroutine of a provisioner's class.

    A step is what runs between two suspensions: nothing else in the loop runs meanwhile.
    """

    METHODS = (
        "pre_launch",
        "launch_kernel",
        "post_launch",
        "poll",
        "wait",
        "send_signal",
        "kill",
        "terminate",
        "cleanup",
        "shutdown_requested",
    )

    def __init__(self, kind: type) -> None:
        self.seconds: list[tuple[float, float, float, str]] = []
        self._kind = kind
        self._before = {name: kind.__dict__.get(name) for name in self.METHODS}
        for name in self.METHODS:
            setattr(kind, name, self._timed(getattr(kind, name), name))

    def stop(self) -> None:
        for name, method in self._before.items():
            if method is None:
                delattr(self._kind, name)
            else:
                setattr(self._kind, name, method)

    def _timed(self, method: Any, name: str) -> Any:
        seconds = self.seconds

        class Timed:
            def __init__(self, coroutine: Any) -> None:
                self._coroutine = coroutine

            def __await__(self) -> Generator[Any, Any, Any]:
                value: Any = None
                problem: BaseException | None = None
                while True:
                    waited, cpu, wall = _waited(), time.thread_time(), time.perf_counter()
                    try:
                        if problem is not None:
                            yielded = self._coroutine.throw(problem)
                        else:
                            yielded = self._coroutine.send(value)
                    except StopIteration as end:
                        return end.value
                    finally:
                        wall = time.perf_counter() - wall
                        cpu = time.thread_time() - cpu
                        held = wall - (_waited() - waited)
                        seconds.append((held, wall, cpu, name))
                    value = problem = None
                    try:
                        value = yield yielded
                    except BaseException as error:  # noqa: BLE001 - it belongs into the coroutine
                        problem = error

        async def call(provisioner: Any, *args: Any, **kwargs: Any) -> Any:
            return await Timed(method(provisioner, *args, **kwargs))

        return call
