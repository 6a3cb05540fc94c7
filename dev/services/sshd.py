"""A host with an OpenSSH server; the tests start more of them for what has to go wrong.

Where none is given, it is one of our own: Debian's sshd on loopback, with keys, configuration and port apart from any
other on the machine.
"""

from __future__ import annotations

import os
import subprocess

from services import _machine, _sshd

HINT = "Name a host in KERNEL_PROVISIONERS_SSH_HOST on which `ssh` logs you in without a question."
NEEDED_BY = frozenset({"ssh"})
_PACKAGES = ["openssh-server", "openssh-client", "iproute2", "iptables", "procps"]
_ALIAS = "kernel-provisioners-sshd"


def find() -> bool:
    """Return whether the host of this environment lets us in."""
    host = os.environ.get("KERNEL_PROVISIONERS_SSH_HOST")
    if not host:
        return False
    config = os.environ.get("KERNEL_PROVISIONERS_SSH_CONFIG")
    command = ["ssh", *(["-F", config] if config else []), "-o", "BatchMode=yes"]
    command += ["-o", "ConnectTimeout=5", host, "exit"]
    try:
        done = subprocess.run(
            command,
            check=False,
            timeout=10,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def running() -> bool:
    """Return whether a server of our own is there."""
    return _machine.Daemon(_machine.folder("sshd"), "sshd").pid is not None


def up() -> dict[str, str]:
    """Start a server of our own, unless a host is given."""
    if find():
        return {
            name: os.environ[name]
            for name in ("KERNEL_PROVISIONERS_SSH_HOST", "KERNEL_PROVISIONERS_SSH_CONFIG")
            if name in os.environ
        }
    folder = _machine.folder("sshd")
    with _machine.lock(folder):
        _machine.install(*_PACKAGES)
        server = _sshd.Sshd(folder)
        server.start()
        config = server.write_client_config(_ALIAS)
    return {
        "KERNEL_PROVISIONERS_SSH_HOST": _ALIAS,
        "KERNEL_PROVISIONERS_SSH_CONFIG": str(config),
    }


def down() -> None:
    """End our server, with the connections that it has."""
    folder = _machine.folder("sshd")
    with _machine.lock(folder):
        daemon = _machine.Daemon(folder, "sshd")
        if daemon.pid is not None:
            _sshd.Sshd(folder).end_sessions()
        daemon.stop()
