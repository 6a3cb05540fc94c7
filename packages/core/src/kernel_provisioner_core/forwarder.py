"""Local ports whose connections end at a kernel elsewhere: what tunnels and port-forwards share.

A `Forwarder` listens on loopback for the life of its provisioner, so that clients which stayed connected find a
restarted kernel, or one behind a new tunnel, on the ports that they know. A backend says how one connection to the
kernel is made (`dial`), and returns a `Duplex`: a socket (`SocketDuplex`), a channel of an ssh connection, a websocket.

One thread per forwarder moves the bytes of all its connections; dialling, which may block, has threads of its own
that live as long as it takes. An idle forwarder costs nothing but that thread.

A new connection is held until the kernel speaks (ZeroMQ's listeners greet first): while nothing listens yet, while the
tunnel is being replaced, and when a proxy in between accepts and hangs up, it is dialled again and again, until the
client gives up. libzmq does after 30 seconds, and comes back by itself. Once the kernel has spoken, the loss of either
side ends the other.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kernel_provisioner_core.connection import PORT_NAMES
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError

__all__ = ["Duplex", "Forwarder", "SocketDuplex"]

_CHUNK = 1 << 18  # bytes read in one go
_ROOM = 1 << 19  # bytes that wait for one side before the other is read no further
_TURN = 8  # chunks of one connection before the others have their turn
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds between two dials
_SEND_PAUSE = 0.002  # seconds until a full duplex that cannot be selected is tried again
_LONGEST_STEP = 5.0  # seconds that `close` waits for the thread
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

_log = logging.getLogger(__name__)


class Duplex(Protocol):
    """One connection to a kernel, as `dial` returns it.

    Its methods are called by the forwarder's thread, and never block.
    """

    def start(self, notify: Callable[[], object]) -> None:
        """Begin; called once, before all else.

        Args:
            notify: To be called, from any thread, whenever something has arrived, or has ended, or there may be room to
                send again. Not needed where `fileno` tells.
        """

    def fileno(self) -> int:
        """Return what to select for reading and writing; -1 where only `notify` tells."""

    def recv(self, size: int) -> bytes:
        """Return what has arrived, at most `size` bytes; `b""` once the kernel has closed its side.

        Raises:
            BlockingIOError: Nothing has arrived.
            OSError: The connection is lost.
        """

    def send(self, data: memoryview) -> int:
        """Send some of `data`; return how many bytes.

        Raises:
            BlockingIOError: There is no room now.
            OSError: The connection is lost.
        """

    def shutdown_write(self) -> None:
        """Tell the kernel that nothing more will be sent."""

    def close(self) -> None:
        """End the connection; called once, perhaps without `start`."""


class SocketDuplex:
    """A connected socket as a `Duplex`.

    Args:
        sock: The socket; it belongs to this object from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        _prepare(sock)

    def start(self, notify: Callable[[], object]) -> None:
        """Need no notice: sockets can be selected."""

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        """Receive; see `Duplex`."""
        return self._socket.recv(size)

    def send(self, data: memoryview) -> int:
        """Send; see `Duplex`."""
        return self._socket.send(data)

    def shutdown_write(self) -> None:
        """Close the sending side; see `Duplex`."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; see `Duplex`."""
        self._socket.close()


