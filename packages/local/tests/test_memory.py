"""A process that the kernel of the operating system has really killed for want of memory."""

import subprocess

from kernel_provisioner_local.memory import MemoryWatch


def test_an_out_of_memory_kill_is_recognised(hungry):
    watch = MemoryWatch()
    process = subprocess.Popen(hungry)
    assert process.wait(60) == -9
    assert watch.says_killed(process.pid)


def test_an_ordinary_kill_is_not_taken_for_one():
    watch = MemoryWatch()
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    process.wait(60)
    assert not watch.says_killed(process.pid)
