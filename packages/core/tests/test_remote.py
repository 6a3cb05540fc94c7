"""The shared remote lifecycle, on a backend of plain processes, under jupyter_client's real managers."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager, KernelManager

from kernel_provisioner_core import KernelExit, KernelNotFoundError, LaunchError, LaunchTimeoutError
from kernel_provisioner_core.conformance import kernel as tiny_kernel
from kernel_provisioner_core.records import read_records

sys.path.insert(0, str(Path(__file__).parent))
from process_backend import DAEMON, ProcessProvisioner

TINY = [sys.executable, tiny_kernel.__file__, "-f", "{connection_file}"]


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield tmp_path / "runtime"
    assert not DAEMON.processes, "a kernel is left"
    assert not [p for p in (tmp_path / "runtime").rglob("*") if p.is_file()], "a file is left"


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a manager with a provisioner of the backend."""
    made = []

    def make(argv=TINY, manager_class=AsyncKernelManager, **options):
        manager = manager_class(connection_file=str(tmp_path / "runtime" / f"k-{len(made)}.json"))
        manager._kernel_spec = KernelSpec(
            argv=argv, display_name="K", language="python", env={"FROM_SPEC": "1"}
        )
        manager.provisioner = ProcessProvisioner(
            kernel_id=f"k-{len(made)}", kernel_spec=manager.kernel_spec, parent=manager, **options
        )
        made.append(manager)
        return manager

    yield make
    for manager in made:
        for step in (manager.provisioner.cleanup, manager.cleanup_resources):
            done = step()
            if asyncio.iscoroutine(done):
                asyncio.run(done)


async def answer(manager, code):
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(60)
        said = []
        await client.execute_interactive(
            code, timeout=60, output_hook=lambda m: said.append(m["content"].get("text", ""))
        )
        return "".join(said).strip()
    finally:
        client.stop_channels()


async def test_a_kernel_lives_and_everything_is_gone_afterwards(make):
    manager = make()
    await manager.start_kernel()
    assert await answer(manager, "print(6*7)") == "42"
    assert [record.kernel_id for record in read_records()] == ["k-0"]
    folder = manager.provisioner._handle["folder"]
    await manager.shutdown_kernel()
    assert not manager.has_kernel
    assert not os.path.exists(folder)


def test_the_blocking_manager_does_it_too(make):
    manager = make(manager_class=KernelManager)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)
    manager.restart_kernel()
    client.wait_for_ready(60)
    client.stop_channels()
    manager.shutdown_kernel()


async def test_the_servers_environment_does_not_reach_the_request(make, monkeypatch):
    monkeypatch.setenv("SERVER_SECRET", "hush")
    manager = make(env={"FROM_OPTION": "${SERVER_SECRET}x"})
    await manager.start_kernel()
    env = manager.provisioner.seen_request.env
    assert env.keys() - {"LANG", "LC_ALL", "TZ", "JPY_SESSION_NAME"} == {"FROM_SPEC", "FROM_OPTION"}
    assert env["FROM_OPTION"] == "hushx"
    await manager.shutdown_kernel(now=True)


async def test_poll_makes_no_request(make):
    manager = make()
    await manager.start_kernel()
    before = DAEMON.requests
    for _ in range(1000):
        assert await manager.provisioner.poll() is None
    assert DAEMON.requests == before
    await manager.shutdown_kernel(now=True)


async def test_wait_is_woken_by_the_end_and_gives_the_code(make):
    manager = make()
    await manager.start_kernel()
    waiting = asyncio.ensure_future(manager.provisioner.wait())
    await asyncio.sleep(0)
    await manager.provisioner.kill()
    assert await asyncio.wait_for(waiting, 30) == -9
    await manager.shutdown_kernel(now=True)


async def test_a_kernel_that_dies_at_its_start_is_an_error_with_its_output(make):
    manager = make(["sh", "-c", "echo no such module; exit 3"])
    with pytest.raises(LaunchError, match="exited with code 3") as info:
        await manager.start_kernel()
    assert info.value.output == "no such module\n"
    assert not manager.has_kernel


async def test_a_kernel_that_never_listens_is_an_error_in_time(make):
    manager = make(["sleep", "60"], launch_timeout=0.5)
    with pytest.raises(LaunchTimeoutError, match=r"does not listen after 0\.5 s"):
        await manager.start_kernel()
    assert not manager.has_kernel


async def test_a_command_that_cannot_be_started_leaves_nothing(make):
    manager = make(["/no/such/kernel"])
    with pytest.raises(LaunchError, match="No such command"):
        await manager.start_kernel()
    assert not manager.has_kernel


async def test_a_restart_is_in_place_with_the_same_ports(make):
    manager = make()
    await manager.start_kernel()
    handle, ports = manager.provisioner._handle, manager.ports
    await manager.restart_kernel()
    assert (manager.provisioner._handle, manager.ports) == (handle, ports)
    assert await answer(manager, "print(6*7)") == "42"
    await manager.shutdown_kernel()


