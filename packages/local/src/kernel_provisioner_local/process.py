"""The kernel's process: is it there, how did it end, and signals that reach no stranger.

A child that has ended stays a zombie, and its pid and process-group id stay taken, until it is reaped. `exit_code`
only looks (`waitid` with WNOWAIT); `reap` reaps. In between, the group can be signalled safely, and with
it whatever the kernel has left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from kernel_provisioner_core.errors import KernelNotFoundError, SignalError
from kernel_provisioner_core.exits import UNKNOWN_EXIT_CODE
from kernel_provisioner_core.processes import ProcessIdentity

__all__ = ["AdoptedProcess", "ChildProcess", "KernelProcess"]


class KernelProcess:
    """A kernel's process; see the two subclasses for where it comes from.

    Args:
        pid: The pid of the process, which leads a process group of its own.
    """

    def __init__(self, pid: int) -> None:
        """Open a pidfd where there are any; it names this process and never another one."""
        self.pid = pid
        self._pidfd = _open_pidfd(pid)
        self._exit_code: int | None = None
        self._ended: Future[None] | None = None

    def exit_code(self) -> int | None:
        """Return None while the process runs, else its exit code, negative for a signal.

        Costs one system call and reaps nothing.
        """
        if self._exit_code is None:
            self._exit_code = self._look()
        return self._exit_code

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and its group; silent if there is nobody.

        Raises:
            SignalError: The process runs and belongs to somebody else (a kernel behind `sudo`).
        """
        raise NotImplementedError

    def reap(self) -> None:
        """Let the pid of an ended process go and close what was open for it. May be called twice."""
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)

    async def wait(self) -> int:
        """Wait until the process has ended, woken by the end itself, and return its exit code.

        May be called from several tasks and loops at once, and be cancelled. Reaps nothing.
        """
        while (code := self.exit_code()) is None:
            if self._pidfd is None:
                await asyncio.wrap_future(self._end())
            else:
                await _readable(self._pidfd)
        return code

    def _look(self) -> int | None:
        raise NotImplementedError

    def _block_until_end(self) -> None:
        """Block until the process has ended, on a platform without pidfds."""
        raise NotImplementedError

    def _end(self) -> Future[None]:
        """Return what a thread of ours sets once the process has ended; a future of no event loop."""
        if self._ended is None:
            ended = self._ended = Future()

            def watch() -> None:
                self._block_until_end()
                ended.set_result(None)

            threading.Thread(target=watch, name=f"kernel-{self.pid}-exit", daemon=True).start()
        # one of its own for each waiter, or the cancellation of one would cancel all
        mine: Future[None] = Future()
        self._ended.add_done_callback(lambda _: _set(mine))
        return mine


class ChildProcess(KernelProcess):
    """A process that we have started.

    Args:
        popen: What `launch_kernel` returned.
    """

    def __init__(self, popen: subprocess.Popen[Any]) -> None:
        """Take over the process; nobody else may wait for it."""
        super().__init__(popen.pid)
        self._popen = popen
        self._reaped = False
        # a caller may have launched it without a group of its own; never signal the server's
        self._leads_group = hasattr(os, "getpgid") and os.getpgid(popen.pid) == popen.pid

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and its group; silent if there is nobody.

        On Windows, SIGINT sets the interrupt event, and every other signal ends the process.
        """
        if self._reaped:
            return
        if sys.platform == "win32":
            event = getattr(self._popen, "interrupt_event", None)
            if signum == signal.SIGINT and event is not None:
                event.set()
            elif self._popen.poll() is None:
                self._popen.terminate()
            return
        try:
            _signal(self.pid, signum, group=self._leads_group)
        except SignalError:
            if (
                self.exit_code() is None
            ):  # macOS refuses signals to a group whose leader is a zombie
                raise

    def reap(self) -> None:
        """Reap the process if it has ended; one that runs is left alone."""
        if self.exit_code() is None:
            return
        self._popen.wait()
        self._reaped = True
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()
        event = getattr(self._popen, "interrupt_event", None)
        if event is not None:
            event.close()
        super().reap()

    def _look(self) -> int | None:
        if not hasattr(os, "waitid"):
            return self._popen.poll()
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else has reaped it, and the code with it
            return UNKNOWN_EXIT_CODE
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _block_until_end(self) -> None:
        if not hasattr(os, "waitid"):
            self._popen.wait()
            return
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


class AdoptedProcess(KernelProcess):
    """A process that another process has started; its exit code is known to nobody here.

    Args:
        identity: Which process it is.

    Raises:
        KernelNotFoundError: It has ended, and its pid may be another process's by now.
    """

    def __init__(self, identity: ProcessIdentity) -> None:
        """Hold the process by a pidfd, and only then check that it is the right one."""
        super().__init__(identity.pid)
        self._identity = identity
        if not identity.is_running():
            super().reap()
            raise KernelNotFoundError(
                f"The kernel's process {identity.pid} has ended (a process that has this pid now is another).",
                hint="Start a new kernel; `jupyter provisioner reap` forgets the old one.",
            )

    def signal_group(self, signum: int) -> None:
        """Send a signal to the process and its group; silent if it has ended."""
        if self._identity.is_running():
            _signal(self.pid, signum, group=True)

    def _look(self) -> int | None:
        return None if self._identity.is_running() else UNKNOWN_EXIT_CODE

    def _block_until_end(self) -> None:
        pause = threading.Event()
        while self._identity.is_running():
            pause.wait(0.1)  # neither a child nor a pidfd: there is nothing to be woken by


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before Linux 5.3, a sandbox that forbids it, or no such process
        return None


def _signal(pid: int, signum: int, *, group: bool) -> None:
    try:
        (os.killpg if group else os.kill)(pid, signum)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise SignalError(
            f"The kernel's process {pid} cannot be signalled: it belongs to another user.",
            hint='Have the kernel interrupted by a message: "interrupt_mode": "message" in kernel.json.',
        ) from error


async def _readable(fd: int) -> None:
    """Wait until a file descriptor is readable."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    # a loop watches a descriptor for one callback only, and several tasks may wait
    mine = os.dup(fd)
    try:
        loop.add_reader(mine, _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(mine)
    finally:
        os.close(mine)


def _set(future: Future[None] | asyncio.Future[None]) -> None:
    if not future.done():  # the waiter may have been cancelled
        future.set_result(None)
