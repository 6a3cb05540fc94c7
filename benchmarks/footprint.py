"""What a running kernel costs in the server: memory and file descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterable
from typing import Any

import psutil
import worker
from contender import LOCAL, REFERENCE, kill
from contender import Contender as _Contender
from measurement import Plan, Row, at_most, measurement, ratio_row, told

KERNELS = 100  # small growths drown in the page size and the allocator's pools
FDS = 6  # five held ports and a pidfd


@measurement("footprint", rounds=5, quick_rounds=1)
def footprint(plan: Plan) -> Iterable[Row]:
    """Memory (USS, RSS) and file descriptors of the server per running kernel, 100 kernels, a process each time."""
    grown: dict[str, list[dict[str, float]]] = {LOCAL.name: [], REFERENCE.name: []}
    for _ in range(plan.rounds):
        for contender in (LOCAL, REFERENCE):
            grown[contender.name].append(
                worker.call(
                    "footprint:grow",
                    name=contender.name,
                    provisioner=contender.provisioner,
                    kernels=20 if plan.quick else KERNELS,
                )
            )

    def of(contender: _Contender, what: str) -> tuple[str, list[float]]:
        return contender.name, [one[what] for one in grown[contender.name]]

    yield ratio_row("memory per kernel (USS)", "bytes", of(LOCAL, "uss"), of(REFERENCE, "uss"), 1.0)
    yield told("memory per kernel (RSS)", "bytes", dict((of(LOCAL, "rss"), of(REFERENCE, "rss"))))
    ours, theirs = of(LOCAL, "fds"), of(REFERENCE, "fds")
    yield at_most(
        "file descriptors per kernel",
        "",
        dict((ours, theirs)),
        max(ours[1]) - min(theirs[1]),
        FDS,
        "ours less jupyter_client's",
    )
    yield told(
        "threads with all kernels", "", dict((of(LOCAL, "threads"), of(REFERENCE, "threads")))
    )


def grow(name: str, provisioner: str, kernels: int) -> dict[str, float]:
    """In a process of its own: start kernels and return what each has cost."""
    return asyncio.run(_grow(_Contender(name, provisioner), kernels))


async def _grow(contender: _Contender, kernels: int) -> dict[str, float]:
    started = []
    try:
        for _ in range(5):  # modules, caches
            started.append(await _start(contender))
        before = _state()
        for _ in range(kernels):
            started.append(await _start(contender))
        after = _state()
    finally:
        for manager in started:
            await kill(manager)
    cost = {what: (after[what] - before[what]) / kernels for what in before}
    return {**cost, "threads": after["threads"]}


async def _start(contender: _Contender) -> Any:
    manager = contender.manager(idle=True)
    await manager.start_kernel()
    return manager


def _state() -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    memory = process.memory_full_info()
    return {
        "uss": memory.uss,
        "rss": memory.rss,
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": process.num_threads(),
    }
