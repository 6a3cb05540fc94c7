"""The one place that knows paramiko: from the words of an OpenSSH configuration to an authenticated connection."""

from __future__ import annotations

import contextlib
import getpass
import glob
import logging
import os
import re
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import paramiko

from kernel_provisioner_core.errors import BackendUnavailableError, ConfigurationError
from kernel_provisioner_core.forwarder import Duplex
from kernel_provisioner_ssh.commands import SHELL

__all__ = ["Answer", "Client", "ForwardingRefusedError", "Hop", "Stage", "Target", "resolve"]

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_DEFAULT_TIMEOUT = 30.0  # seconds; TCP's own limit is two minutes
_MOST_HOPS = 8
_MOST_INCLUDES = 16  # as OpenSSH

_BURST_PAUSE = (
    0.2  # seconds, then more: sshd has refused a connection since too many are just being made
)
_MOST_TRIES = 8
_NEARLY = 0.2  # seconds before a limit at which it counts as reached
_WINDOW = 1 << 21  # bytes of a channel that may be on their way
_SESSIONS = 8  # at a time; sshd's MaxSessions is 10, and one is the watch's
_MOST_ANSWER = 1 << 26  # bytes

_log = logging.getLogger(__name__)
_UnknownKeyType: type[Exception] = paramiko.pkey.UnknownKeyType
# paramiko logs as errors what is none (a kernel that does not listen yet), and what our errors say better.
_QUIET = "kernel_provisioner_ssh.paramiko"

Ask = Callable[[str], "str | None"]
"""Gets a prompt, returns what the user says to it, or None."""


class ForwardingRefusedError(ConnectionError):
    """Raised when the server does not let a connection be forwarded."""


@dataclass(frozen=True)
class Hop:
    """One host on the way, with all that is needed to get on it; from the options and the OpenSSH configuration."""

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    identity_agent: str = ""
    host_key_alias: str = ""
    known_hosts: tuple[str, ...] = ()
    strict: str = "yes"
    proxy_command: str = ""
    connect_timeout: float = _DEFAULT_TIMEOUT
    compression: bool = False
    keepalive_interval: float = 0.0

    def __str__(self) -> str:
        """Return the host as messages name it: the alias, and what that stands for."""
        where = f"{self.user}@{self.hostname}:{self.port}"
        return where if self.alias == self.hostname else f"{self.alias} ({where})"

    @property
    def host_key_name(self) -> str:
        """What known_hosts calls the host."""
        if self.host_key_alias:
            return self.host_key_alias
        return self.hostname if self.port == 22 else f"[{self.hostname}]:{self.port}"


@dataclass(frozen=True)
class Target:
    """A host, the hosts on the way to it, and who is asked for passwords."""

    hops: tuple[Hop, ...]
    password_env: str = ""

    @property
    def host(self) -> Hop:
        """The host itself."""
        return self.hops[-1]


@dataclass(frozen=True)
class Stage:
    """One step of a connection, for a doctor: what, how long it took in seconds."""

    name: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Answer:
    """What a command has left: its exit status (-1 if it has none), its output."""

    status: int
    output: str
    errors: str


# -- configuration ------------------------------------------------------------------------------


def resolve(
    host: str,
    *,
    user: str = "",
    port: int | None = None,
    identity_file: str = "",
    proxy_jump: str | None = None,
    connect_timeout: float | None = None,
    known_hosts: str = "",
    strict: str | None = None,
    compression: bool | None = None,
    config_file: str = "",
    password_env: str = "",
) -> Target:
    """Return how a host is reached: by the options, and what they leave open by the OpenSSH configuration.

    Raises:
        ConfigurationError: The configuration cannot be read, or a name is none.
    """
    overrides = {
        "user": user,
        "port": "" if port is None else str(port),
        "proxyjump": proxy_jump or "",
    }
    hops = _hops_to(host, overrides, _Config(config_file), 0)
    host_hop = hops[-1]
    changes: dict[str, Any] = {}
    if identity_file:
        files = (os.path.expanduser(identity_file), *host_hop.identity_files)
        changes["identity_files"] = tuple(dict.fromkeys(files))
    if compression is not None:
        changes["compression"] = compression
    hops = [*hops[:-1], replace(host_hop, **changes)]
    common: dict[str, Any] = {}
    if connect_timeout is not None:
        common["connect_timeout"] = connect_timeout
    if known_hosts:
        common["known_hosts"] = (os.path.expanduser(known_hosts),)
    if strict is not None:
        common["strict"] = strict
    return Target(tuple(replace(hop, **common) for hop in hops), password_env)


