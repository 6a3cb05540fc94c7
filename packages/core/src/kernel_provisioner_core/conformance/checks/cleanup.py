"""Cleaning up: completely, in every order, and twice."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from kernel_provisioner_core.conformance.bench import KILL_LIMIT, Bench, Kernel
from kernel_provisioner_core.conformance.check import Level, check, expect, silently


@check("cleanup.leaves_nothing")
async def leaves_nothing(bench: Bench) -> None:
    """After a shutdown nothing of the kernel is left: no process, container, pod or tunnel.

    If it fails: the message names what was left; remove it in `cleanup(restart=False)`.
    """
    for now in (False, True):
        kernel = await bench.start()
        await kernel.shutdown(now=now)
        await kernel.gone(5, f"shutdown_kernel(now={now})")


@check("cleanup.no_file")
async def no_file(bench: Bench) -> None:
    """After a shutdown no file with the kernel's key is left in the Jupyter directories.

    If it fails: remove what you wrote in `cleanup(restart=False)`; the manager removes only the
    connection file that it wrote itself.
    """
    kernel = await bench.start()
    secrets = kernel.secrets
    await kernel.shutdown()
    files = files_with(bench.directory, secrets)
    names = ", ".join(str(path.relative_to(bench.directory)) for path in files)
    expect(not files, f"the key is still in {names}")


def files_with(directory: Path, secrets: list[str]) -> list[Path]:
    """The files below the directory in which one of the secrets stands."""
    found = []
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except OSError:
                continue
            if any(secret.encode() in content for secret in secrets):
                found.append(path)
    return found


@check("cleanup.twice")
async def twice(bench: Bench) -> None:
    """`cleanup` may be called again after itself.

    If it fails: what is removed already needs no removing.
    """
    kernel = await bench.start()
    await kernel.shutdown()
    for restart in (False, True, False):
        await silently(
            kernel.provisioner.cleanup(restart=restart), f"another cleanup(restart={restart})"
        )


@check("cleanup.unreaped")
async def unreaped(bench: Bench) -> None:
    """`cleanup(restart=False)` may come after `kill` without a `wait` and without a `poll`.

    If it fails: the manager goes on to `cleanup` when its time limits have run out.
    """
    kernel = await bench.start()
    await silently(kernel.provisioner.kill(restart=False), "kill()")
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup() after kill()")
    await kernel.ended(KILL_LIMIT, "kill() and cleanup()")


_Act = Callable[[Kernel], Awaitable[object]]

_ACTS: dict[str, _Act] = {
    "signal": lambda kernel: kernel.provisioner.send_signal(2),
    "terminate": lambda kernel: kernel.provisioner.terminate(restart=False),
    "kill": lambda kernel: kernel.provisioner.kill(restart=False),
    "poll": lambda kernel: kernel.provisioner.poll(),
    "wait": lambda kernel: kernel.provisioner.wait(),
    "shutdown_requested": lambda kernel: kernel.provisioner.shutdown_requested(restart=False),
    "cleanup": lambda kernel: kernel.provisioner.cleanup(restart=False),
    "cleanup for restart": lambda kernel: kernel.provisioner.cleanup(restart=True),
}

_ORDERS = (
    ("kill", "wait", "cleanup for restart", "cleanup", "poll", "signal", "kill", "terminate"),
    ("terminate", "kill", "cleanup", "wait", "poll", "cleanup", "shutdown_requested"),
    ("cleanup for restart", "kill", "wait", "cleanup", "signal", "wait"),
)


@check("cleanup.orders")
async def orders(bench: Bench) -> None:
    """`cleanup` may come before, between and after the other calls, and these after it: none
    raises, none hangs, and nothing is left.

    If it fails: a shutdown that a time limit or an error cut short goes on with the next call.
    """
    for order in _ORDERS:
        kernel = await bench.start()
        for at, name in enumerate(order):
            what = f"{name}() after {', '.join(order[:at])}" if at else f"{name}()"
            await silently(_ACTS[name](kernel), what, 8)
        await kernel.gone(5, ", ".join(order))


@check("cleanup.of_running", Level.SHOULD)
async def of_running(bench: Bench) -> None:
    """`cleanup(restart=False)` of a kernel that still runs is silent and leaves nothing.

    If it fails: there will be no other call; what is not ended now runs for ever.
    """
    kernel = await bench.start()
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup() of a running kernel")
    await kernel.gone(5, "cleanup() of a running kernel")


@check("cleanup.crashed", Level.SHOULD)
async def crashed(bench: Bench) -> None:
    """`cleanup(restart=False)` of a kernel that crashed leaves nothing, not even a zombie.

    If it fails: nobody has waited for the process; do it here at the latest.
    """
    kernel = await bench.start()
    await kernel.left()  # so that the probe knows the process when it is a zombie
    await kernel.crash()
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup() after a crash")
    await kernel.gone(5, "cleanup() after a crash")
