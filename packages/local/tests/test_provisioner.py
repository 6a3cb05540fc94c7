"""LocalProvisioner under jupyter_client's real managers, with ipykernel and with plain commands."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager, KernelManager

from kernel_provisioner_core import (
    CommandNotFoundError,
    ConfigurationError,
    KernelExit,
    KernelNotFoundError,
    LaunchError,
    SignalError,
)
from kernel_provisioner_core.records import read_records, records_dir
from kernel_provisioner_local import LocalProvisioner

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="written for POSIX processes")

IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path, monkeypatch):
    """Keep connection files and records apart; nothing may be left in it."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield folder
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert not left, "files are left in the runtime directory"


@pytest.fixture
def make(runtime_dir):
    """Return a function that makes a manager whose kernel LocalProvisioner provisions."""
    made = []

    def make(argv=None, manager_class=AsyncKernelManager, **options):
        number = len(made)
        manager = manager_class(connection_file=str(runtime_dir / f"kernel-{number}.json"))
        stanza = {"provisioner_name": "kernel-provisioner-local", "config": options}
        metadata = {"kernel_provisioner": stanza, "supported_encryption": "curve"}
        manager._kernel_spec = KernelSpec(
            argv=argv or IPYKERNEL, display_name="K", language="python", metadata=metadata
        )
        manager.shutdown_wait_time = 20.0
        made.append(manager)
        return manager

    yield make
    for manager in made:
        steps = [partial(manager.shutdown_kernel, now=True)] if manager.has_kernel else []
        for step in (*steps, manager.cleanup_resources):  # the last closes the manager's sockets
            done = step()
            if asyncio.iscoroutine(done):
                asyncio.run(done)


async def run(manager, code):
    """Execute code with a client of its own; return what it printed."""
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(60)
        printed = []

        def collect(message):
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await client.execute_interactive(code, output_hook=collect, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)
    finally:
        client.stop_channels()


async def ended(provisioner):
    """Wait for the end without collecting it, as a restarter's polling would find it."""
    await asyncio.wait_for(provisioner._process.wait(), 60)


