"""Whether the kernel of the operating system has killed a process for want of memory."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

__all__ = ["MemoryWatch", "killed_by_kernel_log"]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")
_LOG = Path("/dev/kmsg")
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class MemoryWatch:
    """Counts the out-of-memory kills on this machine and in this process's control group from its making on.

    A kernel is in the group of its server unless its command moves it. Costs two small file reads; where
    there are no such counts (other platforms, no control groups), nothing is ever found.
    """

    def __init__(self) -> None:
        """Read the counts as they are before the launch."""
        self._machine = _count(_MACHINE)
        self._group = _group_count()

    def says_killed(self, pid: int) -> bool:
        """Return whether the process has likely been killed for want of memory.

        Args:
            pid: The process, ended by SIGKILL that nobody here has sent.
        """
        if _count(_MACHINE) == self._machine:
            return False
        return _group_count() > self._group or killed_by_kernel_log(pid)


def killed_by_kernel_log(pid: int) -> bool:
    """Return whether the log of the operating system says so; False where it must not be read."""
    said = re.compile(rb"Killed process %d \(" % pid)
    try:
        fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        while True:
            try:
                record = os.read(fd, 8192)  # one record a read, the oldest first
            except BrokenPipeError:  # the record was overwritten meanwhile; the next read goes on
                continue
            if said.search(record):
                return True
    except OSError:  # BlockingIOError: that was the last one
        return False
    finally:
        os.close(fd)


def _group_count() -> int:
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:
        return 0
    return next((count for path in _count_files(groups) if (count := _count(path)) is not None), 0)


def _count(path: Path) -> int | None:
    try:
        with open(path, "rb") as file:
            found = _COUNT.search(file.read())
    except OSError:
        return None
    return int(found[1]) if found else None


@functools.lru_cache(maxsize=1)  # a process seldom changes its group
def _count_files(groups: str) -> tuple[Path, ...]:
    lines = groups.splitlines()
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        # version 2 has one hierarchy without controllers; inside a container the group's path
        # may be the host's while the mount shows the container's own group at its root
        if not controllers:
            roots, name = [_CGROUP_ROOT, _CGROUP_ROOT / "unified"], "memory.events"
        elif "memory" in controllers.split(","):
            roots, name = [_CGROUP_ROOT / "memory"], "memory.oom_control"
        else:
            continue
        for root in roots:
            files += [root / group.lstrip("/") / name, root / name]
    return tuple(files)
