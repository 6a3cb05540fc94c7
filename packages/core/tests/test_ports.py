"""Held ports: nobody else gets them, the kernel does."""

import socket
import subprocess
import sys

import pytest
import zmq

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_core.ports import PortReservation, can_hold_ports

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="ports can be held on Linux only"
)


@linux_only
def test_linux_can_hold_ports():
    assert can_hold_ports("127.0.0.1")


def test_the_ports_are_distinct():
    held = PortReservation("127.0.0.1", [0] * 5)
    assert len(set(held.ports)) == 5
    held.release()


@linux_only
def test_no_other_process_is_given_a_held_port():
    held = PortReservation("127.0.0.1", [0] * 200)
    code = (
        "import socket, sys\n"
        "for _ in range(5000):\n"
        "    s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1]); s.close()\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(held.ports) & {int(line) for line in out.stdout.split()}
    held.release()


@linux_only
@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0"])
def test_zeromq_binds_over_a_held_port(ip):
    held = PortReservation(ip, [0])
    with zmq.Context() as context, context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
        rep.bind(f"tcp://{ip}:{held.ports[0]}")
        req.connect(f"tcp://127.0.0.1:{held.ports[0]}")
        req.send(b"ping")
        assert rep.poll(5000)
        assert rep.recv() == b"ping"
        req.linger = 0
    held.release()


@linux_only
def test_a_released_port_is_free_for_everybody():
    held = PortReservation("127.0.0.1", [0])
    held.release()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", held.ports[0]))


def test_release_may_be_called_twice():
    held = PortReservation("127.0.0.1", [0])
    held.release()
    held.release()


def test_a_dropped_reservation_lets_go_of_its_ports():
    held = PortReservation("127.0.0.1", [0])
    port = held.ports[0]
    del held
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))


def test_a_port_that_is_in_use_is_named_and_the_others_are_let_go():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"Port {taken} of 127.0.0.1 is in use"
        ) as info:
            PortReservation("127.0.0.1", [0, taken])
        assert "stop that process" in info.value.hint


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigurationError, match=r"cannot listen on '192\.0\.2\.1'") as info:
        PortReservation("192.0.2.1", [0])
    assert "127.0.0.1" in info.value.hint
    assert isinstance(info.value.__cause__, OSError)
