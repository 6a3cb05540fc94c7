"""Ports that are held from the choice until the end of the kernel.

The usual way (bind to port 0, note the number, close, let the kernel bind) races with every other
process of the machine (jupyter_client #487). On Linux, a socket that is bound with SO_REUSEADDR and
does *not* listen keeps its port out of every ephemeral choice, of listeners and of outgoing
connections, while a listener that itself sets SO_REUSEADDR, as libzmq does, can bind it. So the
sockets chosen here stay open until the kernel is gone for good.
"""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Sequence

from kernel_provisioner_core.errors import ConfigurationError

__all__ = ["PortReservation", "can_hold_ports"]


class PortReservation:
    """A set of TCP ports on one address of this machine, held by bound sockets that do not listen.

    The sockets are not inherited by child processes. A listener binds over a held port if it sets
    SO_REUSEADDR.

    Args:
        ip: The address that the kernel will bind; `0.0.0.0` and `::` are allowed.
        ports: The wanted port numbers; 0 lets the operating system choose.

    Raises:
        ConfigurationError: `ip` is not an address of this machine, or a wanted port is in use.
            No port is held then.
    """

    def __init__(self, ip: str, ports: Sequence[int]) -> None:
        """Bind one socket for each wanted port, all or none."""
        self.ip = ip
        self._sockets: list[socket.socket] = []
        family = _family(ip)
        try:
            for port in ports:
                self._sockets.append(_hold(family, ip, port))
        except BaseException:
            self.release()
            raise
        self.ports: tuple[int, ...] = tuple(s.getsockname()[1] for s in self._sockets)

    def release(self) -> None:
        """Let go of the ports; the kernel that listens on them is not disturbed. May be called twice."""
        while self._sockets:
            self._sockets.pop().close()

    def __del__(self) -> None:
        """Let go of the ports of a provisioner that was dropped without a `cleanup`."""
        self.release()


@functools.cache
def can_hold_ports(ip: str) -> bool:
    """Return whether this platform lets a listener bind over a held port of `ip`.

    It is tried once per process and address, not guessed from the platform's name. An address that
    is not this machine's raises ConfigurationError, as `PortReservation` does.
    """
    held = PortReservation(ip, [0])
    address = (ip, held.ports[0])
    try:
        with socket.socket(_family(ip)) as stranger, socket.socket(_family(ip)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return not _listens(stranger, address) and _listens(listener, address)
    finally:
        held.release()


def _listens(sock: socket.socket, address: tuple[str, int]) -> bool:
    try:
        sock.bind(address)
        sock.listen(1)
    except OSError:
        return False
    return True


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _hold(family: socket.AddressFamily, ip: str, port: int) -> socket.socket:
    held = socket.socket(family)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((ip, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {port} of {ip} is in use by another process.",
                hint="Set the kernel's port to 0 to have a free one chosen, or stop that process.",
            ) from error
        raise ConfigurationError(
            f"A kernel cannot listen on {ip!r}: {error.strerror or error}.",
            hint="KernelManager.ip has to be an address of this machine, such as 127.0.0.1.",
        ) from error
    return held
