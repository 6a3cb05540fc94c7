"""Real managers of kernels in real containers, on the engine of these tests or through a door in front of it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import docker
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from kernel_provisioner_docker import DockerProvisioner

sys.path.insert(0, str(Path(__file__).parent))
from engine_proxy import EngineProxy
from kernel_containers import ENGINE, IMAGE, TINY, TINY_MOUNT, containers_of


@pytest.fixture(scope="session")
def engine():
    """A client of the engine that the provisioner knows nothing of."""
    client = docker.APIClient(base_url=ENGINE, version="auto")
    yield client
    client.close()


@pytest.fixture
def proxy():
    """A door in front of the engine, for tests that count, hold up or cut."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is too long for a socket
        proxy = EngineProxy(ENGINE, Path(folder, "docker.sock"))
        yield proxy
        proxy.close()


@pytest.fixture
def runtime_dir(tmp_path, monkeypatch):
    folder = tmp_path / "runtime"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def make(runtime_dir, engine):
    """Return a function that makes a manager; at the end nothing may be left of its kernels anywhere."""
    managers = []

    def make(argv=TINY, image="test", host=ENGINE, cls=AsyncKernelManager, **options):
        kernel_id = str(uuid.uuid4())
        manager = cls(connection_file=str(runtime_dir / f"kernel-{kernel_id}.json"))
        manager._kernel_spec = KernelSpec(argv=argv, display_name="K", language="python")
        mounts = [TINY_MOUNT, *options.pop("mounts", ())]
        options = {"pull_policy": "never", "docker_host": host, **options}
        manager.provisioner = DockerProvisioner(
            kernel_id=kernel_id,
            kernel_spec=manager.kernel_spec,
            parent=manager,
            image=image if ":" in image else f"{IMAGE}:{image}",
            mounts=mounts,
            **options,
        )
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        asyncio.run(manager.provisioner.cleanup())
        asyncio.run(manager.cleanup_resources())
    left = _await_none(lambda: [c for m in managers for c in containers_of(engine, m)])
    assert not left, "containers are left"
    files = [path for path in runtime_dir.rglob("*") if path.is_file()]
    assert not files, "files are left"
    threads = _await_none(lambda: [t for t in threading.enumerate() if t.name == "kernel-watch"])
    assert not threads, "a watch is left"


def _await_none(find, seconds=30):
    until = time.monotonic() + seconds
    while (found := find()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


@pytest.fixture
def answer():
    """Return a coroutine function that has a kernel execute code, and returns what it prints."""

    async def answer(manager, code, seconds=60):
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(seconds)
            said = []

            def hear(message):
                said.append(message["content"].get("text", ""))

            await client.execute_interactive(code, timeout=seconds, output_hook=hear)
            return "".join(said).strip()
        finally:
            client.stop_channels()

    return answer