class _Config:
    """The user's and the system's configuration; the user's counts first."""

    def __init__(self, config_file: str) -> None:
        if config_file:
            files = [os.path.expanduser(config_file)]
            if not os.path.exists(files[0]):
                raise ConfigurationError(f"There is no ssh configuration {config_file!r}.")
        else:
            files = [os.path.expanduser("~/.ssh/config"), "/etc/ssh/ssh_config"]
        self._text = "\nMatch all\n".join(
            "\n".join(_lines_of(name, 0)) for name in files if os.path.exists(name)
        )
        self._name = " and ".join(files)

    def lookup(self, host: str, overrides: dict[str, str]) -> paramiko.SSHConfigDict:
        """Return what is configured for a host; what is given counts before what is written."""
        given = "\n".join(f"{key} {value}" for key, value in overrides.items() if value)
        try:
            config = paramiko.SSHConfig.from_text(f"{given}\nMatch all\n{self._text}")
            return config.lookup(host)
        except ImportError as error:
            raise ConfigurationError(
                "The ssh configuration uses `Match exec`, for which a package is missing.",
                hint="pip install invoke",
            ) from error
        except (paramiko.ssh_exception.ConfigParseError, ValueError, KeyError) as error:
            raise ConfigurationError(
                f"The ssh configuration ({self._name}) cannot be read: {error}.",
                hint=f"`ssh -G {shlex.quote(host)}` says what OpenSSH makes of it.",
            ) from error


def _lines_of(name: str, depth: int) -> Iterator[str]:
    """Return the lines of a configuration file, with the files that it includes."""
    try:
        text = Path(name).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigurationError(
            f"The ssh configuration {name!r} cannot be read: {error.strerror}."
        ) from error
    for line in text.splitlines():
        found = re.match(r"\s*include(?:\s*=\s*|\s+)(.+)", line, re.IGNORECASE)
        if not found:
            yield line
            continue
        if depth >= _MOST_INCLUDES:
            raise ConfigurationError(f"The ssh configuration {name!r} includes itself.")
        folder = "/etc/ssh" if name.startswith("/etc/ssh/") else os.path.expanduser("~/.ssh")
        for pattern in shlex.split(found[1]):
            path = os.path.join(folder, os.path.expanduser(pattern))
            for included in sorted(glob.glob(path)):
                yield from _lines_of(included, depth + 1)


def _hops_to(host: str, overrides: dict[str, str], config: _Config, depth: int) -> list[Hop]:
    _check_name(host, "host")
    _check_name(overrides.get("user", ""), "user", anything=True)
    _check_name(overrides.get("proxyjump", ""), "proxy_jump")
    if depth > _MOST_HOPS:
        raise ConfigurationError(
            f"The way to {host!r} has more than {_MOST_HOPS} jump hosts.",
            hint="Does a ProxyJump of the ssh configuration lead in a circle?",
        )
    found = config.lookup(host, overrides)
    hop = _hop(host, found)
    _check_name(hop.hostname, "host")
    jumps = found.get("proxyjump") or ""
    if jumps and jumps.lower() != "none":
        hop = replace(hop, proxy_command="")
        return [*_jumps(jumps, config, depth), hop]
    if hop.proxy_command and not re.fullmatch(r"[\w.@+-]*", hop.user):
        raise ConfigurationError(
            f"The user name {hop.user!r} cannot be passed to a ProxyCommand.",
            hint="It would be read by a shell.",
        )
    return [hop]


def _jumps(jumps: str, config: _Config, depth: int) -> list[Hop]:
    """Return the hops of a ProxyJump; only the first of several is reached by its own configuration."""
    hops: list[Hop] = []
    for number, jump in enumerate(part.strip() for part in jumps.split(",")):
        user, _, address = jump.removeprefix("ssh://").rpartition("@")
        parts = re.fullmatch(r"(?:\[(?P<six>[^]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?", address)
        if parts is None:
            raise ConfigurationError(
                f"{jump!r} is no jump host.", hint="It has to be [user@]host[:port]."
            )
        overrides = {"user": user, "port": parts["port"] or ""}
        way = _hops_to(parts["six"] or parts["name"], overrides, config, depth + 1)
        hops += way if number == 0 else way[-1:]
    return hops


