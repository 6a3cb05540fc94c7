"""Looking at kernels from outside, past the provisioner.

The suite never takes a provisioner's word for what runs: it asks a probe. `ProcessProbe` sees the
processes of this machine. The author of a provisioner whose kernels run elsewhere derives one from
`Probe` that asks the daemon, the API or the remote host, and passes it in ``Target(probe=...)``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: In the environment of the suite's own child processes, which a probe leaves alone.
OBSERVER = "KERNEL_PROVISIONER_CONFORMANCE_OBSERVER"


@dataclass(frozen=True)
class KernelIdentity:
    """How a probe recognises one kernel of the suite.

    The kernel's id is random. It stands in the name of the connection file, and so in the argv of
    the kernel, and in the kernelspec's ``env`` as ``KERNEL_PROVISIONER_CONFORMANCE_ID``.
    """

    kernel_id: str
    connection_file: str


class Probe:
    """What can be seen of a kernel from outside. This base class sees nothing.

    All methods are plain functions, called in a thread, often, and before a launch and after the
    end as well. None as an answer means "cannot see", and skips the checks that need to.
    """

    def is_running(self, kernel: KernelIdentity) -> bool | None:
        """Whether the kernel's own process runs (a zombie does not)."""
        return None

    def left(self, kernel: KernelIdentity) -> list[str] | None:
        """One line for each thing that exists because of this kernel: process, container, ..."""
        return None

    def exposed(self, kernel: KernelIdentity) -> list[tuple[str, str]] | None:
        """(place, text) of all that others may read: argv, environment, labels, descriptions.

        The place never holds the text itself, as it is printed.
        """
        return None

    def kill(self, kernel: KernelIdentity) -> bool | None:
        """End the kernel's own process by SIGKILL, behind the provisioner's back."""
        return None

    def remove(self, kernel: KernelIdentity) -> None:
        """Remove everything that `left` would tell. Called after every check."""


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    group: int
    session: int
    started: str
    zombie: bool
    argv: str
    environ: str

    def __str__(self) -> str:
        name = "a zombie" if self.zombie else (self.argv.replace("\0", " ").strip() or "?")[:120]
        return f"process {self.pid} ({name})"


class ProcessProbe(Probe):
    """Sees the processes of this machine that belong to a kernel.

    A process belongs to a kernel if the kernel's id stands in its argv or its environment, if it is
    a descendant of such a process, or if such a process leads (or led, when it was last seen) its
    session. Reads ``/proc``; elsewhere it asks ``ps``.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, set[int]] = {}
        self._seen: dict[str, set[tuple[int, str]]] = {}

    def is_running(self, kernel: KernelIdentity) -> bool:
        """Whether a process with the kernel's id in its argv runs."""
        return any(self._is_kernel(process, kernel) for process in self._of(kernel))

    def left(self, kernel: KernelIdentity) -> list[str]:
        """The processes that belong to the kernel, zombies included."""
        return [str(process) for process in self._of(kernel)]

    def exposed(self, kernel: KernelIdentity) -> list[tuple[str, str]]:
        """The argv and the environment of these processes."""
        texts = []
        for process in self._of(kernel):
            texts.append((f"the argv of process {process.pid}", process.argv))
            texts.append((f"the environment of process {process.pid}", process.environ))
        return texts

    def kill(self, kernel: KernelIdentity) -> bool:
        """Kill the processes with the kernel's id in their argv; False if there are none."""
        found = [process for process in self._of(kernel) if self._is_kernel(process, kernel)]
        _end(found)
        return bool(found)

    def remove(self, kernel: KernelIdentity) -> None:
        """Kill what belongs to the kernel."""
        _end([process for process in self._of(kernel) if not process.zombie])

    @staticmethod
    def _is_kernel(process: _Process, kernel: KernelIdentity) -> bool:
        return not process.zombie and kernel.kernel_id in process.argv

    def _of(self, kernel: KernelIdentity) -> list[_Process]:
        own = {os.getpid()}
        sessions = self._sessions.setdefault(kernel.kernel_id, set())
        seen = self._seen.setdefault(kernel.kernel_id, set())
        table = [p for p in _table() if p.pid not in own and OBSERVER not in p.environ]
        found: dict[int, _Process] = {}
        for process in table:
            marked = kernel.kernel_id in process.argv or kernel.kernel_id in process.environ
            # A zombie has neither argv nor environment: it is known from before.
            if marked or process.session in sessions or (process.pid, process.started) in seen:
                found[process.pid] = process
        for _ in table:
            new = {p.pid: p for p in table if p.parent in found and p.pid not in found}
            if not new:
                break
            found.update(new)
        sessions.update(p.session for p in found.values() if p.session == p.pid)
        seen.update((p.pid, p.started) for p in found.values())
        return list(found.values())


def _end(processes: list[_Process]) -> None:
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _table() -> Iterator[_Process]:
    if Path("/proc/self/stat").exists():
        return _linux_table()
    return _ps_table()


def _linux_table() -> Iterator[_Process]:
    user = os.geteuid()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != user:
                continue
            stat = Path(entry.path, "stat").read_text()
            argv = Path(entry.path, "cmdline").read_bytes().decode(errors="replace")
            environ = Path(entry.path, "environ").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            argv = environ = ""
        fields = stat.rpartition(")")[2].split()
        yield _Process(
            pid=int(entry.name),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            started=fields[19],
            zombie=fields[0] in "ZX",
            argv=argv,
            environ=environ,
        )


def _ps_table() -> Iterator[_Process]:
    fields = "pid=,ppid=,pgid=,sess=,stat=,lstart=,command="
    done = subprocess.run(["ps", "eww", "-axo", fields], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        pid, parent, group, session, stat, *rest = line.split(None, 10)
        # With "e" the environment follows the command in one field.
        command = rest[5] if len(rest) > 5 else ""
        yield _Process(
            pid=int(pid),
            parent=int(parent),
            group=int(group),
            session=int(session, 16) if session.strip("0") else int(group),
            started=" ".join(rest[:5]),
            zombie=stat.startswith("Z"),
            argv=command,
            environ=command,
        )
