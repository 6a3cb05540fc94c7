"""What is special about a kernel process on Windows, and nothing else.

Written against Microsoft's documentation of `CreateEvent`, `SetEvent`, `DuplicateHandle` and the
process creation flags; the tests replace the platform calls. It is not exercised on Windows.

A kernel there cannot be interrupted by a signal: it inherits the handle of an event (its number is in
the environment as JPY_INTERRUPT_EVENT) that is set to interrupt it. And it cannot see that its parent is gone by
its parent's pid: it inherits a handle of the parent process (JPY_PARENT_PID) and waits for it.
"""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW", "InterruptEvent", "parent_handle"]

# Process creation flags, from Microsoft's documentation of CreateProcess.
CREATE_NEW_PROCESS_GROUP = 0x00000200
CREATE_NO_WINDOW = 0x08000000

_DUPLICATE_SAME_ACCESS = 0x2


class _SecurityAttributes(ctypes.Structure):
    # SECURITY_ATTRIBUTES: DWORD, LPVOID, BOOL
    _fields_ = (
        ("nLength", ctypes.c_uint32),
        ("lpSecurityDescriptor", ctypes.c_void_p),
        ("bInheritHandle", ctypes.c_int),
    )


class InterruptEvent:
    """An event that a kernel process inherits and takes as its interrupt.

    Raises:
        OSError: Windows refuses to make the event.
    """

    def __init__(self) -> None:
        """Make an auto-reset event without a name, with a handle that child processes inherit."""
        attributes = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), None, 1)
        create = _kernel32().CreateEventW
        create.restype = ctypes.c_void_p  # a HANDLE is as wide as a pointer
        handle = create(ctypes.byref(attributes), False, False, None)
        if not handle:
            raise OSError("CreateEvent failed: the kernel could not be interrupted later.")
        self.handle: int = handle

    def set(self) -> None:
        """Interrupt the kernel; harmless when it is gone or the event is closed."""
        if self.handle:
            _kernel32().SetEvent(ctypes.c_void_p(self.handle))

    def close(self) -> None:
        """Close our handle. May be called twice."""
        handle, self.handle = self.handle, 0
        if handle:
            _kernel32().CloseHandle(ctypes.c_void_p(handle))


def parent_handle() -> int:
    """Return an inheritable handle of this process, for a kernel that has to end with it.

    Raises:
        OSError: Windows refuses to duplicate the handle.
    """
    kernel32 = _kernel32()
    get_current = kernel32.GetCurrentProcess
    get_current.restype = ctypes.c_void_p
    this = ctypes.c_void_p(get_current())
    handle = ctypes.c_void_p()
    inheritable = True
    if not kernel32.DuplicateHandle(
        this, this, this, ctypes.byref(handle), 0, inheritable, _DUPLICATE_SAME_ACCESS
    ):
        raise OSError("DuplicateHandle failed: the kernel could not notice the end of its server.")
    return int(handle.value or 0)


def _kernel32() -> Any:
    return ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
