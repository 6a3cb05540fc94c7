"""Local ports whose connections end at a kernel elsewhere."""

import contextlib
import socket
import threading
import time

import pytest
import zmq

from kernel_provisioner_core.connection import PORT_NAMES
from kernel_provisioner_core.errors import BackendUnavailableError, ConfigurationError
from kernel_provisioner_core.forwarder import Forwarder, SocketDuplex
from kernel_provisioner_core.ports import PortReservation

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f"


class Notifier:
    """A duplex that cannot be selected: a reading thread tells of what arrives, as an ssh connection's does."""

    def __init__(self, sock):
        self.sock = sock
        self.arrived = bytearray()
        self.ended = False
        self.lock = threading.Lock()

    def start(self, notify):
        def read():
            while data := self.receive():
                with self.lock:
                    self.arrived += data
                notify()
            self.ended = True
            notify()

        threading.Thread(target=read, daemon=True).start()

    def receive(self):
        try:
            return self.sock.recv(65536)
        except OSError:
            return b""

    def fileno(self):
        return -1

    def recv(self, size):
        with self.lock:
            data = bytes(self.arrived[:size])
            del self.arrived[:size]
        if data:
            return data
        if self.ended:
            return b""
        raise BlockingIOError

    def send(self, data):
        return self.sock.send(data, socket.MSG_DONTWAIT)

    def shutdown_write(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@pytest.fixture(params=[SocketDuplex, Notifier])
def kind(request):
    return request.param


@pytest.fixture
def kernel():
    """Return a listening socket that stands for a kernel."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def forward():
    """Return a function that starts a forwarder; all are closed at the end."""
    made = []

    def forward(dial, **arguments):
        made.append(Forwarder(dial, **{"ports": {"shell_port": 0}, **arguments}))
        return made[-1]

    yield forward
    for forwarder in made:
        forwarder.close()


def dialling(listener, kind=SocketDuplex):
    return lambda name: kind(socket.create_connection(listener.getsockname()))


def client_of(forwarder, name="shell_port"):
    sock = socket.create_connection(("127.0.0.1", forwarder.ports[name]))
    sock.settimeout(10)
    return sock


def receive(sock, count):
    data = bytearray()
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return bytes(data)


def until(condition, seconds=10):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_bytes_pass_both_ways(forward, kernel, kind):
    with client_of(forward(dialling(kernel, kind))) as client:
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            client.sendall(b"to the kernel")
            assert receive(there, 13) == b"to the kernel"
            there.sendall(b"to the client")
            assert receive(client, 13) == b"to the client"


def test_40_megabytes_arrive_whole_while_the_receiver_is_slow(forward, kernel, kind):
    data = bytes(range(256)) * (40 * 4096)
    with client_of(forward(dialling(kernel, kind))) as client:
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            there.sendall(GREETING)
            assert receive(client, 10) == GREETING
            for sender, receiver in ((there, client), (client, there)):
                thread = threading.Thread(target=sender.sendall, args=(data,))
                thread.start()
                time.sleep(0.1)  # nobody receives: what is on its way has to wait
                assert receive(receiver, len(data)) == data
                thread.join()


def test_a_slow_receiver_holds_back_the_sender(forward, kernel):
    with client_of(forward(dialling(kernel))):
        there, _ = kernel.accept()
        with there:
            there.sendall(GREETING)
            there.settimeout(0.5)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 100_000_000:
                    sent += there.send(bytes(1 << 20))
            assert sent < 30_000_000


def test_each_port_is_dialled_by_its_name(forward):
    dialled = []

    def dial(name):
        dialled.append(name)
        raise ConnectionRefusedError

    forwarder = forward(dial, ports=None)
    assert tuple(forwarder.ports) == PORT_NAMES
    with client_of(forwarder, "hb_port"):
        until(lambda: dialled)
    assert set(dialled) == {"hb_port"}


def test_a_client_waits_for_a_kernel_that_does_not_listen_yet(forward, kernel):
    tries = []

    def dial(name):
        tries.append(name)
        if len(tries) < 5:
            raise BackendUnavailableError("Not yet.")
        return dialling(kernel)(name)

    with client_of(forward(dial)) as client:
        client.sendall(b"first words")
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            assert receive(there, 11) == b"first words"
            there.sendall(GREETING)
            assert receive(client, 10) == GREETING


def test_who_hangs_up_without_a_word_is_dialled_again_and_told_again(forward, kernel, kind):
    """As a proxy does that accepts, and finds nobody behind it."""
    with client_of(forward(dialling(kernel, kind))) as client:
        client.sendall(b"first words")
        for _ in range(3):
            there, _ = kernel.accept()
            there.settimeout(10)
            assert receive(there, 11) == b"first words"
            there.close()
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            assert receive(there, 11) == b"first words"
            there.sendall(GREETING)
            assert receive(client, 10) == GREETING
            client.sendall(b"once")
            assert receive(there, 4) == b"once"


def test_a_client_that_gives_up_is_dialled_for_no_longer(forward):
    tries = []

    def dial(name):
        tries.append(name)
        raise ConnectionRefusedError

    forwarder = forward(dial)
    client = client_of(forwarder)
    client.sendall(GREETING)
    until(lambda: len(tries) > 2)
    client.close()
    until(lambda: not forwarder._connections)
    time.sleep(0.3)  # longer than the longest pause: the last dial may be on its way
    count = len(tries)
    time.sleep(0.6)
    assert len(tries) == count


def test_a_dial_that_raises_a_bug_ends_the_client_and_is_logged(forward, caplog):
    def dial(name):
        raise RuntimeError("a bug")

    with client_of(forward(dial)) as client:
        assert client.recv(1) == b""
    assert "a bug" in caplog.text


def test_the_end_of_the_kernel_ends_the_client_after_the_last_byte(forward, kernel, kind):
    with client_of(forward(dialling(kernel, kind))) as client:
        there, _ = kernel.accept()
        there.sendall(GREETING + bytes(1_000_000))
        there.close()
        assert len(receive(client, 2_000_000)) == 1_000_010


def test_a_client_may_close_its_sending_side_first(forward, kernel, kind):
    with client_of(forward(dialling(kernel, kind))) as client:
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            there.sendall(GREETING)
            assert receive(client, 10) == GREETING
            client.sendall(b"last words")
            client.shutdown(socket.SHUT_WR)
            assert receive(there, 100) == b"last words"
            there.sendall(b"an answer")
            assert receive(client, 9) == b"an answer"


def test_the_end_of_the_client_ends_the_connection_to_the_kernel(forward, kernel, kind):
    forwarder = forward(dialling(kernel, kind))
    client = client_of(forwarder)
    there, _ = kernel.accept()
    with there:
        there.settimeout(10)
        there.sendall(GREETING)
        assert receive(client, 10) == GREETING
        client.close()
        assert there.recv(1) == b""
    until(lambda: not forwarder._connections)


def test_a_new_kernel_is_found_on_the_same_port(forward):
    here = {"listener": socket.create_server(("127.0.0.1", 0))}
    forwarder = forward(lambda name: dialling(here["listener"])(name))
    for _ in range(3):
        with client_of(forwarder) as client:
            there, _ = here["listener"].accept()
            with there:
                there.sendall(GREETING)
                assert receive(client, 10) == GREETING
        here["listener"].close()
        here["listener"] = socket.create_server(("127.0.0.1", 0))
    here["listener"].close()


def test_zeromq_talks_through_it_and_stays_connected_over_a_new_listener(forward):
    with zmq.Context() as context:
        context.linger = 0
        with context.socket(zmq.REP) as first, context.socket(zmq.REP) as second:
            here = first.bind_to_random_port("tcp://127.0.0.1")
            where = {"port": here}
            forwarder = forward(
                lambda name: SocketDuplex(socket.create_connection(("127.0.0.1", where["port"])))
            )
            with context.socket(zmq.REQ) as req:
                req.setsockopt(zmq.REQ_RELAXED, 1)
                req.connect(f"tcp://127.0.0.1:{forwarder.ports['shell_port']}")
                req.send(b"1")
                assert first.poll(10000)
                first.send(first.recv())
                assert req.recv() == b"1"
                first.close()
                where["port"] = second.bind_to_random_port("tcp://127.0.0.1")
                until(lambda: req.send(b"2") or second.poll(200))  # one may be lost on the way
                second.send(second.recv())
                assert req.recv() == b"2"


def test_it_listens_on_ports_that_a_reservation_holds(forward, kernel):
    held = PortReservation("127.0.0.1", [0])
    try:
        forwarder = forward(dialling(kernel), ports={"shell_port": held.ports[0]})
        with client_of(forwarder):
            kernel.accept()[0].close()
    finally:
        held.release()


def test_a_port_in_use_is_an_error_and_nothing_is_left(kernel):
    port = kernel.getsockname()[1]
    before = threading.active_count()
    with pytest.raises(ConfigurationError, match=str(port)):
        Forwarder(dialling(kernel), {"shell_port": 0, "hb_port": port})
    assert threading.active_count() == before


def test_close_ends_all_and_may_be_called_twice(kernel):
    before = threading.active_count()
    forwarder = Forwarder(dialling(kernel), {"shell_port": 0})
    with client_of(forwarder) as client:
        there, _ = kernel.accept()
        with there:
            there.settimeout(10)
            there.sendall(GREETING)
            assert receive(client, 10) == GREETING
            forwarder.close()
            forwarder.close()
            assert client.recv(1) == b""
            assert there.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        client_of(forwarder)
    assert threading.active_count() == before


def test_what_is_dialled_while_it_closes_is_closed(kernel):
    dialled, go_on = threading.Event(), threading.Event()
    made = []

    def dial(name):
        dialled.set()
        assert go_on.wait(10)
        made.append(socket.create_connection(kernel.getsockname()))
        return SocketDuplex(made[0])

    forwarder = Forwarder(dial, {"shell_port": 0})
    with client_of(forwarder):
        assert dialled.wait(10)
        forwarder.close()
        go_on.set()
        until(lambda: made and made[0].fileno() == -1)


def test_an_idle_forwarder_uses_one_thread_and_no_processor_time(forward, kernel):
    before = threading.active_count()
    forwarder = forward(dialling(kernel))
    clients = [client_of(forwarder) for _ in range(20)]
    peers = [kernel.accept()[0] for _ in clients]
    for peer in peers:
        peer.sendall(GREETING)
    for client in clients:
        assert receive(client, 10) == GREETING
    until(lambda: threading.active_count() == before + 1)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1
    for sock in (*clients, *peers):
        sock.close()


def test_one_busy_connection_does_not_hold_up_the_others(forward, kernel):
    forwarder = forward(dialling(kernel))
    with client_of(forwarder) as busy, client_of(forwarder) as idle:
        peers = [kernel.accept()[0], kernel.accept()[0]]
        for peer in peers:
            peer.settimeout(10)
        busy.sendall(b"busy")
        idle.sendall(b"idle")
        said = {receive(peer, 4): peer for peer in peers}
        stop = threading.Event()

        def stream():
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    said[b"busy"].sendall(bytes(1 << 20))

        def drain():
            with contextlib.suppress(OSError):
                while busy.recv(1 << 20):
                    pass

        threads = [threading.Thread(target=stream), threading.Thread(target=drain)]
        said[b"idle"].sendall(GREETING)
        receive(idle, 10)
        for thread in threads:
            thread.start()
        times = []
        for _ in range(30):
            begun = time.perf_counter()
            idle.sendall(b"ping")
            receive(said[b"idle"], 4)
            said[b"idle"].sendall(b"pong")
            receive(idle, 4)
            times.append(time.perf_counter() - begun)
        stop.set()
        for peer in peers:
            peer.close()
        for thread in threads:
            thread.join()
        assert sorted(times)[15] < 0.05


def test_a_duplex_with_a_bug_ends_its_connection_and_no_other(forward, kernel, caplog):
    class Buggy(SocketDuplex):
        def recv(self, size):
            raise EOFError("a bug")

        def close(self):
            super().close()
            raise EOFError("another bug")

    kinds = [Buggy, SocketDuplex]
    forwarder = forward(lambda name: dialling(kernel, kinds.pop(0))(name))
    first, second = client_of(forwarder), client_of(forwarder)
    with first, second, kernel.accept()[0] as one, kernel.accept()[0] as other:
        one.sendall(GREETING)
        other.sendall(GREETING)
        heard = sorted(receive(client, 10) for client in (first, second))
    assert heard == [b"", GREETING]
    assert "a bug" in caplog.text
