"""A command that is really killed for want of memory."""

import os
import sys
from pathlib import Path

import pytest

INITIAL_NAMESPACE = "pid:[4026531836]"  # a constant of Linux, PROC_PID_INIT_INO


@pytest.fixture
def small_group():
    """Make a control group of 50 MiB (version 1 or 2); return the file that takes pids."""
    if (
        os.path.exists("/proc/self/ns/pid")
        and os.readlink("/proc/self/ns/pid") != INITIAL_NAMESPACE
    ):
        pytest.skip("inside a pid namespace the kernel log has other pids for its processes")
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"kernel-provisioners-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(50 << 20))
            swap = group / (
                "memory.swap.max" if limit == "memory.max" else "memory.memsw.limit_in_bytes"
            )
            if swap.exists():
                swap.write_text("0" if limit == "memory.max" else str(50 << 20))
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("limiting memory needs root and a memory control group")


@pytest.fixture
def hungry(small_group):
    """Return a command that moves into the control group and takes more memory than there is."""
    code = "b = bytearray(300 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    return ["sh", "-c", f'echo $$ > {small_group}; exec "$0" -c "$1"', sys.executable, code]
