"""A process that the kernel of the operating system has really killed for want of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_provisioner_local.memory import MemoryWatch

HUNGRY = "b = bytearray(300 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"


@pytest.fixture
def small_group():
    """Make a control group of 50 MiB (version 1 or 2); return the file that takes pids."""
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
            swap = group / ("memory.swap.max" if limit == "memory.max" else "memory.memsw.limit_in_bytes")
            if swap.exists():
                swap.write_text("0" if limit == "memory.max" else str(50 << 20))
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("limiting memory needs root and a memory control group")


def test_an_out_of_memory_kill_is_recognised(small_group):
    watch = MemoryWatch()
    command = f'echo $$ > {small_group}; exec "$0" -c "$1"'
    process = subprocess.Popen(["sh", "-c", command, sys.executable, HUNGRY])
    assert process.wait(60) == -9
    assert watch.says_killed(process.pid)


def test_an_ordinary_kill_is_not_taken_for_one():
    watch = MemoryWatch()
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    process.wait(60)
    assert not watch.says_killed(process.pid)
