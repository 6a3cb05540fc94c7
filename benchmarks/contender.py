"""Who is compared: a provisioner as a kernelspec names it, and managers that use it.

Every contender has two kernelspecs: one runs ipykernel, one a command that does nothing (`idle`), for what
does not need a kernel to answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

__all__ = ["LOCAL", "REFERENCE", "Contender", "kill", "pid_of", "undisturbed", "world"]


@dataclass(frozen=True)
class Contender:
    """A provisioner that is measured.

    Args:
        name: What tables and JSON call it.
        provisioner: Its entry point.
    """

    name: str
    provisioner: str

    def manager(self, *, idle: bool = False) -> Any:
        """Return a new manager for a kernel to be, with what jupyter_server's gives it: an id and a file."""
        kernel_id = str(uuid.uuid4())
        file = Path(os.environ["JUPYTER_RUNTIME_DIR"], f"kernel-{kernel_id}.json")
        manager = AsyncKernelManager(
            kernel_name=f"{self.name}-idle" if idle else self.name, connection_file=str(file)
        )
        manager.kernel_id = kernel_id
        return manager


LOCAL = Contender("kernel-provisioner-local", "kernel-provisioner-local")
REFERENCE = Contender("jupyter_client", "local-provisioner")


@contextlib.contextmanager
def world(*contenders: Contender) -> Iterator[Path]:
    """Have a Jupyter of our own, with the kernelspecs of the contenders, in a directory that goes away."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        for variable in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "PATH"):
            os.environ[f"JUPYTER_{variable}"] = str(folder / variable.lower())
        (folder / "runtime_dir").mkdir(mode=0o700)
        os.environ["IPYTHONDIR"] = str(folder / "ipython")
        # a debugger that is not used is still loaded at a kernel's start, and frozen modules make it complain
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        ipykernel = [sys.executable, "-m", "ipykernel_launcher", "--log-level=50"]
        ipykernel += ["-f", "{connection_file}"]
        idle = [shutil.which("sleep") or "sleep", "3600"]
        for contender in contenders:
            for suffix, argv in (("", ipykernel), ("-idle", idle)):
                spec = folder / "path" / "kernels" / (contender.name + suffix)
                spec.mkdir(parents=True)
                stanza = {"provisioner_name": contender.provisioner}
                kernel = {
                    "argv": argv,
                    "display_name": spec.name,
                    "language": "python",
                    "metadata": {"kernel_provisioner": stanza},
                }
                (spec / "kernel.json").write_text(json.dumps(kernel))
        yield folder


def pid_of(manager: Any) -> int:
    """Return the pid of the kernel that a manager runs on this machine."""
    provisioner = manager.provisioner
    process = getattr(provisioner, "process", None) or provisioner._process
    return int(process.pid)


async def kill(manager: Any) -> None:
    """End a kernel and clear up after it, without the caller's polling."""
    try:
        pidfd = os.pidfd_open(pid_of(manager))
    except ProcessLookupError:  # it has ended by itself, and jupyter_client's poll has reaped it
        pidfd = None
    await manager.provisioner.kill()
    if pidfd is not None:
        ended = select.poll()  # no select(): it takes no descriptor over 1023
        ended.register(pidfd, select.POLLIN)
        ended.poll(10_000)  # what follows finds it dead and does not wait
        os.close(pidfd)
    await manager.provisioner.wait()
    await manager.provisioner.cleanup()
    await manager.cleanup_resources()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Go before all other processes while microseconds are counted, where the system lets us (root).

    A real-time class, which children inherit; for what uses little. A start in which the child waits for a
    processor measures the neighbours.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
