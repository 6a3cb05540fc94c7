"""From the call of `start_kernel` to the first `kernel_info_reply`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from contender import LOCAL, REFERENCE, Contender, kill
from measurement import Plan, Row, measurement, ratio_row, told


@measurement("launch", rounds=40, quick_rounds=3)
def launch(plan: Plan) -> Iterable[Row]:
    """Launch to first kernel_info_reply, in turn, ipykernel."""
    ready: dict[str, list[float]] = {LOCAL.name: [], REFERENCE.name: []}
    called: dict[str, list[float]] = {LOCAL.name: [], REFERENCE.name: []}

    async def run() -> None:
        for contender in (LOCAL, REFERENCE):  # the first time imports modules and fills caches
            await launch_once(contender)
        for number in range(plan.rounds):
            order = (LOCAL, REFERENCE) if number % 2 else (REFERENCE, LOCAL)
            for contender in order:
                call_seconds, ready_seconds = await launch_once(contender)
                called[contender.name].append(call_seconds)
                ready[contender.name].append(ready_seconds)

    asyncio.run(run())
    yield ratio_row(
        "start_kernel() to the first kernel_info_reply",
        "s",
        (LOCAL.name, ready[LOCAL.name]),
        (REFERENCE.name, ready[REFERENCE.name]),
        1.05,
    )
    yield told("start_kernel() alone (10 ms of it are a sleep of the manager's)", "s", dict(called))


async def launch_once(contender: Contender) -> tuple[float, float]:
    """Return how long the launch call took, and how long it took until the kernel answered."""
    manager = contender.manager()
    begin = time.perf_counter()
    await manager.start_kernel()
    try:
        returned = time.perf_counter()
        client = manager.client()
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        try:
            client.kernel_info()
            await client.get_shell_msg(timeout=120)
            answered = time.perf_counter()
        finally:
            client.stop_channels()
    finally:
        await kill(manager)
    return returned - begin, answered - begin
