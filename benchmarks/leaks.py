"""What is left after many kernels have come and gone."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterable
from pathlib import Path

import psutil
import worker
from contender import LOCAL, REFERENCE, Contender, kill
from measurement import Plan, Row, at_most, measurement, told

NOTHING = ("file descriptors", "sockets", "threads", "processes", "files", "zombies")


@measurement("leaks", rounds=200, quick_rounds=10)
def leaks(plan: Plan) -> Iterable[Row]:
    """What 200 start/shutdown rounds leave behind, every tenth with ipykernel and a graceful shutdown."""
    left = {
        contender.name: worker.call(
            "leaks:leave",
            name=contender.name,
            provisioner=contender.provisioner,
            rounds=plan.rounds,
        )
        for contender in (LOCAL, REFERENCE)
    }
    for what in NOTHING:
        samples = {name: [found[what]] for name, found in left.items()}
        yield at_most(f"{what} left", "", samples, left[LOCAL.name][what], 0, "ours")
    yield told(
        "memory growth per round (USS)",
        "bytes",
        {name: [found["uss"] / plan.rounds] for name, found in left.items()},
    )


def leave(name: str, provisioner: str, rounds: int) -> dict[str, float]:
    """In a process of its own: start and shut down kernels, and return what has grown."""
    return asyncio.run(_leave(Contender(name, provisioner), rounds))


async def _leave(contender: Contender, rounds: int) -> dict[str, float]:
    for number in range(10):  # modules, caches, the first thread pool
        await _round(contender, graceful=number == 0)
    before = _state()
    for number in range(rounds):
        await _round(contender, graceful=number % 10 == 0)
    await asyncio.sleep(0.5)  # a thread that is about to end may
    after = _state()
    return {what: after[what] - before[what] for what in before}


async def _round(contender: Contender, *, graceful: bool) -> None:
    manager = contender.manager(idle=not graceful)
    await manager.start_kernel()
    if not graceful:
        await kill(manager)
        return
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    client.kernel_info()
    await client.get_shell_msg(timeout=120)
    client.stop_channels()
    await manager.shutdown_kernel()


def _state() -> dict[str, float]:
    gc.collect()
    process = psutil.Process()
    children = process.children(recursive=True)
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the listing's own
            continue
    runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
    return {
        "file descriptors": len(targets),
        "sockets": sum(target.startswith("socket:") for target in targets),
        "threads": process.num_threads(),
        "processes": len(children),
        "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
        "files": sum(path.is_file() for path in runtime.rglob("*")),
        "uss": process.memory_full_info().uss,
    }
