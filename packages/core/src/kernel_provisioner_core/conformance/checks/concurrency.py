"""Many kernels at once, and the event loop that all share."""

from __future__ import annotations

import asyncio
import threading
import time

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.calls import time_tasks
from kernel_provisioner_core.conformance.check import Level, check, expect
from kernel_provisioner_core.conformance.checks.launch import PORTS

#: How many kernels are launched at once.
MANY = 20

#: Seconds that no step may hold the loop, on whatever machine.
_FAR_TOO_LONG = 0.25


async def _launch_many(bench: Bench, number: int) -> list[Kernel]:
    kernels = [bench.kernel() for _ in range(number)]
    await asyncio.gather(*(kernel.start() for kernel in kernels))
    return kernels


@check("concurrency.many")
async def many(bench: Bench) -> None:
    """20 kernels that are launched at once all come up, and no two share a port.

    If it fails: ports were chosen by binding and closing, or a limit of the platform was met.
    """
    kernels = await _launch_many(bench, MANY)
    await asyncio.gather(*(kernel.client.ready(45) for kernel in kernels))
    addresses = [(kernel.info["ip"], kernel.info[name]) for kernel in kernels for name in PORTS]
    expect(len(set(addresses)) == 5 * MANY, "two of the kernels share a port")
    said = await asyncio.gather(*(kernel.evaluate(str(at)) for at, kernel in enumerate(kernels)))
    expect(said == [str(at) for at in range(MANY)], "replies came from the wrong kernel")
    await asyncio.gather(*(kernel.shutdown(now=True) for kernel in kernels))


def _longest(kernels: list[Kernel], tasks: list[float]) -> tuple[float, str]:
    """The longest step, and whose it was."""
    steps = [
        (step, call.name) for kernel in kernels for call in kernel.calls for step in call.steps
    ]
    return max([*steps, *((step, "a task") for step in tasks)], default=(0.0, "nothing"))


async def _life(bench: Bench) -> tuple[float, str]:
    """Lead one kernel through its life; the longest step that the provisioner took."""
    tasks: list[float] = []
    time_tasks(asyncio.get_running_loop(), tasks)
    kernel = await bench.start()
    await kernel.manager.interrupt_kernel()
    await kernel.restart()
    await kernel.crash()
    await kernel.restart(now=True)
    await kernel.shutdown()
    return _longest([kernel], tasks)


@check("concurrency.blocks")
async def blocks(bench: Bench) -> None:
    """No call of a provisioner holds the event loop: in a launch, an interrupt, two restarts and a
    shutdown no step takes a quarter of a second.

    If it fails: all kernels of the server stand still meanwhile. Do what blocks in a thread.
    """
    shortest = (float("inf"), "")
    for _ in range(3):
        shortest = min(shortest, await _life(bench))
        if shortest[0] < _FAR_TOO_LONG:
            return
    expect(False, f"a step of {shortest[1]} held the event loop for {shortest[0]:.2f} s")


class _Yardstick:
    """How late a thread wakes that only sleeps: what this machine does to everybody just now."""

    def __init__(self) -> None:
        self.latest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def _measure(self) -> None:
        while True:
            begun = time.perf_counter()
            if self._over.wait(0.005):
                return
            self.latest = max(self.latest, time.perf_counter() - begun - 0.005)

    def __enter__(self) -> _Yardstick:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@check("concurrency.steps", Level.SHOULD)
async def steps(bench: Bench) -> None:
    """While 20 kernels are launched at once, no step of the provisioner holds the event loop for
    longer than the target's `step_limit` (20 ms) above what the machine's load does to an idle thread.

    If it fails: on a busy machine try again alone; then do what takes long in a thread.
    """
    told = []
    for _ in range(3):
        tasks: list[float] = []
        time_tasks(asyncio.get_running_loop(), tasks)
        with _Yardstick() as yardstick:
            kernels = await _launch_many(bench, MANY)
        longest, whose = _longest(kernels, tasks)
        await asyncio.gather(*(kernel.shutdown(now=True) for kernel in kernels))
        if longest <= bench.target.step_limit + yardstick.latest:
            return
        told.append(f"{longest * 1000:.0f} ms of {whose} (idle: {yardstick.latest * 1000:.0f} ms)")
    expect(False, f"steps that held the event loop, in three tries: {', '.join(told)}")
