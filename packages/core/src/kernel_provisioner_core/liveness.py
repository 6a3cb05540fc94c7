"""Whether a kernel that runs elsewhere is alive: alive, dead, or unknown since when."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

from kernel_provisioner_core.exits import KernelExit

__all__ = ["Liveness"]


class Liveness:
    """What a watch has learned of one kernel; read by `poll` at no cost, from any thread.

    Unknown is not dead: while the daemon or the network is away, the kernel counts as alive.
    """

    def __init__(self) -> None:
        """Begin as alive."""
        self._lock = threading.Lock()
        self._ended: KernelExit | None = None
        self._unknown_since: float | None = None
        self._waiters: list[Future[KernelExit]] = []

    @property
    def ended(self) -> KernelExit | None:
        """How the kernel ended; None while it is alive or nobody knows."""
        return self._ended

    @property
    def unknown_seconds(self) -> float:
        """For how long nothing has been known, in seconds; 0 if it is known."""
        since = self._unknown_since
        return 0.0 if since is None or self._ended is not None else time.monotonic() - since

    def set_alive(self) -> None:
        """Learn that the kernel runs; one that has ended stays ended."""
        self._unknown_since = None

    def set_unknown(self) -> None:
        """Learn that nothing can be learned just now."""
        if self._unknown_since is None:
            self._unknown_since = time.monotonic()

    def set_ended(self, ended: KernelExit) -> bool:
        """Learn how the kernel ended; return whether that is news."""
        with self._lock:
            if self._ended is not None:
                return False
            self._ended = ended
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.cancelled():
                waiter.set_result(ended)
        return True

    async def wait(self) -> KernelExit:
        """Wait until it is known that the kernel has ended; any number of tasks and loops may."""
        with self._lock:
            if self._ended is not None:
                return self._ended
            waiter: Future[KernelExit] = Future()
            self._waiters.append(waiter)
        try:
            return await asyncio.wrap_future(waiter)
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
