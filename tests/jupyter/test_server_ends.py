"""The end of a server, by request and by force, and of a kernel that nobody uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil
import pytest
from backends import Backend, Instance
from frontend import Frontend
from server_process import LIMIT, Directories, Server

Start = Callable[..., Server]
Connect = Callable[[Server], Frontend]


def wait_until_ended(instances: list[Instance]) -> None:
    """Wait for the end of processes that are none of ours to wait for by the operating system's means."""
    processes = [instance.process for instance in instances]  # type: ignore[attr-defined]
    _, alive = psutil.wait_procs(processes, timeout=LIMIT)
    assert not alive


async def test_a_server_that_is_terminated_takes_its_kernels_along(
    start_server: Start, connect: Connect, backend: Backend
) -> None:
    server = start_server()
    frontend = connect(server)
    ids = [await frontend.start("good") for _ in range(2)]
    await frontend.execute(ids[0], "print(1)")
    assert all(backend.find(kernel_id) for kernel_id in ids)
    server.terminate()
    for kernel_id in ids:
        assert backend.leftovers(kernel_id, server.runtime_dir) == []


@pytest.mark.claims("parent-poller")
async def test_a_kernel_ends_by_itself_when_its_server_is_killed(
    start_server: Start, connect: Connect, backend: Backend
) -> None:
    server = start_server()
    frontend = connect(server)
    kernel_id = await frontend.start("good")
    await frontend.execute(kernel_id, "print(1)")
    instances = backend.find(kernel_id)
    assert instances
    server.kill()
    wait_until_ended(instances)


async def test_what_a_killed_server_has_left_behind_disturbs_no_new_one(
    start_server: Start, connect: Connect, backend: Backend
) -> None:
    killed = start_server()
    kernel_id = await connect(killed).start("good")
    killed.kill()
    server = start_server()
    frontend = connect(server)
    async with frontend.kernel("good") as another_id:
        assert (await frontend.execute(another_id, "print(6 * 7)")).stdout == "42\n"
    for instance in backend.find(kernel_id):
        instance.kill()


async def test_an_idle_kernel_is_culled(
    start_server: Start, connect: Connect, backend: Backend, directories: Directories
) -> None:
    server = start_server(
        "--MappingKernelManager.cull_idle_timeout=1", "--MappingKernelManager.cull_interval=1"
    )
    frontend = connect(server)
    kernel_id = await frontend.start("good")
    server.log.wait_for(f"Culling .*{kernel_id}")
    await frontend.disappeared(kernel_id)
    assert backend.leftovers(kernel_id, directories.runtime) == []


@pytest.mark.claims("quick-launch")
async def test_nothing_is_left_of_a_kernel_that_the_server_has_given_up(
    start_server: Start, connect: Connect, backend: Backend, directories: Directories
) -> None:
    """After five restarts in vain jupyter_server forgets a kernel, and calls its provisioner no more."""
    directories.write_spec("dying", backend.kernel_json(argv=["sh", "-c", "exit 3"]))
    server = start_server("--KernelRestarter.time_to_dead=0.2")
    frontend = connect(server)
    kernel_id = await frontend.start("dying")
    server.log.wait_for(f"Kernel {kernel_id} died, removing from map")
    await frontend.disappeared(kernel_id)
    # the provisioner cleans up in a thread of its own, told by nobody but the restarter
    deadline = time.monotonic() + LIMIT
    left: list[object] = [kernel_id]
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        left = [*psutil.Process(server.process.pid).children()]
        left += backend.leftovers(kernel_id, directories.runtime)
    assert left == []
