"""The backends whose kernels go through the tests here, each with a way to observe them from outside.

A further backend is one more class and one more entry in BACKENDS. The tests stay as they are: a test that makes no
sense for a backend is marked with the capability (`@pytest.mark.claims("...")`) that the backend does not claim.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import psutil

CAPABILITIES = {
    "drop-in": "works without options, so it may be the default provisioner of everything",
    "server-files": "the kernel has the server's files, under the same paths",
    "server-commands": "argv is a command of the server's machine",
    "parent-poller": "a kernel whose server was killed ends by itself",
    "reason": "the server's kernel list says how a kernel ended",
    "output": "what a kernel printed before it died is in the server's log",
    "quick-launch": "a launch does not wait until the kernel listens, so one that dies at once is restarted",
    "encryption": "CurveZMQ, as the server's transport_encryption asks for it",
}


class Instance(ABC):
    """What runs one kernel, seen from outside: a process, a container, a pod."""

    @abstractmethod
    def is_running(self) -> bool:
        """Return whether it runs; one that has ended and waits to be removed does not."""

    @abstractmethod
    def kill(self) -> None:
        """End the kernel as `kill -9` does, behind the provisioner's back."""


class Backend(ABC):
    """One provisioner, and how its kernels are described and observed."""

    name: ClassVar[str]
    provisioner: ClassVar[str]
    claims: ClassVar[frozenset[str]]
    needs: ClassVar[str | None] = None
    """The service of dev/services that it needs."""
    config: ClassVar[dict[str, Any]] = {}
    """The options that each of its kernelspecs has."""
    argv: ClassVar[list[str]] = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    def kernel_json(
        self,
        *,
        argv: list[str] | None = None,
        config: dict[str, Any] | None = None,
        provisioner: str | None = None,
        **metadata: Any,
    ) -> dict[str, Any]:
        """Return a kernel.json that names the provisioner."""
        stanza = {
            "provisioner_name": provisioner or self.provisioner,
            "config": {**self.config, **(config or {})},
        }
        return {
            "argv": argv or self.argv,
            "display_name": f"Test ({self.name})",
            "language": "python",
            "metadata": {"kernel_provisioner": stanza, **metadata},
        }

    @abstractmethod
    def find(self, kernel_id: str, connection_file: str = "") -> list[Instance]:
        """Return what runs a kernel now; usually one instance, none when it is gone.

        Args:
            kernel_id: The kernel's id.
            connection_file: Its connection file, where that is not named after the id.
        """

    @abstractmethod
    def leftovers(self, kernel_id: str, runtime_dir: Path) -> list[str]:
        """Return what is left of a kernel that was shut down: instances, files, records."""


class LocalInstance(Instance):
    """A process of this machine."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process

    def __repr__(self) -> str:
        return f"process {self.process.pid}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalInstance) and self.process == other.process

    def __hash__(self) -> int:
        return hash(self.process)

    def is_running(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


class LocalBackend(Backend):
    name = "local"
    provisioner = "kernel-provisioner-local"
    claims = frozenset(CAPABILITIES)
    argv: ClassVar[list[str]] = [sys.executable, *Backend.argv[1:]]

    def find(self, kernel_id: str, connection_file: str = "") -> list[Instance]:
        mark = connection_file or f"kernel-{kernel_id}.json"
        found: list[Instance] = []
        for process in psutil.process_iter(["cmdline"]):
            if any(word.endswith(mark) for word in process.info["cmdline"] or ()):
                instance = LocalInstance(process)
                if instance.is_running():
                    found.append(instance)
        return found

    def leftovers(self, kernel_id: str, runtime_dir: Path) -> list[str]:
        files = [str(path) for path in runtime_dir.rglob(f"*{kernel_id}*")]
        return [*map(repr, self.find(kernel_id)), *files]


class DockerInstance(Instance):
    """One run of a container: a restart starts the same one anew."""

    def __init__(self, container: str, started: str) -> None:
        self.container = container
        self.started = started

    def __repr__(self) -> str:
        return f"container {self.container[:12]}, started {self.started}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DockerInstance) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(self.started)

    def is_running(self) -> bool:
        state = _docker(
            "inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", self.container
        )
        return state == f"true {self.started}"

    def kill(self) -> None:
        _docker("kill", self.container)


class DockerBackend(Backend):
    name = "docker"
    provisioner = "kernel-provisioner-docker"
    claims = frozenset({"reason", "encryption"})
    needs = "docker"
    config: ClassVar[dict[str, Any]] = {
        "image": "kernel-provisioners/kernel:test",
        "pull_policy": "never",
    }

    def find(self, kernel_id: str, connection_file: str = "") -> list[Instance]:
        found: list[Instance] = []
        for container in self._containers(kernel_id):
            started = _docker("inspect", "--format", "{{.State.StartedAt}}", container)
            instance = DockerInstance(container, started)
            if instance.is_running():
                found.append(instance)
        return found

    def leftovers(self, kernel_id: str, runtime_dir: Path) -> list[str]:
        files = [str(path) for path in runtime_dir.rglob(f"*{kernel_id}*")]
        return [*self._containers(kernel_id), *files]

    def _containers(self, kernel_id: str) -> list[str]:
        label = f"label=kernel-provisioner.kernel-id={kernel_id}"
        return _docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()


def _docker(*arguments: str) -> str:
    """Return what Docker's own command prints, which knows nothing of the provisioner."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


BACKENDS: list[Backend] = [LocalBackend(), DockerBackend()]
