"""Hosts that are sshd's of our own, and kernels on them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

import kernel_provisioner_core.conformance
from kernel_provisioner_ssh import SSHProvisioner
from services import _sshd

TINY = str(Path(kernel_provisioner_core.conformance.__file__).with_name("kernel.py"))
TINY_KERNEL = [sys.executable, TINY, "-f", "{connection_file}"]
IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
LIMIT = 30.0  # seconds for what takes one


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path, monkeypatch):
    """Keep records and connection files out of the user's directory."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def remote_tmp(tmp_path):
    """Return the directory in which hosts keep what they make for kernels."""
    path = tmp_path / "remote"
    path.mkdir()
    return path


@pytest.fixture
def sshd(tmp_path, remote_tmp):
    """Return a function that starts an sshd with more configuration; all are ended at the end."""
    if not _sshd.available():
        pytest.skip("sshd's of our own need root and Debian's openssh-server (python3 dev up sshd)")
    started = []

    def start(*options: str, **arguments: Any) -> _sshd.Sshd:
        folder = tmp_path / f"sshd{len(started)}"
        environment = f"SetEnv TMPDIR={remote_tmp} XDG_RUNTIME_DIR=/nonexistent"
        server = _sshd.Sshd(folder, [*options, environment], **arguments)
        started.append(server)
        server.start()
        server.write_client_config("there")
        return server

    yield start
    for server in started:
        server.end_sessions()
        server.stop()


@pytest.fixture
def host(sshd):
    return sshd()


class Kernel:
    """A provisioner with its kernel, and a client of it."""

    def __init__(self, argv: list[str], config: dict[str, Any], kernel_id: str, **spec: Any):
        stanza = {"provisioner_name": "kernel-provisioner-ssh", "config": config}
        self.spec = SimpleNamespace(
            argv=argv,
            env=spec.get("env", {}),
            display_name="test",
            language="python",
            interrupt_mode="signal",
            metadata={"kernel_provisioner": stanza},
            resource_dir="",
        )
        self.provisioner = SSHProvisioner(kernel_id=kernel_id, kernel_spec=self.spec, **config)
        self.client: AsyncKernelClient | None = None

    async def start(self, **kwargs: Any) -> Kernel:
        kwargs = await self.provisioner.pre_launch(**kwargs)
        try:
            await self.provisioner.launch_kernel(kwargs.pop("cmd"), **kwargs)
            await self.provisioner.post_launch(**kwargs)
        except BaseException:
            await self.provisioner.cleanup()
            raise
        return self

    async def connect(self) -> AsyncKernelClient:
        if self.client is None:
            self.client = AsyncKernelClient()
            self.client.load_connection_info(dict(self.provisioner.connection_info))
            self.client.start_channels(hb=False)
            await self.client.wait_for_ready(timeout=LIMIT)
        return self.client

    async def execute(self, code: str, limit: float = LIMIT) -> str:
        """Return what the code prints, or the name of its error."""
        client = await self.connect()
        printed = []

        def hear(message: Any) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await client.execute_interactive(code, timeout=limit, output_hook=hear)
        return "".join(printed) if reply["content"]["status"] == "ok" else reply["content"]["ename"]

    async def end(self) -> None:
        if self.client is not None:
            self.client.stop_channels()
        await self.provisioner.kill()
        await self.provisioner.cleanup()

    @property
    def directory(self) -> Path:
        return Path(self.provisioner._handle["directory"])

    @property
    def pid(self) -> int:
        return int((self.directory / "pid").read_text().split()[0])


@pytest.fixture
async def kernel():
    """Return a function that makes a kernel on an sshd; all are ended at the end."""
    made = []

    def make(server, argv=TINY_KERNEL, kernel_id=None, spec=None, **config):
        given = {"host": "there", "ssh_config": str(server.folder / "ssh_config"), **config}
        kernel_id = kernel_id or f"test-{os.urandom(4).hex()}"
        made.append(Kernel(list(argv), given, kernel_id, **(spec or {})))
        return made[-1]

    yield make
    for kernel in made:
        await kernel.end()


@pytest.fixture
def until():
    """Return a function that waits until something is true, and returns what it is."""

    async def until(condition, seconds=LIMIT):
        limit = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < limit, "it has not come true in time"
            await asyncio.sleep(0.05)
        return found

    return until


@pytest.fixture
def runs():
    """Return a function that says whether a process runs; a zombie does not."""

    def runs(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    return runs


@pytest.fixture
def processes_with():
    """Return a function that returns the command lines that hold a text."""

    def processes_with(text: str) -> list[str]:
        command = ["ps", "-eo", "pid=,args="]
        listed = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line for line in listed.stdout.splitlines() if text in line]

    return processes_with


@pytest.fixture
def tiny_argv():
    return TINY_KERNEL


@pytest.fixture
def ipykernel_argv():
    return IPYKERNEL
