"""How long after the end of a kernel `wait()` returns.

Another process watches the kernel by a pidfd of its own and tells when it has ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterable

import worker
from contender import LOCAL, REFERENCE, Contender, pid_of, undisturbed
from measurement import Plan, Row, Samples, at_most, measurement, told

LIMIT = 0.010


@measurement("exit", rounds=100, quick_rounds=5)
def exit_notice(plan: Plan) -> Iterable[Row]:
    """From a kernel's end to the return of wait()."""
    late: dict[str, list[float]] = {LOCAL.name: [], REFERENCE.name: []}
    with undisturbed():
        watcher = worker.start("exit_notice:watch")
    dice = random.Random(1)

    async def run() -> None:
        for number in range(plan.rounds):
            order = (LOCAL, REFERENCE) if number % 2 else (REFERENCE, LOCAL)
            for contender in order:
                late[contender.name].append(await wait_once(contender, watcher, dice))

    try:
        with undisturbed():
            asyncio.run(run())
    finally:
        watcher.communicate(timeout=10)
    yield at_most(
        "wait() after a kill -9",
        "s",
        dict(late),
        Samples(late[LOCAL.name]).percentile(95),
        LIMIT,
        "95th percentile of ours",
    )
    yield told(
        "share of rounds over 10 ms",
        "",
        {name: [sum(v > LIMIT for v in values) / len(values)] for name, values in late.items()},
    )


async def wait_once(
    contender: Contender, watcher: subprocess.Popen[str], dice: random.Random
) -> float:
    """Return the seconds from the exit, as the watcher saw it, to the return of wait()."""
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    manager = contender.manager(idle=True)
    await manager.start_kernel()
    pid = pid_of(manager)
    watcher.stdin.write(f"{pid}\n")
    watcher.stdin.flush()
    watcher.stdout.readline()
    waiting = asyncio.ensure_future(manager.provisioner.wait())
    await asyncio.sleep(0.02 + dice.random() * 0.1)  # a poll every 0.1 s is met at any phase
    os.kill(pid, 9)
    await waiting
    returned = time.clock_gettime(time.CLOCK_MONOTONIC)
    ended = float(watcher.stdout.readline())
    await manager.provisioner.cleanup()
    await manager.cleanup_resources()
    # both were woken by the same event, and either may be first
    return max(0.0, returned - ended)


def watch() -> None:
    """The other process: a pid comes in, a line when it is watched, and the time when it has ended."""
    for line in sys.stdin:
        pidfd = os.pidfd_open(int(line))
        print("watched", flush=True)
        select.select([pidfd], [], [])
        print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
        os.close(pidfd)
