"""Options and life of kernels in containers, on a real engine."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kernel_provisioner_core import ConfigurationError
from kernel_provisioner_core.records import read_records
from kernel_provisioner_docker import DockerProvisioner
from kernel_provisioner_docker.client import EngineAddress

sys.path.insert(0, str(Path(__file__).parent))
from kernel_containers import ENGINE, IMAGE, IPYKERNEL, containers_of

pytestmark = [
    pytest.mark.needs("docker"),
    # the SDK leaves it to the interpreter to close connections that broke
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def test_an_images_own_kernel_runs_unmodified(make, answer, engine, runtime_dir):
    manager = make(IPYKERNEL)
    await manager.start_kernel()
    assert await answer(manager, "print(6*7)") == "42"
    (container,) = containers_of(engine, manager)
    described = json.dumps(engine.inspect_container(container))
    assert manager.session.key.decode() not in described
    host = engine.inspect_container(container)["HostConfig"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    published = [b[0]["HostIp"] for b in host["PortBindings"].values()]
    assert published == ["127.0.0.1"] * 5
    await manager.shutdown_kernel()
    assert not containers_of(engine, manager)
    assert not read_records()


@pytest.mark.parametrize(
    ("image", "options", "who"),
    [
        ("test", {}, "0 0"),
        ("nonroot", {}, "1000 100"),
        ("nonroot", {"user": "root"}, "0 0"),
        ("nonroot", {"user": "jovyan:users"}, "1000 100"),
        ("test", {"user": "4711:42"}, "4711 42"),
        ("nohome", {}, "1001 1001"),
        ("noshell", {}, "0 0"),
    ],
)
async def test_the_kernel_runs_as_any_user_and_alone_can_read_its_connection_file(
    make, answer, image, options, who
):
    manager = make(IPYKERNEL, image, **options)
    await manager.start_kernel()
    code = (
        "import os; s = [os.stat(p) for p in ('/.kernel-provisioner', '/.kernel-provisioner/connection.json')]\n"
        "print(os.getuid(), os.getgid(), *[oct(x.st_mode & 0o777) for x in s], {x.st_uid for x in s})"
    )
    said = await answer(manager, code)
    assert said == f"{who} 0o700 0o600 {{{who.split()[0]}}}"
    await manager.shutdown_kernel(now=True)


async def test_nothing_is_writable_and_no_capability_is_left_if_so_wanted(make, answer, engine):
    manager = make(
        IPYKERNEL,
        "nonroot",
        read_only=True,
        cap_drop=["ALL"],
        mounts=[
            {"type": "tmpfs", "target": "/tmp"},
            {"type": "tmpfs", "target": "/home/jovyan", "size": "64m"},
        ],
    )
    await manager.start_kernel()
    code = (
        "print(open('/proc/self/status').read().split('CapBnd:')[1].split()[0])\n"
        "try: open('/opt/x', 'w')\nexcept OSError as e: print(e.strerror)"
    )
    assert await answer(manager, code) == f"{'0' * 16}\nRead-only file system"
    (container,) = containers_of(engine, manager)
    mounts = engine.inspect_container(container)["Mounts"]
    (volume,) = [m["Name"] for m in mounts if m["Type"] == "volume"]
    await manager.shutdown_kernel(now=True)
    assert volume not in {v["Name"] for v in engine.volumes()["Volumes"] or ()}


async def test_the_notebooks_directory_is_mounted_by_one_word(make, answer, tmp_path):
    (tmp_path / "data.txt").write_text("from the server")
    manager = make(mounts=["cwd"])
    await manager.start_kernel(cwd=str(tmp_path))
    assert await answer(manager, "print(open('data.txt').read())") == "from the server"
    provisioner = manager.provisioner
    assert provisioner.resolve_path("data.txt") == str(tmp_path / "data.txt")
    assert provisioner.resolve_path("/etc/passwd") is None
    await manager.shutdown_kernel(now=True)


async def test_options_reach_the_container(make, answer, engine):
    manager = make(
        working_dir="/usr/share",
        env={"GREETING": "hello"},
        labels={"team": "physics"},
        extra_hosts={"db": "10.0.0.5"},
        resources={"cpu": 0.5, "memory": "512m"},
        extra_create={"Hostname": "lab"},
    )
    await manager.start_kernel()
    code = (
        "import os, socket\n"
        "print(os.getcwd(), os.environ['GREETING'], socket.gethostname(), socket.gethostbyname('db'))"
    )
    assert await answer(manager, code) == "/usr/share hello lab 10.0.0.5"
    (container,) = containers_of(engine, manager)
    found = engine.inspect_container(container)
    assert found["Config"]["Labels"]["team"] == "physics"
    assert found["HostConfig"]["NanoCpus"] == 500_000_000
    assert found["HostConfig"]["Memory"] == 512 << 20
    await manager.shutdown_kernel(now=True)


async def test_a_kernel_joins_a_network(make, answer, engine):
    name = f"kernel-provisioners-test-{os.getpid()}"
    network = engine.create_network(name, driver="bridge")["Id"]
    try:
        manager = make(network=name)
        await manager.start_kernel()
        assert await answer(manager, "print(6*7)") == "42"
        (container,) = containers_of(engine, manager)
        joined = engine.inspect_container(container)["NetworkSettings"]["Networks"]
        assert set(joined) == {name}
        await manager.shutdown_kernel(now=True)
    finally:
        engine.remove_network(network)


async def test_without_an_init_the_kernel_is_interrupted_by_a_command(make, answer):
    manager = make(IPYKERNEL, init=False)
    await manager.start_kernel()
    begun = time.monotonic()
    running = asyncio.ensure_future(
        answer(manager, "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('stop')")
    )
    await _until_busy(manager)
    await manager.interrupt_kernel()
    assert await running == "stop"
    assert time.monotonic() - begun < 50
    await manager.shutdown_kernel(now=True)


async def test_a_restart_keeps_container_files_and_ports(make, answer, engine):
    manager = make()
    await manager.start_kernel()
    await answer(manager, "open('/tmp/kept', 'w').write('kept')")
    before, ports = containers_of(engine, manager), manager.ports
    await manager.restart_kernel(now=True)
    assert await answer(manager, "print(open('/tmp/kept').read())") == "kept"
    assert (containers_of(engine, manager), manager.ports) == (before, ports)
    await manager.shutdown_kernel(now=True)


async def test_a_restart_with_other_options_makes_a_fresh_container(make, answer, engine):
    manager = make()
    await manager.start_kernel()
    before = containers_of(engine, manager)
    manager.provisioner.image = f"{IMAGE}:nonroot"
    await manager.restart_kernel(now=True)
    assert await answer(manager, "import os; print(os.getuid())") == "1000"
    (after,) = containers_of(engine, manager)
    assert [after] != before
    await manager.shutdown_kernel(now=True)


async def test_a_restart_takes_an_image_that_was_built_anew(make, answer, engine):
    name = f"kernel-provisioners-test:{os.getpid()}"
    engine.tag(f"{IMAGE}:test", *name.split(":"))
    try:
        manager = make(image=name)
        await manager.start_kernel()
        before = containers_of(engine, manager)
        engine.tag(f"{IMAGE}:nonroot", *name.split(":"))
        await manager.restart_kernel(now=True)
        assert await answer(manager, "import os; print(os.getuid())") == "1000"
        assert containers_of(engine, manager) != before
        await manager.shutdown_kernel(now=True)
    finally:
        engine.remove_image(name)


async def test_the_exit_code_is_the_kernels_own(make, answer):
    manager = make(IPYKERNEL)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(60)
    client.execute("import os; print('last words', flush=True); os._exit(3)")
    assert await asyncio.wait_for(manager.provisioner.wait(), 60) == 3
    client.stop_channels()
    assert manager.provisioner.last_exit.code == 3
    await manager.shutdown_kernel(now=True)


async def test_want_of_memory_is_named(make):
    manager = make(IPYKERNEL, resources={"memory": "128m"})
    manager.provisioner.extra_create = {"HostConfig": {"MemorySwap": 128 << 20}}
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(60)
    client.execute("b = bytearray(600 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1")
    assert await asyncio.wait_for(manager.provisioner.wait(), 60) == -9
    client.stop_channels()
    assert "out of memory" in manager.provisioner.last_exit.reason
    await manager.shutdown_kernel(now=True)


async def test_want_of_memory_of_a_child_is_not_the_kernels(make, answer):
    manager = make(IPYKERNEL, resources={"memory": "160m"})
    manager.provisioner.extra_create = {"HostConfig": {"MemorySwap": 160 << 20}}
    await manager.start_kernel()
    child = "import sys; b = bytearray(600 << 20); [b.__setitem__(i, 1) for i in range(0, len(b), 4096)]"
    code = (
        "import subprocess, sys\n"
        "open('/proc/self/oom_score_adj', 'w').write('0')\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    )
    assert await answer(manager, code) == "-9"
    await manager.provisioner.send_signal(signal.SIGTERM)
    await asyncio.wait_for(manager.provisioner.wait(), 60)
    assert "out of memory" not in manager.provisioner.last_exit.reason
    await manager.shutdown_kernel(now=True)


# -- requests


@pytest.mark.timeout(300)
async def test_idle_kernels_make_no_requests(make, proxy):
    counted, managers = [], []
    for kernels in (1, 19):
        managers += (new := [make(host=proxy.url) for _ in range(kernels)])
        await asyncio.gather(*(manager.start_kernel() for manager in new))
        before = len(proxy.requests)
        for _ in range(50):  # five seconds of what a manager does while it waits
            for manager in managers:
                assert await manager.is_alive()
            await asyncio.sleep(0.1)
        counted.append(len(proxy.requests) - before)
    await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager in managers))
    assert counted == [0, 0]
    assert len([r for r in proxy.requests if r.startswith("GET /events")]) == 1


# -- addresses


def test_the_address_is_the_docker_commands(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certificates")
    assert EngineAddress.find() == EngineAddress("tcp://127.0.0.1:2376", "/certificates")
    assert EngineAddress.find("unix:///run/x.sock").url == "unix:///run/x.sock"


def test_an_engine_behind_ssh_is_refused_with_the_cure():
    with pytest.raises(ConfigurationError, match="tunnelled"):
        EngineAddress.find("ssh://me@host")


def test_a_context_that_does_not_exist_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match="nosuch"):
        EngineAddress.find(docker_context="nosuch")


@pytest.mark.needs("docker_tls")
async def test_an_engine_behind_tls_on_this_machine(make, answer):
    manager = make(
        host=os.environ["KERNEL_PROVISIONERS_DOCKER_TLS_HOST"],
        tls_dir=os.environ["KERNEL_PROVISIONERS_DOCKER_TLS_CERT_PATH"],
    )
    await manager.start_kernel()
    assert await answer(manager, "print(6*7)") == "42"
    await manager.shutdown_kernel(now=True)


# -- what the command line asks for


def test_an_image_tells_its_kernelspecs(engine):
    before = len(engine.containers(all=True))
    found = DockerProvisioner.find_kernelspecs(
        {"image": f"{IMAGE}:nonroot", "docker_host": ENGINE, "pull_policy": "never"}
    )
    ((name, spec, logos),) = found
    assert name == "python3"
    assert spec["argv"][-2:] == ["-f", "{connection_file}"]
    assert spec["language"] == "python"
    assert "logo-64x64.png" in logos
    assert len(engine.containers(all=True)) == before


async def _until_busy(manager):
    """Return once the kernel executes something."""
    client = manager.client()
    client.start_channels(shell=False, stdin=False, hb=False, control=False)
    try:
        while True:
            message = await client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "execute_input":
                return
    finally:
        client.stop_channels()
