"""Processes of this machine, told apart from a later process that got the same pid."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessIdentity"]

_PLATFORM: str = sys.platform


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, named so that no other process is ever taken for it.

    Args:
        pid: Its process id.
        start_time: When it started, in the platform's own terms (on Linux: clock ticks since boot, and the
            boot's id); empty where the platform does not tell, and then the pid alone has to do.
    """

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of the process that has this pid now, or None if there is none."""
        start_time = _start_time(pid)
        return None if start_time is None else cls(pid, start_time)

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """Return the identity of the calling process."""
        return _of_process(os.getpid())

    def is_running(self) -> bool:
        """Return whether this very process exists and has not ended (a zombie has ended)."""
        return _start_time(self.pid) == self.start_time


@functools.lru_cache(maxsize=1)  # one process; the pid as argument keeps it right after a fork
def _of_process(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, _start_time(pid) or "")


def _start_time(pid: int) -> str | None:
    """Return when the process started, None if it does not run, "" if it runs and nobody tells."""
    if _PLATFORM == "linux":
        try:
            # the second field, the name in brackets, may itself hold spaces and brackets: see proc(5)
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        state, start = fields[0], fields[19]
        return None if state in b"ZX" else f"{start.decode()}@{_boot_id()}"
    if _PLATFORM == "win32":
        return ""  # jupyter_client has no better there either; a pid is not reused soon
    import subprocess

    found = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    ).stdout.split(maxsplit=1)
    return found[1].strip() if len(found) == 2 and not found[0].startswith("Z") else None


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
