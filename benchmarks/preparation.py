"""What the provisioner itself takes: `pre_launch` and `launch_kernel`, called by a real manager."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterable
from typing import Any

from contender import LOCAL, REFERENCE, Contender, kill, undisturbed
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from measurement import Plan, Row, measurement, ratio_row, told

STEPS = ("pre_launch", "launch_kernel", "post_launch")


@measurement("preparation", rounds=400, quick_rounds=20)
def preparation(plan: Plan) -> Iterable[Row]:
    """pre_launch + launch_kernel alone, in turn, a command that does nothing."""
    taken: dict[str, list[dict[str, float]]] = {LOCAL.name: [], REFERENCE.name: []}

    async def run() -> None:
        for number in range(plan.rounds + 5):
            order = (LOCAL, REFERENCE) if number % 2 else (REFERENCE, LOCAL)
            for contender in order:
                gc.collect()  # of what the round before has left, not in the middle of this one
                seconds = await launch_once(contender)
                if number >= 5:  # the first ones fill caches
                    taken[contender.name].append(seconds)

    with undisturbed():
        asyncio.run(run())

    def of(contender: Contender, *steps: str) -> tuple[str, list[float]]:
        return contender.name, [sum(one[s] for s in steps) for one in taken[contender.name]]

    yield ratio_row(
        "pre_launch + launch_kernel",
        "s",
        of(LOCAL, "pre_launch", "launch_kernel"),
        of(REFERENCE, "pre_launch", "launch_kernel"),
        0.7,
    )
    yield ratio_row(
        "the same and post_launch, which the kernel's own start covers",
        "s",
        of(LOCAL, *STEPS),
        of(REFERENCE, *STEPS),
        None,
    )
    for step in STEPS:
        yield told(f"{step} alone", "s", dict((of(LOCAL, step), of(REFERENCE, step))))


async def launch_once(contender: Contender) -> dict[str, float]:
    """Return how long each step took."""
    manager = contender.manager(idle=True)
    seconds: dict[str, float] = {}
    # made here and not by start_kernel, so that there is something to put the clocks on
    provisioner = KernelProvisionerFactory.instance().create_provisioner_instance(
        manager.kernel_id, manager.kernel_spec, parent=manager
    )
    manager.provisioner = provisioner
    for step in STEPS:
        setattr(provisioner, step, _timed(getattr(provisioner, step), step, seconds))
    await manager.start_kernel()
    await kill(manager)
    return seconds


def _timed(method: Any, name: str, seconds: dict[str, float]) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return await method(*args, **kwargs)
        finally:
            seconds[name] = time.perf_counter() - begin

    return call