class Forwarder:
    """Listening ports on loopback, each connection to which is one to the kernel.

    It listens and runs from the construction until `close`.

    Args:
        dial: Makes one connection to the kernel: gets the name of the port as `ports` has it, returns a `Duplex`.
            It may block, and is called in threads of its own, several at once. What it raises of OSError or
            KernelProvisionerError means "not now": it is called again after a pause, as long as the client waits. Any
            other exception is logged and ends that client's connection.
        ports: Name to local port; 0 lets the operating system choose. Ports that a `PortReservation` holds can be
            taken. By default the five ports of a kernel, all chosen.
        ip: The address to listen on; one of this machine's loopback.

    Raises:
        ConfigurationError: A port is in use, or the address is not this machine's. Nothing listens then.
    """

    def __init__(
        self,
        dial: Callable[[str], Duplex],
        ports: Mapping[str, int] | None = None,
        *,
        ip: str = "127.0.0.1",
    ) -> None:
        self._dial = dial
        self._listeners: list[socket.socket] = []
        self.ports: dict[str, int] = {}
        try:
            for name, port in (ports or dict.fromkeys(PORT_NAMES, 0)).items():
                listener = _listen(ip, port)
                self._listeners.append(listener)
                self.ports[name] = listener.getsockname()[1]
        except BaseException:
            self._close_listeners()
            raise
        self._selector = selectors.DefaultSelector()
        self._waker, self._alarm = socket.socketpair()
        self._waker.setblocking(False)
        self._alarm.setblocking(False)
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._connections: set[_Connection] = set()
        self._closing = False
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kernel-forwarder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, let go of the ports, end the thread. May be called twice, from any thread.

        It waits for the thread, whose steps are short unless a `Duplex` breaks its promise.
        """
        self._closing = True
        self._call(lambda: None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_LONGEST_STEP)

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        for name, listener in zip(self.ports, self._listeners, strict=True):
            self._selector.register(listener, _READ, _Acceptor(self, name, listener))
        self._selector.register(self._alarm, _READ, None)
        try:
            while not self._closing:
                self._step()
        finally:
            self._close_listeners()
            for connection in list(self._connections):
                connection.end()
            with self._lock:
                self._closed = True
            while self._calls:  # a duplex that was on its way is closed
                self._calls.popleft()()
            self._selector.close()
            self._alarm.close()
            self._waker.close()

    def _step(self) -> None:
        for key, _ in self._selector.select(self._pause()):
            if key.data is None:
                self._silence_alarm()
            else:
                key.data.on_ready()
        for _ in range(len(self._calls)):
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _pause(self) -> float | None:
        if self._calls or self._closing:
            return 0
        if self._timers:
            return max(0.0, self._timers[0][0] - time.monotonic())
        return None

    def _silence_alarm(self) -> None:
        try:
            self._alarm.recv(4096)
        except BlockingIOError:
            pass

    def _call(self, function: Callable[[], None]) -> bool:
        """Have a function called in the forwarder's thread, from any thread; False if that has ended."""
        with self._lock:
            if self._closed:
                return False
            self._calls.append(function)
        if threading.current_thread() is not self._thread:
            try:
                self._waker.send(b"\0")
            except OSError:  # full: it is awake anyway; or closed meanwhile
                pass
        return True

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), function))

    def _select(self, fileobj: Any, events: int, data: Any) -> None:
        """Select just these events of something, none at all being among them."""
        try:
            if not events:
                self._selector.unregister(fileobj)
            else:
                self._selector.modify(fileobj, events, data)
        except KeyError:
            if events:
                self._selector.register(fileobj, events, data)

    def _close_listeners(self) -> None:
        while self._listeners:
            self._listeners.pop().close()


