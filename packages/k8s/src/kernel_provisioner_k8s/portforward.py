"""The API server's port-forward as core's forwarder wants it: a `Duplex` over a websocket.

One websocket carries one connection to one port of a pod. Its messages begin with a channel: 0 has the bytes, 1 has
what went wrong, and the first message of each is the port's number, which tells nothing new. The library's own
helper takes three threads for each connection and a quarter of the speed; here the forwarder's thread reads whole
TLS records, and nothing is copied but to cut the frames.

Bytes are masked with zeros, that is, not at all: masking protects proxies that do not know websockets from what
browsers send, and the connection to an API server is encrypted and no browser's.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator

__all__ = ["Frames", "PortForward", "frame"]

_DATA, _ERROR = 0, 1  # channels
_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_READ = 1 << 16  # bytes; a TLS record has a quarter of that
_LONGEST = 1 << 16  # bytes of data in one frame that is sent
_PORT_NUMBER = 2  # bytes that each channel begins with


def frame(opcode: int, *parts: bytes | memoryview) -> bytes:
    """Return a websocket frame as clients send it, with the parts as its payload."""
    size = sum(len(part) for part in parts)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return b"".join((head, b"\0\0\0\0", *parts))


class Frames:
    """Cuts what a websocket's server sends into its frames' payloads, which need not have arrived whole."""

    def __init__(self) -> None:
        self._head = b""  # of a frame, as long as it has not arrived whole
        self._left = 0  # bytes of the frame's payload that are still to come
        self._opcode = 0
        self._starts = False

    def feed(self, data: memoryview) -> Iterator[tuple[int, bool, memoryview]]:
        """Yield opcode, whether it begins a message, and a piece of the payload, in the order of arrival.

        Args:
            data: What has arrived.
        """
        position = 0
        while position < len(data):
            if self._left == 0:
                taken, whole = self._read_head(data[position:])
                position += taken
                if not whole:
                    return
                self._starts = self._opcode != _CONTINUATION
                if self._left == 0:
                    yield self._opcode, self._starts, data[:0]
                    continue
                if position == len(data):
                    return
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            yield self._opcode, self._starts, piece
            self._starts = False

    def _read_head(self, data: memoryview) -> tuple[int, bool]:
        """Take what belongs to a frame's head; return how many bytes that were, and whether it is whole."""
        had = len(self._head)
        head = self._head + bytes(data[: 14 - had])
        size = 2
        if len(head) >= 2:
            size += {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        if len(head) < 2 or len(head) < size:
            self._head = head
            return len(head) - had, False
        self._opcode = head[0] & 0x0F
        length = head[1] & 0x7F
        self._left = int.from_bytes(head[2:size], "big") if size > 2 else length
        self._head = b""
        return size - had, True


class PortForward:
    """A connection to a port of a pod, as a `Duplex` (see core's `forwarder`).

    Args:
        sock: The websocket's socket, with the handshake done; it belongs to this object from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        self._frames = Frames()
        self._channel = _DATA
        self._skip = {_DATA: _PORT_NUMBER, _ERROR: _PORT_NUMBER}
        self._error = b""
        self._ended = False
        self._arrived: list[memoryview] = []
        self._unsent = memoryview(b"")  # of a frame that is on its way
        self._accepted = 0  # bytes of data in that frame
        self._replies: list[bytes] = []

    def start(self, notify: Callable[[], object]) -> None:
        """Need no notice: sockets can be selected."""

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        """Return what has arrived; `b""` once the kernel has closed its side.

        Raises:
            BlockingIOError: Nothing has arrived.
            OSError: The connection is lost, or nothing listens on the port.
        """
        room = size
        while room > 0 and not self._ended:
            try:
                data = self._socket.recv(min(_READ, room))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                break
            except ssl.SSLEOFError:
                data = b""
            if not data:
                self._ended = True
                break
            room -= len(data)
            self._cut(memoryview(data))
        if self._replies:
            self._reply()
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            return b"".join(arrived)
        if self._error:
            raise ConnectionError(self._error.decode(errors="replace"))
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, data: memoryview) -> int:
        """Send some of `data`; return how many bytes. After a BlockingIOError it is called with the same data.

        Raises:
            BlockingIOError: There is no room now.
            OSError: The connection is lost.
        """
        if not self._unsent:
            part = data[:_LONGEST]
            self._unsent = memoryview(frame(_BINARY, b"\0", part))
            self._accepted = len(part)
        self._flush()
        return self._accepted

    def shutdown_write(self) -> None:
        """Do nothing: a port-forward cannot close one side, and a kernel does not wait for it."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _flush(self) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError from error
            self._unsent = self._unsent[sent:]

    def _reply(self) -> None:
        """Answer pings, unless data is in the way; the next one is answered then."""
        while self._replies and not self._unsent:
            self._unsent = memoryview(self._replies.pop())
            self._accepted = 0
            try:
                self._flush()
            except BlockingIOError:
                return

    def _cut(self, data: memoryview) -> None:
        for opcode, starts, piece in self._frames.feed(data):
            if opcode in (_BINARY, _CONTINUATION, 0x1):
                if starts:
                    if not piece:
                        continue
                    self._channel = piece[0]
                    piece = piece[1:]
                self._take(piece)
            elif opcode == _CLOSE:
                self._ended = True
            elif opcode == _PING:
                self._replies.append(frame(_PONG, piece))

    def _take(self, piece: memoryview) -> None:
        skip = self._skip.get(self._channel, 0)
        if skip:
            taken = min(skip, len(piece))
            self._skip[self._channel] = skip - taken
            piece = piece[taken:]
        if not piece:
            return
        if self._channel == _DATA:
            self._arrived.append(piece)
        elif self._channel == _ERROR:
            self._error += bytes(piece)
