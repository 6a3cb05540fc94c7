"""Captured output: the last of it, never more than the limit, and no kernel is held up."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from kernel_provisioner_local.output import OutputLog, tail_of


@pytest.fixture
def log(tmp_path):
    log = OutputLog(tmp_path / "new" / "kernel.log", 8192)
    yield log
    log.close()


def run(log, *cmd):
    """Run a command to its end with its output captured."""
    process = subprocess.Popen(cmd, stdout=log.write_end, stderr=log.write_end)
    log.start()
    assert process.wait(60) == 0


def test_output_and_errors_are_kept_in_their_order(log):
    run(log, "sh", "-c", "echo one; echo two >&2; echo three")
    assert log.tail(100) == "one\ntwo\nthree\n"


def test_the_tail_is_complete_as_soon_as_the_process_has_ended(log):
    run(log, sys.executable, "-c", "print('x' * 5000, end='')")
    assert len(log.tail(100_000)) == 5000


def test_the_log_never_holds_more_than_its_limit_and_keeps_the_newest(log):
    run(log, sys.executable, "-c", "for n in range(200_000): print(n)")
    assert log.tail(100).endswith("199998\n199999\n")
    assert log.path.stat().st_size <= 8192


def test_one_large_write_is_cut_to_its_end(log):
    run(log, sys.executable, "-c", "import os; os.write(1, b'a' * 60_000 + b'end')")
    assert log.tail(10) == "aaaaaaaend"
    assert log.path.stat().st_size <= 8192


def test_the_file_is_private(log):
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_a_log_is_continued_and_its_tail_is_of_this_life(log):
    run(log, "echo", "first")
    log.tail(1)
    log.close()
    again = OutputLog(log.path, 8192)
    run(again, "echo", "second")
    assert again.tail(100) == "second\n"
    assert tail_of(again.path, 100) == "first\nsecond\n"
    again.close()


def test_a_log_may_be_closed_twice_and_before_its_start(tmp_path):
    log = OutputLog(tmp_path / "kernel.log", 8192)
    log.close()
    log.close()
    assert log.tail(10) == ""


def test_a_full_disk_holds_up_no_kernel(tmp_path):
    log = OutputLog(tmp_path / "kernel.log", 8192)
    os.close(log._file)
    log._file = os.open("/dev/full", os.O_RDWR)
    run(log, sys.executable, "-c", "print('x' * 1_000_000)")
    log.close()


def test_many_logs_share_one_thread(tmp_path):
    logs = [OutputLog(tmp_path / f"{n}.log", 8192) for n in range(20)]
    for n, log in enumerate(logs):
        run(log, "echo", str(n))
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("kernel-output") <= 1
    assert [log.tail(100) for log in logs] == [f"{n}\n" for n in range(20)]
    for log in logs:
        log.close()


def test_no_descriptor_is_left(tmp_path, log):
    run(log, "true")  # the thread and its selector are there now
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        other = OutputLog(tmp_path / f"{n}.log", 8192)
        run(other, "echo", "x")
        other.close()
    # the selector of the thread comes and goes; what leaks would be 20 or 40
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_missing_log_is_empty(tmp_path):
    assert tail_of(tmp_path / "none.log", 10) == ""