async def test_a_restart_with_another_request_is_made_anew(make):
    manager = make()
    await manager.start_kernel()
    handle = manager.provisioner._handle
    manager.provisioner.env = {"NEW": "1"}
    await manager.restart_kernel()
    assert manager.provisioner._handle != handle
    await manager.shutdown_kernel()


async def test_a_restart_of_what_somebody_has_removed_is_made_anew(make):
    manager = make()
    await manager.start_kernel()
    manager.provisioner.remove(manager.provisioner._handle)
    await asyncio.wait_for(manager.provisioner._liveness.wait(), 30)
    await manager.restart_kernel()
    assert await answer(manager, "print(6*7)") == "42"
    await manager.shutdown_kernel()


async def test_a_launch_cancelled_while_it_creates_leaves_nothing(make, monkeypatch):
    manager = make()
    began, release = threading.Event(), threading.Event()
    create = manager.provisioner.create

    def slow(request):
        began.set()
        assert release.wait(30)
        return create(request)

    monkeypatch.setattr(manager.provisioner, "create", slow)
    start = asyncio.ensure_future(manager.start_kernel())
    await asyncio.get_running_loop().run_in_executor(None, began.wait, 30)
    start.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not manager.has_kernel
    assert not os.path.exists(manager.connection_file)


async def test_a_launch_cancelled_while_the_kernel_starts_leaves_nothing(make):
    manager = make(["sleep", "60"])
    start = asyncio.ensure_future(manager.start_kernel())
    while not DAEMON.processes:
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not manager.has_kernel


async def test_while_the_daemon_is_away_a_kernel_is_not_dead(make):
    manager = make()
    await manager.start_kernel()
    liveness = manager.provisioner._liveness
    DAEMON.leave()
    while not liveness.unknown_seconds:
        await asyncio.sleep(0.01)
    assert await manager.is_alive()
    DAEMON.come_back()
    while liveness.unknown_seconds:
        await asyncio.sleep(0.01)
    assert await answer(manager, "print(6*7)") == "42"
    await manager.shutdown_kernel()


async def test_an_end_that_nobody_saw_is_learned_when_the_daemon_is_back(make):
    manager = make()
    await manager.start_kernel()
    provisioner = manager.provisioner
    DAEMON.leave()
    while not provisioner._liveness.unknown_seconds:
        await asyncio.sleep(0.01)
    process = DAEMON.processes[provisioner._handle["folder"]]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert await manager.is_alive()
    DAEMON.come_back()
    assert await asyncio.wait_for(provisioner.wait(), 30) == -9
    await manager.shutdown_kernel(now=True)


async def test_a_daemon_that_stays_away_too_long_costs_the_kernel(make):
    manager = make(lost_timeout=0.2)
    await manager.start_kernel()
    DAEMON.leave()
    try:
        while await manager.is_alive():
            await asyncio.sleep(0.01)
        assert manager.provisioner.last_exit == KernelExit(None, "out of reach for more than 0.2 s")
    finally:
        DAEMON.come_back()
    await manager.shutdown_kernel(now=True)


async def test_an_unexpected_end_is_kept_with_its_output(make):
    manager = make(["sh", "-c", 'echo hello; exec "$0" "$@"', *TINY])
    await manager.start_kernel()
    os.killpg(DAEMON.processes[manager.provisioner._handle["folder"]].pid, signal.SIGSEGV)
    await manager.provisioner.wait()
    while not manager.provisioner.last_exit.output:
        await asyncio.sleep(0.01)
    assert manager.provisioner.last_exit == KernelExit(-11, output="hello\n")
    await manager.shutdown_kernel(now=True)


async def test_another_provisioner_adopts_and_ends_the_kernel(make):
    manager = make()
    await manager.start_kernel()
    info = await manager.provisioner.get_provisioner_info()
    other = ProcessProvisioner()
    await other.load_provisioner_info(info)
    assert await other.poll() is None
    await other.kill()
    assert await asyncio.wait_for(other.wait(), 30) == -9
    await other.cleanup()
    with pytest.raises(KernelNotFoundError):
        await ProcessProvisioner().load_provisioner_info(info)


async def test_the_graceful_time_is_the_option_else_the_managers(make):
    assert make(stop_timeout=20).provisioner.get_shutdown_wait_time(5) == 20
    assert make().provisioner.get_shutdown_wait_time(5) == 5


async def test_twenty_kernels_share_one_watch(make):
    before = [t.name for t in threading.enumerate()].count("kernel-watch")
    managers = [make() for _ in range(20)]
    await asyncio.gather(*[manager.start_kernel() for manager in managers])
    assert [t.name for t in threading.enumerate()].count("kernel-watch") == before + 1
    await asyncio.gather(*[manager.shutdown_kernel(now=True) for manager in managers])