def _hop(alias: str, found: paramiko.SSHConfigDict) -> Hop:
    def words(key: str, default: str = "") -> tuple[str, ...]:
        return tuple(os.path.expanduser(word) for word in shlex.split(found.get(key, default)))

    def seconds(key: str, default: float) -> float:
        return _seconds(found.get(key, ""), default)

    strict = {"no": "no", "off": "no", "accept-new": "accept-new"}
    identities = tuple(
        os.path.expanduser(name) for name in found.get("identityfile", []) if name != "none"
    )
    defaults = tuple(os.path.expanduser(f"~/.ssh/{name}") for name in _DEFAULT_KEYS)
    files = words("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    try:
        port = int(found.get("port", 22))
    except ValueError as error:
        raise ConfigurationError(f"The port of {alias!r} is no number.") from error
    return Hop(
        alias=alias,
        hostname=found["hostname"],
        port=port,
        user=found.get("user") or getpass.getuser(),
        identity_files=identities or defaults,
        certificate_files=words("certificatefile"),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        identity_agent=os.path.expanduser(found.get("identityagent", "")),
        host_key_alias=found.get("hostkeyalias", ""),
        known_hosts=files + words("globalknownhostsfile", "/etc/ssh/ssh_known_hosts"),
        strict=strict.get(found.get("stricthostkeychecking", "ask").lower(), "yes"),
        proxy_command=found.get("proxycommand") or "",
        connect_timeout=seconds("connecttimeout", _DEFAULT_TIMEOUT),
        compression=found.get("compression", "no").lower() == "yes",
        keepalive_interval=seconds("serveraliveinterval", 0.0),
    )


def _seconds(text: str, default: float) -> float:
    parts = re.findall(r"(\d+)([smhdw]?)", text.lower())
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    return float(sum(int(n) * units[unit] for n, unit in parts)) or default


def _check_name(name: str, what: str, *, anything: bool = False) -> None:
    """Refuse what could not be a name, and would be something else to a shell or a configuration file."""
    allowed = r"[^\x00-\x20\x7f\"'\\#]*" if anything else r"[\w.:%@,\[\]/-]*"
    if name.startswith("-") or not re.fullmatch(allowed, name):
        raise ConfigurationError(
            f"{name!r} cannot be a {what}.", hint=f"Correct the option `{what}` in kernel.json."
        )


# -- connecting ---------------------------------------------------------------------------------


class Client:
    """One authenticated connection to a host, over its jump hosts; made by `connect`.

    Its methods may be called from any thread.
    """

    def __init__(self, target: Target, transports: list[paramiko.Transport]) -> None:
        self._target = target
        self._transports = transports
        self._transport = transports[-1]
        self._sessions = threading.BoundedSemaphore(_SESSIONS)
        self._sftp_lock = threading.Lock()

    @classmethod
    def connect(
        cls,
        target: Target,
        ask: Ask | None = None,
        on_stage: Callable[[Stage], object] = lambda stage: None,
    ) -> Client:
        """Connect, hop by hop; on an error nothing stays open.

        Args:
            target: Where to.
            ask: Who is asked for passwords and codes, if the target's variable does not have them.
            on_stage: Told of each step that is done.

        Raises:
            BackendUnavailableError: A host cannot be reached, its key is unknown or another one, or it refuses us.
        """
        transports: list[paramiko.Transport] = []
        try:
            for hop in target.hops:
                through = transports[-1] if transports else None
                transports.append(_connect_hop(hop, through, target, ask, on_stage))
        except BaseException:
            for transport in reversed(transports):
                transport.close()
            raise
        return cls(target, transports)

    def __str__(self) -> str:
        """Return where it leads, for messages."""
        return str(self._target.host)

    @property
    def is_active(self) -> bool:
        """Whether nothing is known of its end."""
        return all(transport.is_active() for transport in self._transports)

    def close(self) -> None:
        """End the connection. May be called twice."""
        for transport in reversed(self._transports):
            transport.close()

    def ping(self) -> bool:
        """Wait for the answer to a global request, however long it takes; return whether it came."""
        try:
            self._transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, OSError, EOFError):
            return False
        return self.is_active  # "no such request" is an answer

    def run(self, script: str, timeout: float) -> Answer:
        """Run a script by the host's shell; return what it printed.

        Raises:
            BackendUnavailableError: The connection is lost, or the host does not answer in time.
        """
        limit = time.monotonic() + timeout
        if not self._sessions.acquire(timeout=timeout):
            raise self._silent(timeout)
        try:
            channel = self._open_session(limit)
            try:
                return self._converse(channel, script, limit)
            except TimeoutError as error:
                raise self._silent(timeout) from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise self._lost(error) from error
            finally:
                with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                    channel.close()
        finally:
            self._sessions.release()

    def open(self, script: str, timeout: float) -> Stream:
        """Start a script that goes on; return its input and output.

        Raises:
            BackendUnavailableError: The connection is lost, or the host does not answer in time.
        """
        channel = self._open_session(time.monotonic() + timeout)
        try:
            channel.exec_command(SHELL)
            channel.sendall(script.encode(errors="surrogateescape"))
        except (paramiko.SSHException, OSError, EOFError) as error:
            channel.close()
            raise self._lost(error) from error
        return Stream(channel)

    def dial(self, host: str, port: int, timeout: float) -> Duplex:
        """Return a connection from the remote host to an address there.

        Raises:
            ForwardingRefusedError: The server does not forward.
            ConnectionError: Nobody listens there, or the connection is lost.
        """
        try:
            channel = self._transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), window_size=_WINDOW, timeout=timeout
            )
        except paramiko.ChannelException as error:
            if error.code == 1:
                raise ForwardingRefusedError(f"{self} does not forward to port {port}") from error
            raise ConnectionRefusedError(f"port {port} of {self}: {error.text}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionError(f"{self}: {error}") from error
        return _ChannelDuplex(channel)

    def _open_session(self, limit: float) -> paramiko.Channel:
        pause = 0.05
        while True:
            try:
                return self._transport.open_session(timeout=max(0.1, limit - time.monotonic()))
            except paramiko.ChannelException as error:
                # others have sessions of this connection; each lasts a moment
                if time.monotonic() + pause > limit:
                    raise BackendUnavailableError(
                        f"{self} opens no more sessions on one connection.",
                        hint="MaxSessions in its sshd_config has to be 2 at the least; the default is 10.",
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            except (paramiko.SSHException, OSError, EOFError) as error:
                # where several are refused at once, paramiko tells only one of them why
                if not self.is_active or time.monotonic() + pause > limit:
                    raise self._lost(error) from error
                time.sleep(pause)

    def _converse(self, channel: paramiko.Channel, script: str, limit: float) -> Answer:
        channel.settimeout(max(0.1, limit - time.monotonic()))
        channel.exec_command(SHELL)
        with contextlib.suppress(OSError):  # a shell that ends early says why
            channel.sendall(script.encode(errors="surrogateescape"))
            channel.shutdown_write()
        output, errors = bytearray(), bytearray()
        while len(output) < _MOST_ANSWER:
            channel.settimeout(max(0.01, limit - time.monotonic()))
            data = channel.recv(1 << 16)
            while channel.recv_stderr_ready():
                errors += channel.recv_stderr(1 << 16)
            if not data:
                break
            output += data
        while len(errors) < _MOST_ANSWER and channel.recv_stderr_ready():
            errors += channel.recv_stderr(1 << 16)
        status = channel.recv_exit_status() if channel.exit_status_ready() else -1
        return Answer(status, output.decode(errors="replace"), errors.decode(errors="replace"))

    def _lost(self, error: BaseException) -> BackendUnavailableError:
        return BackendUnavailableError(f"The connection to {self} is lost: {_words(error)}.")

    def _silent(self, timeout: float) -> BackendUnavailableError:
        return BackendUnavailableError(f"{self} has not answered within {timeout:g} s.")


class Stream:
    """A script that goes on: lines in, lines out."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._rest = b""
        self._closed = False

    def lines(self) -> Iterator[str]:
        """Return the lines as they come, up to the end or the loss of the connection."""
        while True:
            line, end, rest = self._rest.partition(b"\n")
            if end:
                self._rest = rest
                yield line.decode(errors="replace")
                continue
            try:
                data = self._channel.recv(1 << 14)
            except (paramiko.SSHException, OSError, EOFError):
                return
            if not data:
                return
            self._rest += data

    def send(self, line: str) -> None:
        """Send a line.

        Raises:
            BackendUnavailableError: The connection is lost.
        """
        try:
            self._channel.sendall(line.encode() + b"\n")
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise BackendUnavailableError("The connection is lost.") from error

    def close(self) -> None:
        """End the script's input, and with it the script; may be called twice, and from another thread."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()


class _ChannelDuplex:
    """A channel to a port of the remote host, as the forwarder uses it.

    A channel's own `fileno` would cost two file descriptors, and its closing could write into another file's. What
    arrives
    is told by the buffer's event instead.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        channel.setblocking(False)

    def start(self, notify: Callable[[], object]) -> None:
        event = cast("threading.Event", _Notice(notify))
        self._channel.in_buffer.set_event(event)

    def fileno(self) -> int:
        return -1

    def recv(self, size: int) -> bytes:
        try:
            return self._channel.recv(size)
        except TimeoutError as error:
            raise BlockingIOError from error
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(str(error)) from error

    def send(self, data: memoryview) -> int:
        try:
            sent = self._channel.send(bytes(data[: 1 << 15]))
        except TimeoutError as error:
            raise BlockingIOError from error
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(str(error)) from error
        if not sent:
            raise ConnectionError("the channel is closed")
        return sent

    def shutdown_write(self) -> None:
        try:
            self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()


class _Notice:
    """What a channel's buffer sets when it is no longer empty, and clears when it is."""

    def __init__(self, notify: Callable[[], object]) -> None:
        self._notify = notify
        self._set = False

    def set(self) -> None:
        if not self._set:
            self._set = True
            self._notify()

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set


def _connect_hop(
    hop: Hop,
    through: paramiko.Transport | None,
    target: Target,
    ask: Ask | None,
    on_stage: Callable[[Stage], object],
) -> paramiko.Transport:
    """Connect one hop, again if sshd has too many that are just connecting."""
    limit = time.monotonic() + hop.connect_timeout
    for attempt in range(_MOST_TRIES):
        timer = _Timer(hop, on_stage)
        sock = _open_socket(hop, through, limit, timer)
        try:
            transport = _negotiate(hop, sock, limit, timer)
        except _BurstError as error:
            sock.close()
            # not all at the same time again
            pause = (
                _BURST_PAUSE * (1 + attempt) * (0.5 + int.from_bytes(os.urandom(1), "big") / 255)
            )
            if attempt == _MOST_TRIES - 1 or time.monotonic() + pause > limit:
                raise BackendUnavailableError(
                    f"{hop} accepts connections, and ends them before its sshd says a word.",
                    hint="Too many may be connecting just now (MaxStartups), or an address is blocked "
                    "there; its sshd's log says.",
                ) from error
            time.sleep(pause)
            continue
        except BaseException:
            sock.close()
            raise
        try:
            _check_host_key(hop, transport.get_remote_server_key())
            timer.done("host key", transport.get_remote_server_key().fingerprint)
            _authenticate(hop, transport, target, ask)
            timer.done("authenticate", hop.user)
        except BaseException:
            transport.close()
            raise
        return transport
    raise AssertionError("unreachable")


def _said_nothing(transport: paramiko.Transport) -> bool:
    """Return whether the server hung up without its version, as it does when it has too much to do."""
    return not transport.remote_version.startswith("SSH-")


class _BurstError(Exception):
    """Raised when the server hung up before it said who it is."""


class _Timer:
    def __init__(self, hop: Hop, on_stage: Callable[[Stage], object]) -> None:
        self._hop = hop
        self._on_stage = on_stage
        self._begun = time.perf_counter()

    def done(self, name: str, detail: str = "") -> None:
        now = time.perf_counter()
        self._on_stage(Stage(f"{self._hop.alias}: {name}", now - self._begun, detail))
        self._begun = now


def _open_socket(hop: Hop, through: paramiko.Transport | None, limit: float, timer: _Timer) -> Any:
    sock: Any
    if through is not None:
        sock = _open_through(hop, through, limit)
    elif hop.proxy_command and hop.proxy_command.lower() != "none":
        sock = _open_by_command(hop)
    else:
        sock = _open_directly(hop, limit, timer)
    timer.done("connect", f"{hop.hostname}:{hop.port}")
    return sock


def _open_directly(hop: Hop, limit: float, timer: _Timer) -> socket.socket:
    try:
        addresses = socket.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise BackendUnavailableError(
            f"The host name {hop.hostname!r} cannot be resolved: {_words(error)}.",
            hint="Correct `host` in kernel.json, or add the host to ~/.ssh/config.",
        ) from error
    timer.done("resolve", ", ".join(sorted({str(address[4][0]) for address in addresses})))
    last: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        left = limit - time.monotonic()
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
            # without it each small message waits for the acknowledgement of the last
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            last = error
            sock.close()
        else:
            return sock
    if last is None or isinstance(last, TimeoutError):
        raise BackendUnavailableError(
            f"{hop} has not answered within {hop.connect_timeout:g} s.",
            hint="Is the host up, and does no firewall drop the packets? `connect_timeout` sets the limit.",
        ) from last
    raise BackendUnavailableError(
        f"{hop} cannot be reached: {_words(last)}.",
        hint="Does an sshd listen on that port? `ssh` to it says the same.",
    ) from last


def _open_through(hop: Hop, through: paramiko.Transport, limit: float) -> paramiko.Channel:
    try:
        return through.open_channel(
            "direct-tcpip",
            (hop.hostname, hop.port),
            ("127.0.0.1", 0),
            window_size=_WINDOW,
            timeout=max(0.1, limit - time.monotonic()),
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        refused = isinstance(error, paramiko.ChannelException) and error.code == 1
        raise BackendUnavailableError(
            f"The jump host does not lead to {hop}: {_words(error)}.",
            hint="Its sshd does not forward (AllowTcpForwarding)."
            if refused
            else "Can the jump host resolve and reach it?",
        ) from error


def _open_by_command(hop: Hop) -> socket.socket:
    """Run a ProxyCommand, as OpenSSH does, with a socket as its input and output."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {hop.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
        )
    threading.Thread(target=process.wait, name="kernel-proxy-command", daemon=True).start()
    return ours


def _negotiate(hop: Hop, sock: Any, limit: float, timer: _Timer) -> paramiko.Transport:
    transport = paramiko.Transport(sock, default_window_size=_WINDOW)
    transport.daemon = True
    if not logging.getLogger(_QUIET).level:
        logging.getLogger(_QUIET).setLevel(logging.CRITICAL)
    transport.set_log_channel(_QUIET)
    transport.use_compression(hop.compression)
    transport.banner_timeout = max(0.1, limit - time.monotonic())
    transport.auth_timeout = max(hop.connect_timeout, 1.0)
    transport.channel_timeout = max(hop.connect_timeout, 1.0)
    options = transport.get_security_options()
    options.key_types = _preferred_key_types(hop, options.key_types)
    try:
        transport.start_client(timeout=max(0.1, limit - time.monotonic()))
        if not transport.initial_kex_done:  # it returns after its time without a word
            raise TimeoutError("no answer")
    except (paramiko.SSHException, OSError, EOFError) as error:
        transport.close()
        if _said_nothing(transport):
            if time.monotonic() > limit - _NEARLY:
                raise BackendUnavailableError(
                    f"{hop} accepts connections, and has not said that it is an sshd within "
                    f"{hop.connect_timeout:g} s.",
                    hint="Is it the right port? Is the host overloaded?",
                ) from error
            raise _BurstError(str(error)) from error
        raise BackendUnavailableError(
            f"No connection could be agreed on with {hop}: {_words(error)}.",
            hint=f"`ssh -v {hop.alias}` says more.",
        ) from error
    timer.done("agree on encryption")
    return transport


# -- host keys ----------------------------------------------------------------------------------


@dataclass
class _KnownHosts:
    keys: list[paramiko.PKey] = field(default_factory=list)
    revoked: list[paramiko.PKey] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def _known_hosts(hop: Hop) -> _KnownHosts:
    found = _KnownHosts()
    for name in hop.known_hosts:
        try:
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            _read_known_host(hop, line, name, number, found)
    return found


def _read_known_host(hop: Hop, line: str, name: str, number: int, found: _KnownHosts) -> None:
    line = line.strip()
    if not line or line.startswith("#"):
        return
    marker = ""
    if line.startswith("@"):
        marker, _, line = line.partition(" ")
    if marker not in ("", "@revoked"):  # paramiko does not check certificates of hosts
        return
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line.strip(), number)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey):
        return
    if entry is None or not _names(entry.hostnames, hop.host_key_name):
        return
    (found.revoked if marker else found.keys).append(entry.key)
    if not marker:
        found.files.append(name)


def _names(patterns: Sequence[str], name: str) -> bool:
    """Return whether an entry of known_hosts is for a host: hashed, literal, or with wildcards and exclusions."""
    import fnmatch

    match = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            match = match or paramiko.HostKeys.hash_host(name, pattern) == pattern
        elif pattern.startswith("!"):
            if fnmatch.fnmatchcase(name.lower(), _literal_brackets(pattern[1:])):
                return False
        else:
            match = match or fnmatch.fnmatchcase(name.lower(), _literal_brackets(pattern))
    return match


def _literal_brackets(pattern: str) -> str:
    return pattern.lower().replace("[", "[[]")


def _preferred_key_types(hop: Hop, types: Sequence[str]) -> tuple[str, ...]:
    """Ask for a key of a type that we know, where a host has several."""
    known = {key.get_name() for key in _known_hosts(hop).keys}
    if "ssh-rsa" in known:
        known |= {"rsa-sha2-512", "rsa-sha2-256"}
    return (*(t for t in types if t in known), *(t for t in types if t not in known))


def _check_host_key(hop: Hop, key: paramiko.PKey) -> None:
    found = _known_hosts(hop)
    if key in found.revoked:
        raise BackendUnavailableError(
            f"The key of {hop} is marked as revoked in known_hosts.",
            hint="Do not connect until its administrator has told you of a new key.",
        )
    if key in found.keys:
        return
    name = hop.host_key_name
    shown = f"{key.get_name()} {key.fingerprint}"
    if found.keys and hop.strict != "no":
        files = " ".join(dict.fromkeys(found.files))
        raise BackendUnavailableError(
            f"The key of {hop} is not the one in {files}: it shows {shown}. Somebody may be listening in, or the "
            "host was set up anew.",
            hint="If its administrator confirms the new key: "
            f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(found.files[0])} && {_scan(hop)}",
        )
    if hop.strict == "no":
        return
    if hop.strict == "accept-new":
        _add_host_key(hop, name, key)
        return
    raise BackendUnavailableError(
        f"The key of {hop} is unknown: it shows {shown}.",
        hint=f"If that is its key: {_scan(hop)}",
    )


def _scan(hop: Hop) -> str:
    file = hop.known_hosts[0] if hop.known_hosts else "~/.ssh/known_hosts"
    port = "" if hop.port == 22 else f"-p {hop.port} "
    return f"ssh-keyscan {port}{shlex.quote(hop.hostname)} >> {shlex.quote(file)}"


def _add_host_key(hop: Hop, name: str, key: paramiko.PKey) -> None:
    file = Path(hop.known_hosts[0])
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as known:
            known.write(f"{name} {key.get_name()} {key.get_base64()}\n")
    except OSError as error:
        raise BackendUnavailableError(
            f"The new key of {hop} cannot be written to {file}: {error.strerror}."
        ) from error


# -- authentication -----------------------------------------------------------------------------


def _authenticate(hop: Hop, transport: paramiko.Transport, target: Target, ask: Ask | None) -> None:
    """Try what the server allows.

    Keys (with certificates) of files and of the agent, then questions, then a password.
    """
    tried: list[str] = []
    allowed: list[str] = []  # by the server; empty while it has not said
    try:
        if _offer_keys(hop, transport, tried, allowed, ask):
            return
        password = os.environ.get(target.password_env) if target.password_env else None
        for method in ("keyboard-interactive", "password"):
            if (allowed and method not in allowed) or (password is None and ask is None):
                continue
            tried.append(method)
            try:
                if method == "password":
                    word = (
                        password if password is not None else ask and ask(f"Password for {hop}: ")
                    )
                    left = transport.auth_password(hop.user, word or "", fallback=False)
                else:
                    left = transport.auth_interactive(hop.user, _answerer(hop, password, ask))
            except paramiko.BadAuthenticationType as error:
                allowed[:] = error.allowed_types
                continue
            except paramiko.AuthenticationException:
                continue
            if not left:
                return
            allowed[:] = left
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise BackendUnavailableError(
            f"{hop} has ended the connection while we authenticated as {hop.user!r}: {_words(error)}.",
            hint="With many keys, set `identity_file`, or IdentitiesOnly in ~/.ssh/config: sshd counts each "
            "(MaxAuthTries).",
        ) from error
    raise BackendUnavailableError(
        f"{hop} refuses us as {hop.user!r}: {', '.join(tried) or 'there is no key to try'}"
        f"{'; it allows ' + ', '.join(allowed) if allowed else ''}.",
        hint="Set `identity_file` or `user` in kernel.json, load the key into your ssh-agent, or name an "
        "environment variable "
        f"with the password in `password_env`. `ssh {hop.alias}` has to work without a question.",
    )


def _offer_keys(
    hop: Hop, transport: paramiko.Transport, tried: list[str], allowed: list[str], ask: Ask | None
) -> bool:
    """Return whether a key has let us in; a key that is not enough leaves in `allowed` what is missing."""
    for name, key in _keys(hop, tried, ask):
        tried.append(name)
        try:
            left = transport.auth_publickey(hop.user, key)
        except paramiko.BadAuthenticationType as error:
            allowed[:] = error.allowed_types
            return False
        except paramiko.AuthenticationException:
            continue
        if not left:
            return True
        allowed[:] = left
        if "publickey" not in left:
            return False
    return False


def _keys(hop: Hop, tried: list[str], ask: Ask | None) -> Iterator[tuple[str, paramiko.PKey]]:
    """Return the keys to try, with names for messages: those of files, certificates first, and the agent's."""
    agent = _agent_keys(hop)
    offered: set[bytes] = set()
    for name in hop.identity_files:
        certificates = [
            c for c in (f"{name}-cert.pub", *hop.certificate_files) if os.path.exists(c)
        ]
        if not os.path.exists(name):
            yield from _agents_key_for(name, agent, offered)
            continue
        key = _load_key(name, tried, ask)
        if key is None:
            yield from _agents_key_for(name, agent, offered)
            continue
        for certificate in certificates:
            with contextlib.suppress(paramiko.SSHException, OSError, ValueError):
                signed = _load_key(name, tried, ask)
                if signed is not None:
                    signed.load_certificate(certificate)
                    yield certificate, signed
        offered.add(key.asbytes())
        yield name, key
    if not hop.identities_only:
        for agent_key in agent:
            if agent_key.asbytes() not in offered:
                yield f"{agent_key.comment or agent_key.get_name()} of the agent", agent_key


def _agents_key_for(
    name: str, agent: Sequence[paramiko.AgentKey], offered: set[bytes]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Return the agent's key to a file of which only the public half can be read here."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        import base64

        public = Path(name if name.endswith(".pub") else f"{name}.pub").read_text().split()[1]
        for key in agent:
            if key.asbytes() == base64.b64decode(public):
                offered.add(key.asbytes())
                yield f"{name} of the agent", key


def _load_key(name: str, tried: list[str], ask: Ask | None) -> paramiko.PKey | None:
    try:
        return paramiko.PKey.from_path(name)
    except (paramiko.PasswordRequiredException, TypeError):
        passphrase = ask(f"Passphrase of {name}: ") if ask is not None else None
        if passphrase:
            with contextlib.suppress(paramiko.SSHException, ValueError):
                return paramiko.PKey.from_path(name, cast(Any, passphrase.encode()))
        tried.append(f"{name} (it has a passphrase)")
    except (paramiko.SSHException, _UnknownKeyType, OSError, ValueError) as error:
        tried.append(f"{name} ({_words(error)})")
    return None


def _agent_keys(hop: Hop) -> Sequence[paramiko.AgentKey]:
    if hop.identity_agent.lower() == "none":
        return ()
    try:
        return paramiko.Agent().get_keys()
    except (paramiko.SSHException, OSError):
        return ()


def _answerer(
    hop: Hop, password: str | None, ask: Ask | None
) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
    def answer(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        said = " ".join(text for text in (title, instructions) if text)
        answers = []
        for prompt, _ in prompts:
            if password is not None:
                answers.append(password)
            else:
                answers.append((ask and ask(f"{hop}: {said} {prompt}".strip())) or "")
        return answers

    return answer


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "text", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__
