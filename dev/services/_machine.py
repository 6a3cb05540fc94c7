"""What services share: a folder that outlives the checkout, Debian's packages, daemons ended by their process id."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What Debian's packages ask before they start a daemon.
_NO_SERVICES = Path("/usr/sbin/policy-rc.d")
# Kept, or Python would warn that they are still running.
_STARTED: list[subprocess.Popen[bytes]] = []


def folder(*names: str) -> Path:
    """Return a folder of the user's cache, made if it is missing; nobody else can enter it."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base, "kernel-provisioners", *names)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time set up what is in this folder."""
    import fcntl  # not on Windows, where nothing is set up, but `find` is called

    with open(path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Show a command on standard error and run it; standard output is for who asked for the variables."""
    print(time.strftime("%X"), "$", shlex.join(command), file=sys.stderr, flush=True)
    options = {"stdout": sys.stderr, "check": True} | options
    return subprocess.run(command, stdin=subprocess.DEVNULL, **options)


def install(*packages: str) -> None:
    """Install those of the Debian packages that are missing; no daemon of theirs is started."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    listed = subprocess.run(query, check=False, capture_output=True, text=True).stdout
    missing = sorted(
        set(packages) - {line.split()[0] for line in listed.splitlines() if " installed" in line}
    )
    if not missing:
        return
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = ["--quiet=2", "--option=Dpkg::Use-Pty=0", "--option=Dpkg::Options::=--force-confold"]
    quiet += ["--option=DPkg::Lock::Timeout=600"]  # others install as well
    with _services_stay_off(), open(folder() / "apt.log", "a") as log:
        for attempt in ["update"], ["install", "--yes", "--no-install-recommends", *missing]:
            # What it says about packages that have no daemon to start is of no use to anybody.
            options = {"env": environ, "stdout": log, "stderr": log}
            run("apt-get", *quiet, *attempt, **options)


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    if _NO_SERVICES.exists():  # somebody has a policy already
        yield
        return
    _NO_SERVICES.write_text("#!/bin/sh\nexit 101\n")
    _NO_SERVICES.chmod(0o755)
    try:
        yield
    finally:
        _NO_SERVICES.unlink()


def port(path: Path) -> int:
    """Return a TCP port of 127.0.0.1 that is free; the one that this file has from the last time, if it still is."""
    with contextlib.suppress(OSError, ValueError), socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(("127.0.0.1", int(path.read_text())))
        return int(path.read_text())
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        path.write_text(str(chosen.getsockname()[1]))
        return int(path.read_text())


class Daemon:
    """A process that goes on after this one, known by its process id and start time.

    Args:
        path: The folder of its own. `<name>.pid` and `<name>.log` are made there.
        name: What it is called in messages.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.log = path / f"{name}.log"
        self.name = name
        self._file = path / f"{name}.pid"

    @property
    def pid(self) -> int | None:
        """The process id, or None if the process has ended."""
        try:
            pid, started = self._file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == started else None

    def start(
        self, command: list[str], ready: Callable[[], bool], seconds: float = 60, **options: Any
    ) -> None:
        """Start it in a session of its own, unless it runs; return when it is ready, else end it and raise."""
        if self.pid is None:
            print(time.strftime("%X"), "$", shlex.join(command), "&", file=sys.stderr, flush=True)
            with open(self.log, "ab") as log:
                options |= {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                process = subprocess.Popen(command, start_new_session=True, **options)
            _STARTED.append(process)
            self._file.write_text(f"{process.pid} {_start_time(process.pid)}")
        limit = time.monotonic() + seconds
        while not ready():
            if self.pid is None or time.monotonic() > limit:
                state = "ended" if self.pid is None else f"does not answer after {seconds:.0f} s"
                self.stop()
                lines = self.log.read_text(errors="replace").splitlines()[-20:]
                raise RuntimeError(
                    "\n".join([f"{self.name} {state}; {self.log} ends with:", *lines])
                )
            time.sleep(0.1)

    def stop(self, seconds: float = 30) -> None:
        """End it, by force if it takes longer than that; silent if it has ended."""
        for number in signal.SIGTERM, signal.SIGKILL:
            limit = time.monotonic() + seconds
            with contextlib.suppress(ProcessLookupError):
                if (pid := self.pid) is not None:
                    os.kill(pid, number)
            while self.pid is not None and time.monotonic() < limit:
                time.sleep(0.05)
        self._file.unlink(missing_ok=True)


def end_leftovers(path: Path, programs: set[str]) -> None:
    """End what daemons of this folder left running: these programs, with a path below it in an argument.

    The children that they have end as well: a container engine that was killed leaves its containers behind.
    """
    parents: dict[int, list[int]] = {}
    ours = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if (entry / "exe").readlink().name in programs and any(
                os.fsencode(f"{path}/") in argument for argument in arguments
            ):
                ours.append(int(entry.name))
    while ours:
        pid = ours.pop()
        ours += parents.pop(pid, [])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def unmount_below(path: Path) -> None:
    """Unmount all that is mounted at or below a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4].replace("\\040", " ") for line in lines]
    below = [target for target in targets if Path(target).is_relative_to(path)]
    for target in sorted(below, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", target], check=False, stderr=subprocess.DEVNULL)


def remove(path: Path) -> None:
    """Remove a folder and all in it, once nothing is mounted there."""
    unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's words; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
