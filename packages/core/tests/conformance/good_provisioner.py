"""A small provisioner that does everything right: jupyter_client's own, with its faults mended.

The broken ones are derived from it. It does not use the core's base class, so that a fault in the
core cannot hide one in the suite.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from traitlets import Unicode

PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")


def is_running(pid: int, started: str) -> bool:
    """Whether the process with this pid and start time runs, and is no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[19] == started and fields[0] not in "ZX"


def start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


class GoodProvisioner(LocalProvisioner):
    conformance_capabilities = (
        "interrupt",
        "interrupt-children",
        "interrupt-wrapped",
        "signals",
        "exit-codes",
        "exit-signals",
        "kills-descendants",
        "persistence",
        "resolve-path",
        "holds-ports",
        "rejects-unknown-options",
        "working-directory",
        "inherits-environment",
        "encryption",
    )

    greeting = Unicode("", config=True, help="An option, so that there is one to misspell.")

    def __init__(self, **kwargs: Any) -> None:
        self.check_options(kwargs)
        super().__init__(**kwargs)
        self.held: list[socket.socket] = []
        self.adopted: tuple[int, str] | None = None
        self.started = ""
        self.last_code = 0

    def check_options(self, kwargs: dict[str, Any]) -> None:
        known = set(self.class_trait_names()) | {"log"}
        for name in kwargs.keys() - known:
            nearest = get_close_matches(name, known, 1)
            raise ValueError(f"there is no option {name!r}; did you mean {nearest}?")

    # -- launching --------------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self.parent is not None:
            self.parent.cache_ports = False
            self.hold_ports()
        try:
            return await super().pre_launch(**kwargs)
        except BaseException:
            self.release_ports()
            raise

    def hold_ports(self) -> None:
        while len(self.held) < len(PORTS):
            held = socket.socket()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((self.parent.ip, 0))
            self.held.append(held)
        for name, held in zip(PORTS, self.held, strict=True):
            setattr(self.parent, name, held.getsockname()[1])

    def release_ports(self) -> None:
        while self.held:
            self.held.pop().close()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        try:
            await asyncio.sleep(0)
            info = await super().launch_kernel(cmd, **kwargs)
            self.started = start_time(self.pid)
            await asyncio.sleep(0.005)
        except BaseException:
            await self.undo_launch()
            raise
        return info

    async def undo_launch(self) -> None:
        self.end_group()
        self.release_ports()
        if self.parent is not None:
            self.parent.cleanup_connection_file()

    # -- the end ----------------------------------------------------------------------------------

    @property
    def has_process(self) -> bool:
        return self.process is not None or self.adopted is not None

    async def poll(self) -> int | None:
        if self.adopted is not None:
            return None if is_running(*self.adopted) else 0
        if self.process is None:
            return self.last_code
        return await super().poll()

    async def wait(self) -> int | None:
        while self.adopted is not None and await self.poll() is None:
            await asyncio.sleep(0.05)
        self.adopted = None
        if self.process is not None:
            self.last_code = await super().wait()
        return self.last_code

    async def send_signal(self, signum: int) -> None:
        if self.adopted is not None:
            if is_running(*self.adopted):
                os.killpg(self.pgid, signum)
            return
        await super().send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        if self.has_process:
            await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        if self.has_process:
            await self.send_signal(signal.SIGTERM)

    def end_group(self) -> None:
        """End what is left of the kernel's group, and reap the kernel."""
        if self.process is None:
            return
        try:
            os.killpg(self.pgid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.last_code = self.process.wait()
        self.process = None

    async def cleanup(self, restart: bool = False) -> None:
        if not restart:
            self.end_group()
            self.release_ports()

    # -- persistence ------------------------------------------------------------------------------

    async def get_provisioner_info(self) -> dict[str, Any]:
        info = await super().get_provisioner_info()
        connection = dict(info["connection_info"])
        if isinstance(connection.get("key"), bytes):
            connection["key"] = connection["key"].decode()
        return {**info, "connection_info": connection, "started": self.started}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        connection = dict(provisioner_info["connection_info"])
        if isinstance(connection.get("key"), str):
            connection["key"] = connection["key"].encode()
        self.connection_info = connection
        self.started = provisioner_info["started"]
        self.adopted = (self.pid, self.started)