class _Acceptor:
    """One listening socket."""

    def __init__(self, forwarder: Forwarder, name: str, listener: socket.socket) -> None:
        self._forwarder = forwarder
        self._name = name
        self._listener = listener

    def on_ready(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:  # gone again, or out of file descriptors
            _log.debug("A connection could not be accepted: %s", error)
            if not isinstance(error, (BlockingIOError, ConnectionError)):
                self._rest()
            return
        connection = _Connection(self._forwarder, self._name, client)
        self._forwarder._connections.add(connection)
        connection.begin()

    def _rest(self) -> None:
        """Accept nothing for a while: without file descriptors it would be tried in a busy loop."""
        self._forwarder._select(self._listener, 0, self)
        self._forwarder._call_later(
            _LONGEST_PAUSE, lambda: self._forwarder._select(self._listener, _READ, self)
        )


class _Connection:
    """One client, and the duplex to the kernel once there is one. All of it runs in the forwarder's thread."""

    def __init__(self, forwarder: Forwarder, name: str, client: socket.socket) -> None:
        self._forwarder = forwarder
        self._name = name
        self._client = client
        _prepare(client)
        self._duplex: Duplex | None = None
        self._ended = False
        self._greeted = False
        self._pause = _FIRST_PAUSE
        self._said = (
            b""  # all that the client has said before the kernel has: each new duplex is told
        )
        self._to_kernel = memoryview(b"")
        self._to_client = memoryview(b"")
        self._client_done = False  # it sends nothing more
        self._kernel_done = False
        self._kernel_told = False  # that the client sends nothing more
        self._retry_set = False
        self._pumping = False  # a pass is on its way

    def begin(self) -> None:
        self._pump()
        self._start_dialling()

    # -- dialling -------------------------------------------------------------------------------

    def _start_dialling(self) -> None:
        if not self._ended:
            threading.Thread(target=self._dial, name="kernel-dial", daemon=True).start()

    def _dial(self) -> None:
        """Dial once, in a thread; the rest is the forwarder's thread's."""
        forwarder = self._forwarder
        try:
            duplex = forwarder._dial(self._name)
        except (OSError, KernelProvisionerError) as error:
            _log.debug("The kernel's %s is not there yet: %s", self._name, error)
            forwarder._call(self._dial_again)
        except Exception:  # noqa: BLE001 - a bug of the backend's, which would end this thread unseen
            _log.exception("The kernel's %s cannot be dialled.", self._name)
            forwarder._call(self.end)
        else:
            if not forwarder._call(lambda: self._connect(duplex)):
                duplex.close()

    def _dial_again(self) -> None:
        if not self._ended:
            self._forwarder._call_later(self._pause, self._start_dialling)
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)

    def _connect(self, duplex: Duplex) -> None:
        if self._ended:
            duplex.close()
            return
        self._duplex = duplex
        self._to_kernel = memoryview(self._said)
        self._kernel_told = False
        duplex.start(lambda: self._forwarder._call(self._pump))
        self._pump()

    def _lose_silent_kernel(self) -> None:
        """Try anew: what was dialled hung up before it said anything."""
        self._drop_duplex()
        self._dial_again()

    # -- moving bytes ---------------------------------------------------------------------------

    def on_ready(self) -> None:
        self._pump()

    def _pump(self) -> None:
        """Move what can be moved now, then say what is waited for; a bug of a duplex ends this connection only."""
        try:
            self._move()
        except Exception:  # noqa: BLE001 - the thread has others to serve
            _log.exception("A connection of the kernel's %s has failed.", self._name)
            self.end()

    def _move(self) -> None:
        if self._ended:
            return
        try:
            more = self._move_to_kernel()
        except OSError as error:
            _log.debug("A connection of the kernel's %s has ended: %s", self._name, error)
            self._lose(kernel=isinstance(error, _KernelLostError))
            return
        try:
            more = self._move_to_client() or more
        except OSError as error:
            _log.debug("A connection of the kernel's %s has ended: %s", self._name, error)
            self._lose(kernel=isinstance(error, _KernelLostError))
            return
        if self._client_done and not self._greeted:
            self.end()  # it has given up
            return
        if self._kernel_done and not self._greeted:
            self._lose_silent_kernel()
        elif self._kernel_done and self._client_done and not (self._to_client or self._to_kernel):
            self.end()
            return
        self._wait(more)

    def _lose(self, *, kernel: bool) -> None:
        if kernel and not self._greeted:
            self._lose_silent_kernel()
            self._wait(False)
        else:
            self.end()

    def _move_to_kernel(self) -> bool:
        """Move from the client to the kernel; return whether there may be more at once."""
        for _ in range(_TURN):
            if self._to_kernel and not self._flush_to_kernel():
                return False
            if self._client_done:
                if self._greeted and self._duplex is not None and not self._kernel_told:
                    self._kernel_told = True
                    with _KERNEL_SIDE:
                        self._duplex.shutdown_write()
                return False
            if not self._reads_client:
                return False
            try:
                data = self._client.recv(_CHUNK)
            except BlockingIOError:
                return False
            if not data:
                self._client_done = True
                continue
            if not self._greeted:
                self._said += data
            if self._duplex is not None:
                self._to_kernel = memoryview(data)
        return True

    def _flush_to_kernel(self) -> bool:
        if self._duplex is None:
            return False
        while self._to_kernel:
            try:
                with _KERNEL_SIDE:
                    sent = self._duplex.send(self._to_kernel)
            except BlockingIOError:
                return False
            self._to_kernel = self._to_kernel[sent:]
        return True

    def _move_to_client(self) -> bool:
        """Move from the kernel to the client; return whether there may be more at once."""
        for _ in range(_TURN):
            if self._to_client and not self._flush_to_client():
                return False
            if self._duplex is None or self._kernel_done:
                return False
            try:
                with _KERNEL_SIDE:
                    data = self._duplex.recv(_CHUNK)
            except BlockingIOError:
                return False
            if data:
                if not self._greeted:
                    self._greeted, self._said = True, b""
                self._to_client = memoryview(data)
                continue
            self._kernel_done = True
            if self._greeted:
                self._client.shutdown(socket.SHUT_WR)
            return False
        return True

    def _flush_to_client(self) -> bool:
        while self._to_client:
            try:
                sent = self._client.send(self._to_client)
            except BlockingIOError:
                return False
            self._to_client = self._to_client[sent:]
        return True

    @property
    def _reads_client(self) -> bool:
        if self._client_done or self._to_kernel:
            return False
        return self._greeted or len(self._said) < _ROOM

    def _wait(self, more: bool) -> None:
        """Select what the next step depends on."""
        forwarder, duplex = self._forwarder, self._duplex
        if more and not self._pumping:
            self._pumping = True
            forwarder._call(self._go_on)
        events = (_READ if self._reads_client else 0) | (_WRITE if self._to_client else 0)
        forwarder._select(self._client, events, self)
        if duplex is None:
            return
        fd = duplex.fileno()
        if fd >= 0:
            reads = not (self._to_client or self._kernel_done)
            events = (_READ if reads else 0) | (_WRITE if self._to_kernel else 0)
            forwarder._select(fd, events, self)
        elif self._to_kernel and not self._retry_set:
            self._retry_set = True
            forwarder._call_later(_SEND_PAUSE, self._retry)

    def _go_on(self) -> None:
        self._pumping = False
        self._pump()

    def _retry(self) -> None:
        self._retry_set = False
        self._pump()

    # -- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """End both sides; silent if that is done."""
        if self._ended:
            return
        self._ended = True
        self._forwarder._connections.discard(self)
        self._forwarder._select(self._client, 0, self)
        self._client.close()
        self._drop_duplex()

    def _drop_duplex(self) -> None:
        duplex, self._duplex = self._duplex, None
        self._kernel_done = False
        self._to_kernel = memoryview(b"")
        if duplex is None:
            return
        fd = duplex.fileno()
        if fd >= 0:
            self._forwarder._select(fd, 0, self)
        try:
            duplex.close()
        except Exception as error:  # noqa: BLE001 - the thread has others to serve
            _log.debug("A connection to the kernel's %s did not close: %s", self._name, error)


class _KernelLostError(OSError):
    """Raised where it was the kernel's side that was lost."""


class _KernelSide:
    """Marks what is raised inside as lost on the kernel's side."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            raise _KernelLostError(str(error)) from error


_KERNEL_SIDE = _KernelSide()


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _listen(ip: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    try:
        # a reservation of ours may hold the port, see `ports`
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Nothing can listen on port {port} of {ip}: {error.strerror or error}.",
            hint="Stop what uses that port, or set the kernel's port to 0 to have a free one chosen.",
        ) from error
    return listener
