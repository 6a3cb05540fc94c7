"""The module for Windows against its documentation; the platform's calls are replaced."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from kernel_provisioner_core import launcher, windows


class Call:
    """A foreign function: records its calls, fills in output arguments, returns what it is told."""

    def __init__(self, result):
        self.result = result
        self.calls = []
        self.restype = None

    def __call__(self, *arguments):
        self.calls.append(arguments)
        return self.result


@pytest.fixture
def kernel32(monkeypatch):
    """Replace kernel32."""

    class Duplicate(Call):
        def __call__(self, *arguments):
            arguments[3]._obj.value = 99  # the handle is returned through the fourth argument
            return super().__call__(*arguments)

    calls = SimpleNamespace(
        CreateEventW=Call(77),
        SetEvent=Call(1),
        CloseHandle=Call(1),
        GetCurrentProcess=Call(-1 & 0xFFFFFFFFFFFFFFFF),
        DuplicateHandle=Duplicate(1),
    )
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=calls), raising=False)
    return calls


def test_an_interrupt_event_is_inheritable_and_resets_itself(kernel32):
    event = windows.InterruptEvent()
    attributes, manual_reset, initial, name = kernel32.CreateEventW.calls[0]
    assert (event.handle, manual_reset, initial, name) == (77, False, False, None)
    assert attributes._obj.bInheritHandle == 1
    assert attributes._obj.nLength == ctypes.sizeof(attributes._obj)
    assert kernel32.CreateEventW.restype is ctypes.c_void_p  # or a 64-bit handle is cut off


def test_setting_the_event_interrupts_and_closing_it_twice_is_harmless(kernel32):
    event = windows.InterruptEvent()
    event.set()
    assert [c[0].value for c in kernel32.SetEvent.calls] == [77]
    event.close()
    event.close()
    event.set()
    assert [c[0].value for c in kernel32.CloseHandle.calls] == [77]
    assert len(kernel32.SetEvent.calls) == 1


def test_an_event_that_cannot_be_made_is_an_error(kernel32):
    kernel32.CreateEventW.result = 0
    with pytest.raises(OSError, match="CreateEvent failed"):
        windows.InterruptEvent()


def test_the_parents_handle_is_an_inheritable_duplicate(kernel32):
    assert windows.parent_handle() == 99
    arguments = kernel32.DuplicateHandle.calls[0]
    assert arguments[4:] == (0, True, 2)  # access is ignored, inheritable, DUPLICATE_SAME_ACCESS


def test_a_handle_that_cannot_be_duplicated_is_an_error(kernel32):
    kernel32.DuplicateHandle.result = 0
    with pytest.raises(OSError, match="DuplicateHandle failed"):
        windows.parent_handle()


@pytest.fixture
def popen(monkeypatch, kernel32):
    """Pretend to be on Windows; return the arguments that Popen was called with."""
    seen = {}

    def popen(cmd, **arguments):
        seen.update(arguments, cmd=cmd)
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(launcher.subprocess, "Popen", popen)
    return seen


def test_a_kernel_gets_the_event_and_the_parents_handle_in_its_environment(popen):
    process = launcher.launch_kernel(["kernel"], env={"A": "1"})
    assert popen["env"] == {
        "A": "1",
        "JPY_PARENT_PID": "99",
        "JPY_INTERRUPT_EVENT": "77",
        "IPY_INTERRUPT_EVENT": "77",
    }
    assert popen["close_fds"] is False
    assert popen["creationflags"] == 0
    assert "start_new_session" not in popen
    assert process.interrupt_event.handle == 77


def test_an_independent_kernel_gets_a_process_group_and_no_parent(popen):
    launcher.launch_kernel(["kernel"], env={}, independent=True, creationflags=0x10)
    assert popen["creationflags"] == 0x10 | windows.CREATE_NEW_PROCESS_GROUP
    assert "JPY_PARENT_PID" not in popen["env"]


def test_under_pythonw_a_kernel_gets_no_window_and_no_broken_streams(popen, monkeypatch):
    monkeypatch.setattr(sys, "executable", r"C:\Python\pythonw.exe")
    launcher.launch_kernel(["kernel"], env={}, stderr=5)
    assert popen["creationflags"] == windows.CREATE_NO_WINDOW
    assert (popen["stdout"], popen["stderr"]) == (launcher.subprocess.DEVNULL, 5)


def test_a_failed_launch_closes_the_event(popen, kernel32, monkeypatch):
    def fail(cmd, **arguments):
        raise FileNotFoundError(2, "missing")

    monkeypatch.setattr(launcher.subprocess, "Popen", fail)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        launcher.launch_kernel(["no-such-kernel"], env={"PATH": ""})
    assert [c[0].value for c in kernel32.CloseHandle.calls] == [77]
