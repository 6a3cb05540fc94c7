"""The frames of a port-forward, however the network cuts them."""

import socket
import ssl

import pytest

from kernel_provisioner_k8s.portforward import PortForward, frame


def sent(channel, data, *, opcode=2):
    """Return a frame as a server sends it: with no mask."""
    payload = bytes([channel]) + data
    if len(payload) < 126:
        head = bytes([0x80 | opcode, len(payload)])
    elif len(payload) < 1 << 16:
        head = bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + len(payload).to_bytes(8, "big")
    return head + payload


GREETING = sent(0, b"\x5f\x69") + sent(1, b"\x5f\x69")
CLOSE = bytes([0x88, 0])


@pytest.fixture
def ends():
    server, client = socket.socketpair()
    forward = PortForward(client)
    yield server, forward
    forward.close()
    server.close()


def received(forward):
    """Return all that has arrived."""
    data = b""
    while True:
        try:
            piece = forward.recv(1 << 18)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 125, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 65535, 70000])
def test_data_arrives_as_it_was_sent_wherever_it_is_cut(ends, cut, size):
    server, forward = ends
    payload = bytes(i % 251 for i in range(size))
    stream = GREETING + sent(0, payload) + sent(0, b"end")
    if cut < 5 and size > 1000:
        stream = GREETING + sent(0, payload[:1000]) + sent(0, b"end")
        payload = payload[:1000]
    data = b""
    for i in range(0, len(stream), cut):
        server.sendall(stream[i : i + cut])
        data += received(forward)
    assert data == payload + b"end"


def test_the_port_number_that_each_channel_begins_with_is_no_data(ends):
    server, forward = ends
    server.sendall(GREETING)
    with pytest.raises(BlockingIOError):
        forward.recv(100)


def test_a_port_that_nobody_listens_on_is_an_error_in_the_clusters_words(ends):
    server, forward = ends
    server.sendall(GREETING + sent(1, b"connection refused"))
    with pytest.raises(ConnectionError, match="connection refused"):
        forward.recv(100)


@pytest.mark.parametrize("end", [CLOSE, b""])
def test_the_end_comes_after_the_data(ends, end):
    server, forward = ends
    server.sendall(GREETING + sent(0, b"last") + end)
    server.shutdown(socket.SHUT_WR)
    assert forward.recv(100) == b"last"
    assert forward.recv(100) == b""


def test_a_ping_is_answered(ends):
    server, forward = ends
    server.sendall(GREETING + bytes([0x89, 2]) + b"hi" + sent(0, b"x"))
    assert received(forward) == b"x"
    assert server.recv(100) == frame(0xA, b"hi")


def test_what_is_sent_is_a_masked_frame_of_channel_0(ends):
    server, forward = ends
    assert forward.send(memoryview(b"hello")) == 5
    assert server.recv(100) == b"\x82\x86\0\0\0\0\0hello"


def test_a_frame_that_does_not_fit_is_continued_and_counted_once():
    server, client = socket.socketpair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    forward = PortForward(client)
    data = memoryview(bytes(range(256)) * 1024)
    accepted = 0
    arrived = b""
    server.setblocking(False)
    while accepted < len(data):
        try:
            accepted += forward.send(data[accepted:])
        except BlockingIOError:
            arrived += server.recv(1 << 20)
    while True:
        try:
            arrived += server.recv(1 << 20)
        except BlockingIOError:
            break
    expected = b"".join(
        frame(2, b"\0", data[i : i + (1 << 16)]) for i in range(0, len(data), 1 << 16)
    )
    assert arrived == expected
    forward.close()
    server.close()


def test_tls_that_wants_more_is_nothing_yet():
    class Wanting:
        def setblocking(self, flag): ...
        def recv(self, size):
            raise ssl.SSLWantReadError

        def send(self, data):
            raise ssl.SSLWantWriteError

    forward = PortForward(Wanting())
    with pytest.raises(BlockingIOError):
        forward.recv(10)
    with pytest.raises(BlockingIOError):
        forward.send(memoryview(b"x"))
