import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kernel_provisioner_core.records import read_records


@pytest.fixture
def mine(tiny, provisioned):
    """A kernelspec of the tiny provisioner."""
    provisioned("mine", tiny)
    return "mine"


@pytest.fixture(autouse=True)
def _nothing_is_left(jupyter):
    yield
    runtime = jupyter.parent / "runtime"
    assert [path for path in runtime.rglob("*") if path.is_file()] == []


@pytest.fixture(params=["mine", "python3"])
def kernel(request, tiny, provisioned):
    """A kernel of ours and one of jupyter_client's own provisioner."""
    if request.param == "mine":
        provisioned("mine", tiny)
    return request.param


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_code_is_run_and_its_output_printed(run_script, kernel):
    done = run_script("run", kernel, "-c", "print(6*7)")
    assert (done.status, done.out, done.err) == (0, "42\n", "")


def test_a_cell_that_raises_ends_with_1_and_its_traceback(run_script, kernel):
    done = run_script("run", kernel, "-c", "print('before'); 1/0")
    assert done.status == 1
    assert done.out == "before\n"
    assert "ZeroDivisionError: division by zero" in done.err
    assert "----> 1 print('before'); 1/0" in done.err
    assert "\x1b" not in done.err


def test_stdout_and_stderr_stay_apart(run, mine):
    done = run("run", mine, "-c", "import sys; print('out'); print('err', file=sys.stderr)")
    assert (done.status, done.out, done.err) == (0, "out\n", "err\n")


def test_results_and_displayed_data_are_printed_as_text(run, mine):
    done = run("run", mine, "-c", "display({'a': 1}); 'the result'")
    assert done.out == "{'a': 1}\n'the result'\n"


def test_what_a_child_process_prints_comes_once(run, kernel, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # it makes ipykernel leave child processes alone
    done = run("run", kernel, "-c", "import os; _ = os.system('echo once')")
    assert done.out == "once\n"


def test_output_comes_while_the_code_runs(script, mine, tmp_path):
    gate = tmp_path / "gate"
    code = f"import os, time\nprint('first')\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"
    command = subprocess.Popen(
        [*script, "run", mine, "-c", code], stdout=subprocess.PIPE, text=True
    )
    with command:
        assert command.stdout.readline() == "first\n"
        gate.touch()
        assert command.wait(timeout=30) == 0


def test_a_file_is_run(run, mine, tmp_path):
    (tmp_path / "script.py").write_text("x = 20\nprint(x + 1)\n")
    assert run("run", mine, str(tmp_path / "script.py")).out == "21\n"


@pytest.mark.parametrize("arguments", [["-"], []])
def test_code_is_read_from_stdin(run_script, mine, arguments):
    assert run_script("run", mine, *arguments, input="print(1)\nprint(2)\n").out == "1\n2\n"


def notebook(path, *cells):
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# 1/0"]}, *cells],
    }
    path.write_text(json.dumps(document))
    return str(path)


def code_cell(*lines, tags=()):
    return {
        "cell_type": "code",
        "source": list(lines),
        "metadata": {"tags": list(tags)},
        "outputs": [],
        "execution_count": None,
    }


def test_all_code_cells_of_a_notebook_are_run_in_one_kernel(run, mine, tmp_path):
    file = notebook(
        tmp_path / "a.ipynb", code_cell("x = 1\n", "y = 2"), code_cell(), code_cell("x + y")
    )
    done = run("run", mine, file)
    assert (done.status, done.out) == (0, "3\n")


def test_a_notebook_stops_at_the_first_cell_that_raises(run, mine, tmp_path):
    file = notebook(tmp_path / "a.ipynb", code_cell("1/0"), code_cell("print('never')"))
    done = run("run", mine, file)
    assert (done.status, done.out) == (1, "")


