"""OpenSSH servers of our own.

Keys, configuration and port apart from any other on the machine, on loopback or in a namespace.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from services import _machine

PROGRAM = "/usr/sbin/sshd"


class Sshd:
    """One server; all that belongs to it is in one folder, of which the tests remove what they have made.

    MaxSessions and MaxStartups have their defaults, as on users' hosts, unless the options say otherwise.

    Args:
        folder: Its folder; made if it is missing.
        options: More lines for its configuration; they count before ours.
        address: Where it listens.
        port: The port; a free one by default.
        namespace: The network namespace that it runs in; none by default.
    """

    def __init__(
        self,
        folder: Path,
        options: list[str] | None = None,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        namespace: str = "",
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.address = address
        self.daemon = _machine.Daemon(folder, "sshd")
        kept = folder / "port"
        if self.daemon.pid is not None:  # it has the port
            self.port = int(kept.read_text())
        else:
            self.port = port or _machine.port(kept)
            kept.write_text(str(self.port))
        self.host_key = _key(folder / "host_key")
        self.user_key = _key(folder / "user_key")
        self.namespace = namespace
        self.options = options or []

    def start(self) -> None:
        """Start it, unless it runs; return when it greets."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        public = self.user_key.with_suffix(".pub")
        lines = [
            *self.options,
            f"ListenAddress {self.address}",
            f"Port {self.port}",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {public}",
            f"PidFile {self.folder}/sshd.own.pid",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "Subsystem sftp internal-sftp",
        ]
        config = self.folder / "sshd_config"
        config.write_text("\n".join([*lines, ""]))
        enter = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        command = [*enter, PROGRAM, "-D", "-f", str(config), "-E", f"{self.folder}/sshd.events"]
        self.daemon.start(command, self.greets, 20)

    def stop(self) -> None:
        """End the listening server; the sessions that it has stay."""
        self.daemon.stop()

    def greets(self) -> bool:
        """Return whether it says that it is an sshd."""
        try:
            with socket.create_connection((self.address, self.port), 2) as sock:
                return sock.recv(4) == b"SSH-"
        except OSError:
            return False

    def end_sessions(self) -> None:
        """End all connections that it has."""
        for pid in self.sessions():
            subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)

    def sessions(self) -> list[int]:
        """Return the processes that serve connections."""
        own = self.daemon.pid
        if own is None:
            return []
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(own)], check=False, capture_output=True, text=True
        )
        return [int(word) for word in listed.stdout.split()]

    @property
    def known_host(self) -> str:
        """The line of known_hosts for it."""
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        kind, key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        return f"{name} {kind} {key}"

    def write_client_config(self, alias: str, *more: str) -> Path:
        """Write an OpenSSH configuration with an alias for it, and the known_hosts that it needs; return its path."""
        (self.folder / "known_hosts").write_text(f"{self.known_host}\n")
        lines = [
            f"Host {alias}",
            *(f"  {line}" for line in more),
            f"  HostName {self.address}",
            f"  Port {self.port}",
            f"  IdentityFile {self.user_key}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {self.folder}/known_hosts",
            "  GlobalKnownHostsFile none",
        ]
        config = self.folder / "ssh_config"
        config.write_text("\n".join([*lines, ""]))
        return config


def available() -> bool:
    """Return whether servers can be started here."""
    return os.geteuid() == 0 and os.path.exists(PROGRAM) and shutil.which("ssh-keygen") is not None


def _key(path: Path) -> Path:
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path
