"""Records of launched kernels, found by another process."""

import json
import os
import platform
import stat
import subprocess
import sys

import pytest

from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_core.records import (
    KernelRecord,
    Owner,
    read_records,
    records_dir,
    remove_record,
    write_record,
)


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))


def record(kernel_id="k-1", **fields):
    return KernelRecord(kernel_id, "module:Class", "python3", {"key": "secret"}, **fields)


def test_a_record_reads_back():
    write_record(record())
    assert read_records() == [record(created=read_records()[0].created)]


def test_a_record_is_private():
    write_record(record())
    (path,) = records_dir().iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_key_is_not_shown():
    assert "secret" not in repr(record())


def test_the_oldest_record_comes_first():
    write_record(record("a", created="2026-01-02T00:00:00+00:00"))
    write_record(record("b", created="2026-01-01T00:00:00+00:00"))
    assert [r.kernel_id for r in read_records()] == ["b", "a"]


def test_removing_a_record_twice_is_harmless():
    write_record(record())
    remove_record("k-1")
    remove_record("k-1")
    assert read_records() == []


def test_a_kernel_id_never_leaves_the_directory():
    write_record(record("../../x y"))
    assert [path.name for path in records_dir().iterdir()] == [".._.._x_y.json"]
    remove_record("../../x y")
    assert not list(records_dir().iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kernel_id": "x"}', json.dumps({"owner": 3})])
def test_files_that_are_no_records_are_passed_over(text):
    write_record(record())
    (records_dir() / "x.json").write_text(text)
    assert [r.kernel_id for r in read_records()] == ["k-1"]


def test_the_owner_is_this_process_and_runs():
    owner = Owner.this_process()
    assert (owner.pid, owner.host) == (os.getpid(), platform.node())
    assert owner.is_running() is True


def test_an_owner_that_has_ended_is_known_to_have():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    owner = Owner(platform.node(), identity.pid, identity.start_time, "u")
    assert owner.is_running() is True
    child.communicate(b"\n")
    assert owner.is_running() is False


def test_nothing_is_known_of_an_owner_elsewhere():
    assert Owner("another-host", 1, "", "u").is_running() is None


def test_a_zombie_is_not_running():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.is_running()
    child.wait()


def test_a_reused_pid_is_another_process():
    me = ProcessIdentity.of_this_process()
    assert me.is_running()
    assert not ProcessIdentity(me.pid, "12345@another-boot").is_running()


def test_there_is_no_identity_without_a_process():
    assert ProcessIdentity.of(2**22 + 1) is None