async def test_a_kernel_runs_and_is_gone_after_its_shutdown(make, runtime_dir):
    manager = make()
    await manager.start_kernel()
    assert isinstance(manager.provisioner, LocalProvisioner)
    assert await run(manager, "print(6*7)") == "42\n"
    pid = manager.provisioner._process.pid
    await manager.shutdown_kernel()
    assert not manager.has_kernel
    assert manager.provisioner.last_exit == KernelExit(0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert read_records() == []


def test_the_blocking_manager_starts_restarts_and_stops_a_kernel(make):
    manager = make(manager_class=KernelManager)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(60)
    manager.restart_kernel()
    client.wait_for_ready(60)
    assert client.execute_interactive("1", timeout=60)["content"]["status"] == "ok"
    client.stop_channels()
    manager.shutdown_kernel()
    assert not manager.is_alive()


async def test_the_environment_option_comes_on_top(make, monkeypatch):
    monkeypatch.setenv("BASE", "base")
    manager = make(env={"A": "${BASE}/a"})
    await manager.start_kernel()
    assert (
        await run(manager, "import os; print(os.environ['A'], os.environ['BASE'])")
        == "base/a base\n"
    )
    await manager.shutdown_kernel(now=True)


async def test_the_working_directory_option_wins(make, tmp_path):
    manager = make(working_dir=str(tmp_path))
    await manager.start_kernel(cwd="/")
    assert await run(manager, "import os; print(os.getcwd())") == f"{tmp_path}\n"
    await manager.shutdown_kernel(now=True)


async def test_paths_are_resolved_from_the_working_directory(make, tmp_path):
    (tmp_path / "code.py").touch()
    manager = make(["sleep", "60"])
    assert LocalProvisioner().resolve_path("code.py") is None
    await manager.start_kernel(cwd=str(tmp_path))
    assert manager.resolve_path("code.py") == str(tmp_path / "code.py")
    assert manager.resolve_path(str(tmp_path / "code.py")) == str(tmp_path / "code.py")
    assert manager.resolve_path("missing.py") is None
    await manager.shutdown_kernel(now=True)


# -- how it ends


async def test_a_crash_is_reported_with_its_reason(make, caplog):
    manager = make(["sleep", "60"])
    manager.log = logging.getLogger("test")
    await manager.start_kernel()
    os.kill(manager.provisioner._process.pid, signal.SIGSEGV)
    await ended(manager.provisioner)
    assert not await manager.is_alive()
    assert await manager.provisioner.poll() == -signal.SIGSEGV
    assert "killed by SIGSEGV" in caplog.text
    await manager.shutdown_kernel(now=True)


async def test_an_end_that_was_asked_for_is_not_reported(make, caplog):
    manager = make(["sleep", "60"])
    manager.log = logging.getLogger("test")
    await manager.start_kernel()
    await manager.provisioner.kill()
    await ended(manager.provisioner)
    await manager.shutdown_kernel(now=True)
    assert manager.provisioner.last_exit == KernelExit(-9)
    assert "killed" not in caplog.text


async def test_an_out_of_memory_kill_is_named(make, hungry):
    manager = make(hungry)
    await manager.start_kernel()
    await ended(manager.provisioner)
    await manager.provisioner.poll()
    assert manager.provisioner.last_exit.reason == "killed by SIGKILL, likely out of memory"
    await manager.shutdown_kernel(now=True)


async def test_a_kernel_that_dies_at_once_says_why(make):
    manager = make(["sh", "-c", "echo cannot find my library >&2; exit 3"], capture_output=True)
    await manager.start_kernel()
    provisioner = manager.provisioner
    await ended(provisioner)
    assert await provisioner.poll() == 3
    assert provisioner.last_exit == KernelExit(3, output="cannot find my library\n")
    assert provisioner.get_logs() == "cannot find my library\n"
    await manager.shutdown_kernel(now=True)


async def test_the_key_is_taken_out_of_captured_output(make):
    manager = make(["cat", "{connection_file}"], capture_output=True)
    await manager.start_kernel()
    provisioner = manager.provisioner
    await ended(provisioner)
    await provisioner.poll()
    assert '"key": "[key]"' in provisioner.last_exit.output
    assert '"key": "[key]"' in provisioner.get_logs()
    await manager.shutdown_kernel(now=True)


def test_logs_that_are_not_captured_are_refused_with_the_cure():
    with pytest.raises(ConfigurationError, match="not captured") as info:
        LocalProvisioner(kernel_id="k").get_logs()
    assert '"capture_output": true' in info.value.hint


async def test_an_independent_kernels_output_is_not_captured(make):
    manager = make(["sleep", "60"], capture_output=True)
    with pytest.raises(ConfigurationError, match="independent"):
        await manager.start_kernel(independent=True, stdout=subprocess.DEVNULL)


async def test_wait_returns_the_code_to_everybody_and_again(make):
    manager = make(["sh", "-c", "exit 3"])
    await manager.start_kernel()
    provisioner = manager.provisioner
    assert (
        await asyncio.wait_for(asyncio.gather(*[provisioner.wait() for _ in range(3)]), 60)
        == [3] * 3
    )
    assert not provisioner.has_process
    assert await provisioner.wait() == 3
    assert await provisioner.poll() == 3
    await provisioner.cleanup()


async def test_signals_to_a_dead_kernel_are_silent(make):
    manager = make(["true"])
    await manager.start_kernel()
    provisioner = manager.provisioner
    for step in (ended, LocalProvisioner.wait):
        await step(provisioner)
        await provisioner.send_signal(signal.SIGINT)
        await provisioner.terminate()
        await provisioner.kill()
    await provisioner.cleanup()


async def test_a_kernel_of_another_user_cannot_be_signalled_but_a_shutdown_goes_on(
    make, monkeypatch, caplog
):
    manager = make(["sleep", "60"])
    manager.log = logging.getLogger("test")
    await manager.start_kernel()
    provisioner = manager.provisioner

    def refuse(pid, signum):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", refuse)
        with pytest.raises(SignalError, match="belongs to another user") as info:
            await provisioner.send_signal(signal.SIGINT)
        assert "interrupt_mode" in info.value.hint
        manager.shutting_down = True
        await provisioner.send_signal(signal.SIGINT)
    assert "belongs to another user" in caplog.text
    await manager.shutdown_kernel(now=True)


async def test_cleanup_ends_a_kernel_that_still_runs(make):
    manager = make(["sleep", "60"])
    await manager.start_kernel()
    pid = manager.provisioner._process.pid
    await manager.provisioner.cleanup()
    assert not manager.has_kernel
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_only_the_final_cleanup_removes_anything(make, runtime_dir):
    manager = make(["sleep", "60"], capture_output=True)
    await manager.start_kernel()
    provisioner = manager.provisioner
    files = {path for path in runtime_dir.rglob("*") if path.is_file()}
    assert len(files) == 3  # connection file, record, log
    await provisioner.shutdown_requested()
    await provisioner.terminate()
    await provisioner.kill()
    await provisioner.wait()
    await provisioner.cleanup(restart=True)
    assert {path for path in runtime_dir.rglob("*") if path.is_file()} == files
    await provisioner.cleanup()
    assert not [path for path in runtime_dir.rglob("*") if path.is_file()]


# -- launches that fail


async def test_a_missing_command_leaves_nothing_and_the_manager_can_start_again(make):
    manager = make(["no-such-kernel"])
    with pytest.raises(
        CommandNotFoundError, match="'no-such-kernel' does not exist on the PATH"
    ) as info:
        await manager.start_kernel()
    assert info.value.kernel_id == manager.kernel_id
    assert not manager.has_kernel
    assert not os.path.exists(manager.connection_file)
    manager.kernel_spec.argv = ["sleep", "60"]
    await manager.start_kernel()
    assert await manager.is_alive()
    await manager.shutdown_kernel(now=True)


async def test_a_second_launch_of_a_running_kernel_is_refused(make):
    manager = make(["sleep", "60"])
    await manager.start_kernel()
    launch = await manager.provisioner.pre_launch(**{})
    with pytest.raises(LaunchError, match="still runs"):
        await manager.provisioner.launch_kernel(**launch)
    assert await manager.is_alive()
    await manager.shutdown_kernel(now=True)


async def test_a_record_that_cannot_be_written_stops_no_launch(make, runtime_dir, caplog):
    manager = make(["sleep", "60"])
    manager.log = logging.getLogger("test")
    runtime_dir.mkdir()
    records_dir().touch()  # a file where the directory would be
    await manager.start_kernel()
    assert "will not list kernel" in caplog.text
    await manager.shutdown_kernel(now=True)
    records_dir().unlink()


# -- another process takes over


SERVER = """
import asyncio, json, subprocess, sys
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

async def main():
    manager = AsyncKernelManager(connection_file=sys.argv[1])
    stanza = {"kernel_provisioner": {"provisioner_name": "kernel-provisioner-local"}}
    manager._kernel_spec = KernelSpec(argv=sys.argv[2:], display_name="K", language="python", metadata=stanza)
    await manager.start_kernel(independent=True, stdout=subprocess.DEVNULL)
    print(json.dumps(await manager.provisioner.get_provisioner_info()), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def orphan(runtime_dir):
    """Return the info of an independent kernel whose server was killed."""
    command = [sys.executable, "-c", SERVER, str(runtime_dir / "kernel-orphan.json"), *IPYKERNEL]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    info = json.loads(server.stdout.readline())
    server.kill()
    server.wait()
    server.stdout.close()  # the kernel has the other end too: there is no end of file to wait for
    return info


async def test_a_fresh_process_adopts_talks_to_restarts_and_ends_a_kernel(orphan, make):
    manager = make()
    manager.provisioner = provisioner = LocalProvisioner(
        parent=manager, kernel_spec=manager.kernel_spec
    )
    await provisioner.load_provisioner_info(orphan)
    assert provisioner.has_process
    assert await provisioner.poll() is None
    # what start_kernel leaves on a manager; there is no public way to tell it of a running kernel
    manager._launch_args, manager._attempted_start = {}, True
    assert int(await run(manager, "import os; print(os.getpid())")) == orphan["process"]["pid"]
    ports = manager.ports
    await manager.restart_kernel()
    assert manager.ports == ports
    assert int(await run(manager, "import os; print(os.getpid())")) != orphan["process"]["pid"]
    await manager.shutdown_kernel()
    assert not os.path.exists(manager.connection_file)


async def test_the_end_of_an_adopted_kernel_is_noticed(orphan):
    provisioner = LocalProvisioner()
    await provisioner.load_provisioner_info(orphan)
    await provisioner.kill()
    assert await asyncio.wait_for(provisioner.wait(), 60) == 255
    assert "only the process that started it" in provisioner.last_exit.reason
    await provisioner.cleanup()


async def test_a_kernel_that_is_gone_is_not_adopted(orphan):
    os.kill(orphan["process"]["pid"], signal.SIGKILL)
    provisioner = LocalProvisioner()
    while Path(f"/proc/{orphan['process']['pid']}").exists():
        await asyncio.sleep(0.01)
    with pytest.raises(KernelNotFoundError):
        await provisioner.load_provisioner_info(orphan)
    assert not provisioner.has_process
    await provisioner.cleanup()


async def test_another_process_with_the_same_pid_is_not_adopted_and_not_harmed(orphan):
    other = subprocess.Popen(["sleep", "60"])
    info = {**orphan, "process": {**orphan["process"], "pid": other.pid}}
    with pytest.raises(KernelNotFoundError):
        await LocalProvisioner().load_provisioner_info(info)
    assert other.poll() is None
    other.kill()
    other.wait()
    provisioner = LocalProvisioner()
    await provisioner.load_provisioner_info(orphan)
    await provisioner.cleanup()


async def test_an_info_without_a_process_is_refused():
    with pytest.raises(ConfigurationError, match="names no process"):
        await LocalProvisioner().load_provisioner_info({"kernel_id": "k", "connection_info": {}})


# -- encryption and ports


async def test_an_encrypted_kernel_answers_and_keeps_its_keys(make):
    manager = make()
    await manager.start_kernel(transport_encryption="required")
    keys = manager.curve_publickey, manager.curve_secretkey
    assert keys[0]
    assert await run(manager, "print(6*7)") == "42\n"
    await manager.restart_kernel()
    assert (manager.curve_publickey, manager.curve_secretkey) == keys
    assert await run(manager, "print(6*7)") == "42\n"
    await manager.shutdown_kernel()


async def test_ten_restarts_in_a_row_come_back_on_the_same_ports(make):
    manager = make(
        [
            sys.executable,
            "-m",
            "kernel_provisioner_core.conformance.kernel",
            "-f",
            "{connection_file}",
        ]
    )
    await manager.start_kernel()
    ports = manager.ports
    for _ in range(10):
        await run(manager, "1")
        await manager.restart_kernel(now=True, newports=True)
        assert manager.ports == ports
    await manager.shutdown_kernel()
