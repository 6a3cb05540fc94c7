"""Starting a process: its session, its environment, and what is said when it cannot start."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_provisioner_core import CommandNotFoundError, LaunchError, launch_kernel

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="sessions and groups are POSIX")


def output_of(cmd, **kw):
    process = launch_kernel(cmd, stdout=subprocess.PIPE, **kw)
    out, _ = process.communicate(timeout=30)
    return out.decode()


@posix_only
def test_a_kernel_leads_its_own_session_and_group():
    out = output_of(
        [sys.executable, "-c", "import os; print(os.getpid(), os.getsid(0), os.getpgrp())"]
    )
    assert len(set(out.split())) == 1


def test_a_kernel_is_told_its_parent():
    code = "import os; print(os.environ['JPY_PARENT_PID'])"
    assert output_of([sys.executable, "-c", code]).strip() == str(os.getpid())


def test_an_independent_kernel_is_told_no_parent_not_even_an_inherited_one(monkeypatch):
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    code = "import os; print(os.environ.get('JPY_PARENT_PID'))"
    assert output_of([sys.executable, "-c", code], independent=True).strip() == "None"


def test_the_callers_environment_is_not_changed():
    env = {"PATH": os.environ["PATH"], "A": "1"}
    before = dict(env)
    assert "A=1" in output_of(["env"], env=env).split()
    assert env == before


def test_a_kernel_reads_an_empty_standard_input():
    assert output_of([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]) == "''\n"


def test_a_leading_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_of(["echo", "~/x"]) == f"{tmp_path}/x\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"cmd": "echo $((6*7))", "shell": True},
        {"cmd": [b"echo", b"42"]},
        {"cmd": [Path("/bin/echo"), "42"]},
        {"cmd": ["echo", "42"], "bufsize": 0, "close_fds": True, "restore_signals": False},
        {"cmd": ["echo", "42"], "start_new_session": False},
        {"cmd": ["not-this-name", "42"], "executable": "/bin/echo"},
        {"cmd": ["echo", "42"], "preexec_fn": os.getpid, "umask": 0o77},
        {"cmd": ["sh", "-c", "cat"], "stdin": "given"},
    ],
    ids=lambda a: " ".join(k for k in a if k != "cmd") or type(a["cmd"]).__name__,
)
def test_everything_that_popen_takes_is_taken(arguments, tmp_path):
    if arguments.get("stdin") == "given":
        (tmp_path / "in").write_text("42\n")
        with (tmp_path / "in").open() as file:
            assert output_of(**{**arguments, "stdin": file}) == "42\n"
    else:
        assert output_of(**arguments) == "42\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen takes process_group from 3.11 on")
def test_a_given_process_group_is_joined():
    code = "import os; print(os.getpgrp() == os.getpid(), os.getsid(0) != os.getpid())"
    assert output_of([sys.executable, "-c", code], process_group=0) == "True True\n"


def test_a_missing_command_is_named_with_the_path_that_was_searched():
    env = {"PATH": "/nowhere:/bin", "TOKEN": "hush"}
    with pytest.raises(CommandNotFoundError) as info:
        launch_kernel(["no-such-kernel", "-f", "x"], env=env)
    assert "'no-such-kernel' does not exist on the PATH '/nowhere:/bin'" in str(info.value)
    assert "hush" not in str(info.value)
    assert isinstance(info.value, FileNotFoundError)  # what callers of jupyter_client catch
    assert isinstance(info.value.__cause__, FileNotFoundError)


def test_a_missing_absolute_command_is_named_without_a_path():
    with pytest.raises(CommandNotFoundError, match="'/no/such/kernel' does not exist\\."):
        launch_kernel(["/no/such/kernel"])


def test_a_missing_working_directory_is_named(tmp_path):
    with pytest.raises(CommandNotFoundError, match=r"working directory '.*gone' does not exist"):
        launch_kernel(["true"], cwd=tmp_path / "gone")


def test_a_missing_interpreter_is_named(tmp_path):
    script = tmp_path / "kernel"
    script.write_text("#!/opt/no/python -u\n")
    script.chmod(0o755)
    with pytest.raises(
        CommandNotFoundError, match=r"exists, but the interpreter '/opt/no/python -u'"
    ):
        launch_kernel([str(script)])


def test_a_file_that_is_not_executable_is_named(tmp_path):
    (tmp_path / "kernel").write_text("#!/bin/sh\n")
    with pytest.raises(LaunchError, match="cannot be run: Permission denied"):
        launch_kernel([str(tmp_path / "kernel")])


def test_a_file_for_another_machine_is_named(tmp_path):
    (tmp_path / "kernel").write_bytes(b"\x7fELF" + bytes(60))
    (tmp_path / "kernel").chmod(stat.S_IRWXU)
    with pytest.raises(LaunchError, match="cannot be run: Exec format error"):
        launch_kernel([str(tmp_path / "kernel")])


def test_an_empty_command_is_refused():
    with pytest.raises(LaunchError, match="command is empty"):
        launch_kernel([])
