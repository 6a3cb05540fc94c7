"""What becomes of the kernels of one host: one script there tells it, over one channel, for all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

from kernel_provisioner_core.connection import PORT_NAMES
from kernel_provisioner_core.errors import BackendUnavailableError
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_ssh.client import Stream
from kernel_provisioner_ssh.commands import watch_script
from kernel_provisioner_ssh.connection import Connection

__all__ = ["SSHWatch", "exit_of"]

_LONGEST_SIGNAL = 64
_LOST = KernelExit(
    None, "ended without a word: its host was restarted, or all its processes were killed"
)


def exit_of(status: int) -> KernelExit:
    """Return how a kernel ended from what a shell says of it: 128 and more are signals."""
    number = status - 128
    return KernelExit(-number if 0 < number <= _LONGEST_SIGNAL else status)


class SSHWatch(Watch):
    """Follows all kernels that one owner (a process) has on one host.

    It also renews the lease without which they end.

    Args:
        connection: The way to the host.
        owner: The name of the owner's directory there.
    """

    def __init__(self, connection: Connection, owner: str) -> None:
        super().__init__()
        self._connection = connection
        self._owner = owner
        self._found: dict[str, KernelExit | None] = {}
        self._settled: set[str] = set()
        self._ports: dict[str, dict[str, int]] = {}
        self._ports_changed = threading.Condition()
        self._stream: Stream | None = None
        self._interruptions = 0
        self.renewal_interval = 15.0
        """Seconds between two renewals of the lease: the shortest that one of the kernels needs."""

    # -- for the provisioner --------------------------------------------------------------------

    @classmethod
    def on(cls, connection: Connection, owner: str) -> SSHWatch:
        """Return the watch that goes through a connection, made with the first call.

        A connection that was released has a watch that is of no use to the next one to the same host.
        """
        with Watch._lock:
            found = connection.watch
            if not isinstance(found, cls):
                found = connection.watch = cls(connection, owner)
                found._key = (cls, id(connection))
            return found

    def started(self, name: str) -> None:
        """Learn from lists as well from now on; see the base class. It makes no request: events were heard already."""
        with Watch._lock:
            self._starting.discard(name)
            self._passed_over.discard(name)
        ended = self._found.get(name)
        if ended is not None:
            self._tell(name, ended)

    def forget(self, name: str) -> None:
        """Forget the ports of a kernel."""
        self._ports.pop(name, None)

    def ports(self, name: str, timeout: float) -> dict[str, int] | None:
        """Return the ports that a kernel has written back, or None if they are not known in time.

        Args:
            name: The kernel's name.
            timeout: In seconds.
        """
        with self._ports_changed:
            self._ports_changed.wait_for(lambda: name in self._ports, timeout)
            return self._ports.get(name)

    def set_ports(self, name: str, ports: dict[str, int]) -> None:
        """Learn the ports of a kernel."""
        with self._ports_changed:
            self._ports[name] = ports
            self._ports_changed.notify_all()

    # -- for the thread of the base class -------------------------------------------------------

    def follow(self) -> Iterator[tuple[str, KernelExit | None]]:
        """Run the watch's script and tell what it says; see the base class."""
        interruptions = self._interruptions
        with Watch._lock:
            self._settled = self._kernels.keys() - self._starting
        session, mark = os.urandom(6).hex(), os.urandom(6).hex()
        stream = self._connection.open(watch_script(self._owner, session, mark))
        self._stream = stream
        ended = threading.Event()
        self._connection.on_silence(self._hear_of_silence)
        self._found = {}
        ready = False
        said = []
        try:
            if interruptions != self._interruptions:
                return
            for line in stream.lines():
                marked, _, event = line.partition(" ")
                if marked != mark:
                    said.append(line)
                    continue
                kind, *words = event.split()
                if kind == "ready":
                    ready = True
                    threading.Thread(
                        target=self._renew, args=(stream, ended), name="kernel-lease", daemon=True
                    ).start()
                    yield "", None
                elif kind == "error":
                    raise BackendUnavailableError(f"{self._connection.target.host}: {event}.")
                elif kind == "session":
                    self._connection.note_session(*words)
                else:
                    yield from self._understand(kind, words, ready)
            if not ready and interruptions == self._interruptions:
                raise BackendUnavailableError(
                    f"{self._connection.target.host} does not run a shell for us: {' '.join(said)[-500:]}"
                )
        finally:
            ended.set()
            self._connection.forget_silence(self._hear_of_silence)
            stream.close()

    def list(self) -> dict[str, KernelExit | None]:
        """Return what the script has found at its start; see the base class.

        A kernel that was started beside it may be missing there, and runs.
        """
        with Watch._lock:
            new = self._kernels.keys() - self._settled
        return {**dict.fromkeys(new), **self._found}

    def interrupt(self) -> None:
        """End `follow`; see the base class."""
        self._interruptions += 1
        stream = self._stream
        if stream is not None:
            stream.close()

    def _understand(
        self, kind: str, words: Sequence[str], ready: bool
    ) -> Iterator[tuple[str, KernelExit | None]]:
        name, *rest = words
        ended: KernelExit | None = None
        if kind == "ports":
            self.set_ports(name, dict(zip(PORT_NAMES, map(int, rest), strict=True)))
            return
        if kind == "exit":
            ended = exit_of(int(rest[0]))
        elif kind == "lost":
            ended = _LOST
        if ready:
            yield name, ended
        else:
            self._found[name] = ended

    def _renew(self, stream: Stream, ended: threading.Event) -> None:
        count = 0
        token = os.urandom(3).hex()
        while True:
            try:
                stream.send(f"{token}{count}")
            except BackendUnavailableError:
                return
            count += 1
            if ended.wait(self.renewal_interval):
                return

    def _hear_of_silence(self, silent: bool) -> None:
        with Watch._lock:
            for liveness in self._kernels.values():
                if silent:
                    liveness.set_unknown()
                else:
                    liveness.set_alive()
