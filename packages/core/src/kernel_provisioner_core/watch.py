"""One thread per daemon or API server that learns how kernels are, for all kernels there.

A backend says how to list and how to follow; what is done about a daemon that goes away and comes back is here.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar

from kernel_provisioner_core.errors import BackendUnavailableError
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.liveness import Liveness

__all__ = ["Watch"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries to reach a daemon that is away

_log = logging.getLogger(__name__)


class Watch(ABC):
    """Follows one daemon for all kernels of this process that run there.

    The thread starts with the first kernel and ends with the last. Each time it has (re)connected, it lists all
    kernels once, so that nothing that happened meanwhile is missed.
    """

    _watches: ClassVar[dict[Hashable, Watch]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._kernels: dict[str, Liveness] = {}
        self._listeners: dict[str, Callable[[KernelExit], None]] = {}
        self._starting: set[str] = set()
        self._passed_over: set[str] = set()
        self._running = False
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._key: Hashable = None

    # -- what a backend has to do ---------------------------------------------------------------

    @abstractmethod
    def follow(self) -> Iterator[tuple[str, KernelExit | None]]:
        """Connect and yield what happens: a kernel's name, and how it ended or None if it runs.

        Yields `("", None)` once the connection stands and nothing later can be missed. Ends, or raises
        BackendUnavailableError, when the connection is lost or `interrupt` was called.
        """

    @abstractmethod
    def list(self) -> dict[str, KernelExit | None]:
        """Return the kernels that exist: name to how it ended, or None if it runs.

        Raises:
            BackendUnavailableError: The daemon cannot be reached.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make `follow` end soon; called from another thread."""

    # -- for provisioners -----------------------------------------------------------------------

    @classmethod
    def of(cls, key: Hashable, make: Callable[[], Watch]) -> Watch:
        """Return the watch of a daemon, made with the first call for it.

        Args:
            key: What tells the daemon from others (its address).
            make: Makes the watch.
        """
        with Watch._lock:
            found = Watch._watches.get((cls, key))
            if found is None:
                found = make()
                found._key = (cls, key)
                Watch._watches[found._key] = found
            return found

    def add(self, name: str, liveness: Liveness, on_exit: Callable[[KernelExit], None]) -> None:
        """Watch over a kernel that is about to start; call `started` once it has.

        In between, its end is learned from what happens, but not from what is listed: a container that is started anew
        is listed as it ended the last time.

        Args:
            name: What the daemon calls it.
            liveness: What is to be told.
            on_exit: Called once, in the watch's thread, when it has ended.
        """
        with Watch._lock:
            self._kernels[name] = liveness
            self._listeners[name] = on_exit
            self._starting.add(name)
            if not self._running:
                self._running = True
                Watch._watches[self._key] = self
                self._stopping = threading.Event()
                threading.Thread(
                    target=self._run, args=(self._stopping,), name="kernel-watch", daemon=True
                ).start()

    def started(self, name: str) -> None:
        """Learn from lists as well from now on; makes a request if one was passed over meanwhile.

        Raises:
            BackendUnavailableError: The daemon cannot be reached.
        """
        with Watch._lock:
            self._starting.discard(name)
            again = name in self._passed_over
            self._passed_over.discard(name)
        if again:
            self._compare()

    def remove(self, name: str) -> None:
        """Watch over a kernel no longer. May be called twice."""
        with Watch._lock:
            self._listeners.pop(name, None)
            self._starting.discard(name)
            self._passed_over.discard(name)
            if self._kernels.pop(name, None) is None or self._kernels:
                return
            self._running = False
            self._stopping.set()
            self._connected.clear()
            if Watch._watches.get(self._key) is self:
                del Watch._watches[self._key]
        self.interrupt()

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the watch follows the daemon; return whether it does.

        Args:
            timeout: In seconds.
        """
        return self._connected.wait(timeout)

    # -- the thread -----------------------------------------------------------------------------

    def _run(self, stopping: threading.Event) -> None:
        pause = _FIRST_PAUSE
        while not stopping.is_set():
            try:
                for name, ended in self.follow():
                    if stopping.is_set():
                        return
                    if name:
                        self._tell(name, ended)
                        continue
                    self._compare()
                    self._connected.set()
                    pause = _FIRST_PAUSE
            except BackendUnavailableError as error:
                _log.debug("The watch has lost its connection: %s", error)
            self._connected.clear()
            if stopping.is_set():
                return
            with Watch._lock:
                for liveness in self._kernels.values():
                    liveness.set_unknown()
            stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _compare(self) -> None:
        """Hold what exists against what is watched: a kernel that is nowhere has been removed."""
        with Watch._lock:  # before the list is made: what is added meanwhile may be missing there
            self._passed_over |= self._starting
            names = self._kernels.keys() - self._starting
        found: dict[str, Any] = dict(self.list())
        for name in names:
            gone = KernelExit(None, "removed by somebody else")
            self._tell(name, found.get(name, gone))

    def _tell(self, name: str, ended: KernelExit | None) -> None:
        with Watch._lock:
            liveness = self._kernels.get(name)
            listener = self._listeners.get(name)
        if liveness is None or listener is None:
            return  # somebody else's kernel
        if ended is None:
            liveness.set_alive()
        elif liveness.set_ended(ended):
            listener(ended)
