"""`jupyter provisioner ...` with the local provisioner, as it is installed: each command a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_core.records import read_records

SERVER = """
import sys
from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir
manager = KernelManager(kernel_name="mine", connection_file=jupyter_runtime_dir() + "/kernel-orphan.json")
manager.start_kernel(independent=True)
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
print("launched", manager.kernel_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """A Jupyter of its own, with nothing in it; the runtime directory, empty again at the end."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("JUPYTER_PATH", "JUPYTER_DEFAULT_PROVISIONER_NAME", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "runtime"
    assert [path for path in (tmp_path / "runtime").rglob("*") if path.is_file()] == []


def jupyter_provisioner(*argv):
    return subprocess.run(
        [sys.executable, "-m", "jupyter", "provisioner", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def mine():
    """A kernelspec of the local provisioner, installed as a user would."""
    done = jupyter_provisioner("install", "kernel-provisioner-local", "--name", "mine", "--user")
    assert done.returncode == 0, done.stderr
    return "mine"


def test_the_local_provisioner_is_listed_and_usable():
    found = json.loads(jupyter_provisioner("list", "--json").stdout)
    local = next(one for one in found if one["name"] == "kernel-provisioner-local")
    assert local["usable"], local["reason"]


def test_run_prints_42_and_exits_0(mine):
    done = jupyter_provisioner("run", mine, "-c", "print(6*7)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


def test_a_cell_that_raises_exits_1_with_its_traceback(mine):
    done = jupyter_provisioner("run", mine, "-c", "1/0")
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_a_kernel_that_is_killed_exits_3_with_the_reason_and_its_output(mine):
    code = "import os; os.write(2, b'I feel ill\\n'); os.kill(os.getpid(), 9)"
    done = jupyter_provisioner("run", mine, "-c", code)
    assert done.returncode == 3
    assert "The kernel died while it ran the code: killed by SIGKILL" in done.stderr
    assert "  I feel ill\n" in done.stderr


def test_check_finds_every_stage_well(mine):
    done = jupyter_provisioner("check", mine, "--json")
    assert done.returncode == 0, done.stdout
    assert {result["verdict"] for result in json.loads(done.stdout)} == {"ok"}


def test_a_kernel_that_a_killed_server_left_behind_is_found_and_reaped(mine):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    kernel = None
    try:
        lines = iter(server.stdout.readline, "")
        kernel_id = next(line.split()[1] for line in lines if line.startswith("launched "))
        (record,) = read_records()
        kernel = ProcessIdentity(**record.info["process"])
        (found,) = json.loads(jupyter_provisioner("ps", "--json").stdout)
        assert (found["kernel_id"], found["state"]) == (kernel_id, "running")
        assert jupyter_provisioner("stop", kernel_id[:8]).returncode == 1

        server.kill()
        server.wait()
        (found,) = json.loads(jupyter_provisioner("ps", "--json").stdout)
        assert (found["state"], found["owner"]["running"]) == ("orphan", False)
        assert "not captured" in jupyter_provisioner("logs", "mine").stderr

        (done,) = json.loads(jupyter_provisioner("reap", "--json").stdout)
        assert (done["kernel_id"], done["done"]) == (kernel_id, "stopped")
        assert not kernel.is_running()
        assert json.loads(jupyter_provisioner("ps", "--json").stdout) == []
    finally:
        server.kill()
        if kernel is not None and kernel.is_running():
            os.kill(kernel.pid, signal.SIGKILL)
        server.communicate()


def test_logs_are_what_a_running_kernel_has_printed(tmp_path):
    ready = tmp_path / "ready"
    code = (
        "import os, pathlib, time; os.write(2, b'first\\nsecond\\n'); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    argv = ["python", "-c", code, "{connection_file}"]
    jupyter_provisioner(
        "install", "kernel-provisioner-local", "--name", "mine", "--user", "--", *argv
    )
    command = [sys.executable, "-m", "jupyter", "provisioner", "run", "mine", "-c", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not Path(ready).exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert jupyter_provisioner("logs", "mine", "--tail", "1").stdout == "second\n"
    finally:
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