def test_a_cell_that_is_tagged_may_raise(run, mine, tmp_path):
    cells = code_cell("1/0", tags=["raises-exception"]), code_cell("print('on')")
    done = run("run", mine, notebook(tmp_path / "a.ipynb", *cells))
    assert (done.status, done.out) == (0, "on\n")
    assert "ZeroDivisionError" in done.err


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"nbformat": 3, "worksheets": []}', '{"nbformat": 4}']
)
def test_what_is_no_notebook_is_told(run, mine, tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    done = run("run", mine, str(tmp_path / "a.ipynb"))
    assert done.status == 1
    assert "is not a notebook of format 4" in done.err


def test_a_file_that_is_not_there_is_told(run, mine):
    done = run("run", mine, "nowhere.py")
    assert done.status == 1
    assert "There is no file 'nowhere.py'" in done.err


def test_a_kernel_that_dies_ends_with_3_the_reason_and_its_output(run, kernel):
    code = "import os; os.write(2, b'I feel ill\\n'); os.kill(os.getpid(), 9)"
    done = run("run", kernel, "-c", code)
    assert done.status == 3
    assert "error: The kernel died while it ran the code: killed by SIGKILL." in done.err
    assert "  I feel ill\n" in done.err


def test_output_from_before_the_death_is_printed(run, mine):
    code = "import os, sys, time; print('last words', flush=True); time.sleep(0.5); os._exit(7)"
    done = run("run", mine, "-c", code)
    assert done.status == 3
    assert done.out == "last words\n"
    assert "exited with code 7" in done.err


@pytest.mark.parametrize("provisioner", ["kernel-provisioner-tiny", "local-provisioner"])
def test_a_command_that_exits_at_once_is_told_with_its_output(run, tiny, provisioned, provisioner):
    argv = ["python", "-c", "import sys; sys.exit('no licence for {connection_file}')"]
    provisioned("mine", provisioner, argv=argv)
    done = run("run", "mine", "-c", "1")
    assert done.status == 3
    assert "The kernel died before it answered: exited with code 1." in done.err
    assert "  no licence for " in done.err


def test_a_kernel_that_does_not_answer_is_told(run, tiny, provisioned):
    argv = ["python", "-c", "import time; time.sleep(60)", "{connection_file}"]
    provisioned("mine", tiny, argv=argv)
    done = run("run", "mine", "-c", "1", "--startup-timeout", "1")
    assert done.status == 1
    assert "did not answer within 1 seconds" in done.err


def test_a_command_that_does_not_exist_is_told(run, provisioned):
    provisioned("mine", "local-provisioner", argv=["no-such-command", "{connection_file}"])
    done = run("run", "mine", "-c", "1")
    assert done.status == 1
    assert "The kernel could not be launched" in done.err
    assert "no-such-command" in done.err
    assert "Traceback" not in done.err


def test_what_a_provisioner_raises_is_told_in_one_line(run, tiny, provisioned):
    provisioned("mine", "tiny-strange")
    done = run("run", "mine", "-c", "1")
    assert done.status == 1
    assert done.err == "error: The kernel could not be launched: the moon is in the way\n"


def test_the_time_limit_ends_the_kernel_with_124(run, mine):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    done = run("run", mine, "-c", code, "--timeout", "1")
    assert done.status == 124
    assert "longer than 1 seconds" in done.err
    assert not is_running(int(done.out))


def test_the_kernel_is_gone_afterwards(run, mine):
    done = run("run", mine, "-c", "import os; print(os.getpid())")
    assert not is_running(int(done.out))
    assert read_records() == []


def test_a_request_for_input_without_a_terminal_is_refused(run_script, mine):
    done = run_script("run", mine, "-c", "input('name? ')", input="me\n")
    assert done.status == 1
    assert "StdinNotImplementedError" in done.err


def test_large_output_is_not_cut(run, mine):
    done = run("run", mine, "-c", "for i in range(20000): print(i)")
    assert done.out.splitlines() == [str(i) for i in range(20000)]


# -- on a terminal, and with signals --------------------------------------------------------------


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal."""

    def __init__(self, argv):
        self.controller, terminal = pty.openpty()
        self.process = subprocess.Popen(
            argv, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)
        self.shown = ""

    def expect(self, text, timeout=30):
        """Wait until this text has been shown."""
        end = time.monotonic() + timeout
        while text not in self.shown:
            ready, _, _ = select.select([self.controller], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} was not shown, but {self.shown!r}"
            self.read()

    def read(self):
        data = b""
        with contextlib.suppress(OSError):  # Linux says EIO where everybody has closed it
            data = os.read(self.controller, 1 << 16)
        assert data, f"it ended, having shown {self.shown!r}"
        self.shown += data.decode()

    def type(self, text):
        os.write(self.controller, text.encode())

    def wait(self, timeout=30):
        """Return the exit status; all that was shown is read then."""
        status = self.process.wait(timeout)
        with contextlib.suppress(AssertionError):
            while True:
                self.read()
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.controller)


@pytest.fixture
def terminal(script):
    try:
        for descriptor in pty.openpty():
            os.close(descriptor)
    except OSError as error:
        pytest.skip(f"there are no pseudo-terminals here ({error}): mount devpts on /dev/pts")
    opened = []

    def start(*argv):
        opened.append(Terminal([*script, *argv]))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_input_is_answered_from_the_terminal(terminal, mine):
    shown = terminal("run", mine, "-c", "print('hello', input('name? '), input('and? '))")
    shown.expect("name? ")
    shown.type("Ada\n")
    shown.expect("and? ")
    shown.type("Bea\n")
    assert shown.wait() == 0
    assert "hello Ada Bea" in shown.shown


def test_a_password_is_not_echoed(terminal, mine):
    shown = terminal("run", mine, "-c", "import getpass; print(len(getpass.getpass('secret? ')))")
    shown.expect("secret? ")
    shown.type("xyzzy\n")
    assert shown.wait() == 0
    assert "xyzzy" not in shown.shown
    assert "5" in shown.shown


def test_the_end_of_input_is_an_eof_error(terminal, mine):
    shown = terminal("run", mine, "-c", "input('name? ')")
    shown.expect("name? ")
    shown.type("\x04")
    assert shown.wait() == 1
    assert "EOFError" in shown.shown


def test_a_terminal_shows_what_a_launch_is_doing(terminal, mine):
    shown = terminal("run", mine, "-c", "1")
    assert shown.wait() == 0
    assert "pulling [1/3]" in shown.shown


def test_a_traceback_on_a_terminal_has_colours(terminal, mine):
    shown = terminal("run", mine, "-c", "1/0")
    assert shown.wait() == 1
    assert re.search("\x1b\\[[0-9;]*m", shown.shown)


SLEEP = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"


def started(command):
    """Return the kernel's pid once it runs the code."""
    line = command.stdout.readline().split()
    assert line[0] == "pid"
    return int(line[1])


@pytest.fixture
def start(script):
    """Start a command in a session of its own and go on."""
    commands = []

    def start(*argv):
        command = subprocess.Popen(
            [*script, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        commands.append(command)
        return command

    yield start
    for command in commands:
        if command.poll() is None:
            command.kill()
        command.communicate()


def test_ctrl_c_interrupts_the_kernel(start, mine):
    command = start("run", mine, "-c", SLEEP)
    pid = started(command)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 1
    assert "KeyboardInterrupt" in err
    assert not is_running(pid)


def test_ctrl_c_lets_code_that_catches_it_go_on(start, mine):
    code = f"try:\n    {SLEEP}\nexcept KeyboardInterrupt:\n    print('caught')"
    command = start("run", mine, "-c", code)
    started(command)
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=30)
    assert (command.returncode, out) == (0, "caught\n")


def test_a_second_ctrl_c_ends_the_kernel(start, mine):
    stubborn = (
        "import os, time\nprint('pid', os.getpid(), flush=True)\n"
        "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n"
        "        print('no', flush=True)"
    )
    command = start("run", mine, "-c", stubborn)
    pid = started(command)
    command.send_signal(signal.SIGINT)
    assert command.stdout.readline() == "no\n"
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 130
    assert not is_running(pid)


def test_ctrl_c_before_the_kernel_answers_ends_it(start, tiny, provisioned, tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); "
        "time.sleep(60)"
    )
    provisioned("silent", tiny, argv=["python", "-c", code, "{connection_file}"])
    command = start("run", "silent", "-c", "1")
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert command.returncode == 130
    assert not is_running(int(pid_file.read_text()))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_ends_its_kernel(start, mine, signum):
    command = start("run", mine, "-c", SLEEP)
    pid = started(command)
    command.send_signal(signum)
    command.communicate(timeout=30)
    assert command.returncode == 128 + signum
    assert not is_running(pid)


def test_a_reader_that_goes_away_ends_the_kernel(start, mine):
    command = start("run", mine, "-c", f"{SLEEP.rpartition(';')[0]}\nwhile True: print('more')")
    pid = started(command)
    command.stdout.close()
    assert command.wait(timeout=30) == 1
    assert command.stderr.read() == ""
    assert not is_running(pid)
    command.stdout = None
