"""`SSHProvisioner`: kernels on other hosts, through ssh."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, cast

import traitlets

from kernel_provisioner_core.connection import PORT_NAMES, KernelConnectionInfo
from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelNotFoundError,
    LaunchError,
    SignalError,
)
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.forwarder import Duplex, Forwarder
from kernel_provisioner_core.remote import Handle, LaunchRequest, RemoteProvisioner
from kernel_provisioner_core.threads import in_thread
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_ssh import commands
from kernel_provisioner_ssh.client import Client, ForwardingRefusedError, Stage, Target, resolve
from kernel_provisioner_ssh.connection import Connection
from kernel_provisioner_ssh.watch import SSHWatch

__all__ = ["SSHProvisioner"]

_KEEPALIVE = 15.0  # seconds
_CHECK_LIMIT = 30.0  # seconds for a stage of `check_connection`
_DIAL_PATIENCE = 1.0  # seconds in one dial for ports that are not known yet
_PORT_TRIES = 3  # launches, if the ports chosen are taken by somebody else
_WRITE_BACK_LIMIT = (
    15.0  # seconds for a kernel that should write its ports back, before it is given fixed ones
)
_PORT_IN_USE = re.compile("address already in use|addr(ess)? in use|EADDRINUSE", re.IGNORECASE)
# Kernels that choose their ports if the file says 0, and write them there.
_WRITES_BACK = re.compile(r"(^|[\s/.])ipykernel(_launcher)?([\s.]|$)")

# Who answers for kernels on all hosts: this process.
_OWNER: dict[int, str] = {}


class SSHProvisioner(RemoteProvisioner):
    """Runs the kernel on another host, as a user's `ssh` would, with nothing to install there.

    The connection is as the OpenSSH configuration says; the options here count before it.
    """

    conformance_capabilities = (
        "interrupt",
        "interrupt-children",
        "interrupt-wrapped",
        "signals",
        "exit-codes",
        "exit-signals",
        "kills-descendants",
        "persistence",
        "resolve-path",
        "holds-ports",
        "captures-output",
        "awaits-readiness",
        "rejects-unknown-options",
        "working-directory",
        "filters-environment",
        "encryption",
    )

    host = traitlets.Unicode(
        "",
        config=True,
        help="The host, as one would pass it to `ssh`: a name, an address, or an alias of ~/.ssh/config. It has "
        "to be set.",
    ).tag(example="gpu1")

    user = traitlets.Unicode(
        "",
        config=True,
        help="The user on the host. Default: what ~/.ssh/config says, else the name of the server's user.",
    ).tag(example="alice")

    port = traitlets.Int(
        None,
        allow_none=True,
        min=1,
        max=65535,
        config=True,
        help="The port of the host's sshd. Default: what ~/.ssh/config says, else 22.",
    ).tag(example=2222)

    identity_file = traitlets.Unicode(
        "",
        config=True,
        help="A private key (its path on the server) to try first; a certificate beside it (-cert.pub) is used "
        "too. Default: "
        "none, which leaves those of ~/.ssh/config, ~/.ssh/id_* and the ssh-agent.",
    ).tag(example="~/.ssh/id_gpu")

    proxy_jump = traitlets.Unicode(
        None,
        allow_none=True,
        config=True,
        help="Hosts on the way, as `ssh -J` takes them; `none` for none. Default: what ~/.ssh/config says.",
    ).tag(example="alice@gateway.example.com:2222")

    ssh_config = traitlets.Unicode(
        "",
        config=True,
        help="An OpenSSH configuration to use in place of ~/.ssh/config and the system's, as `ssh -F`. Default: "
        "none.",
    ).tag(example="~/.ssh/config.kernels")

    known_hosts = traitlets.Unicode(
        "",
        config=True,
        help="The file with the keys of known hosts. Default: those of ~/.ssh/config, else ~/.ssh/known_hosts and "
        "the "
        "system's.",
    ).tag(example="~/.ssh/known_hosts.kernels")

    strict_host_key_checking = traitlets.Enum(
        ("yes", "accept-new", "no"),
        None,
        allow_none=True,
        config=True,
        help="What to do about an unknown host key: refuse it (yes), trust it the first time and write it down "
        "(accept-new), or "
        "look at no key (no), which lets anybody in between listen in. Default: what ~/.ssh/config says; where "
        "that would "
        "ask, the key is refused, since nobody is there to answer.",
    ).tag(example="accept-new")

    password_env = traitlets.Unicode(
        "",
        config=True,
        help="The name of an environment variable of the server that has the password, or the answer to what the "
        "host asks. "
        "Default: none. It is never stored.",
    ).tag(example="GPU1_PASSWORD")

    connect_timeout = traitlets.Float(
        None,
        allow_none=True,
        min=0,
        config=True,
        help="How long each host on the way may take to connect. Default: ConnectTimeout of ~/.ssh/config, else "
        "30: TCP alone "
        "would wait for two minutes.",
    ).tag(unit="seconds", example=60)

    keepalive_interval = traitlets.Float(
        None,
        allow_none=True,
        min=0.1,
        config=True,
        help="How often the host is asked whether it is still there, and how long its answer may take until a new "
        "connection is "
        "tried beside the silent one. Default: ServerAliveInterval of ~/.ssh/config, else 15.",
    ).tag(unit="seconds", example=5)

    compression = traitlets.Bool(
        None,
        allow_none=True,
        config=True,
        help="Whether what passes is compressed; worth it only over slow lines. Default: what ~/.ssh/config says, "
        "else not.",
    ).tag(example=True)

    kernel = traitlets.Unicode(
        "",
        config=True,
        help="The name of a kernelspec of the host, whose argv, env and interrupt mode are used; it is looked for "
        "where a Jupyter "
        "there would, after `setup`. Default: none, which runs the argv of this kernel.json there.",
    ).tag(example="python3")

    setup = traitlets.List(
        traitlets.Unicode(),
        config=True,
        help="Shell commands that are run on the host, one after the other, before the kernel, in its shell: to "
        "load modules, to "
        "activate an environment. The first that fails ends the launch. Default: none.",
    ).tag(example=["module load cuda", ". ~/venv/bin/activate"])

    login_shell = traitlets.Bool(
        False,
        config=True,
        help="Whether setup and kernel are run by the user's login shell, which reads the profile (about 0.1 s). "
        "Default: false; "
        "they are run by /bin/sh.",
    ).tag(example=True)

    working_dir = traitlets.Unicode(
        "",
        config=True,
        help="The kernel's working directory on the host; ~ is the home directory there. Default: none, which is "
        "the notebook's "
        "directory as `path_map` has it, else the home directory.",
    ).tag(example="~/project")

    path_map = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Directories of the server, and where they are on the host (a shared file system). It gives the "
        "working directory, "
        "and finds the files that tracebacks and the debugger name. The longest that fits counts. Default: none.",
    ).tag(example={"/home/alice": "/nfs/home/alice"})

    persist = traitlets.Bool(
        False,
        config=True,
        help="Whether the kernel lives on when the server has died, to be adopted by another. Default: false; it "
        "ends "
        "`lost_timeout` after the last sign of life of the server.",
    ).tag(example=True)

    restarts_in_place = False

    ask: Callable[[str], str | None] | None = None
    """Called, from a thread, with a question of the host (a password, a code); returns the answer.

    Set by applications.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Check the options; nothing is connected."""
        super().__init__(**kwargs)
        self._connection: Connection | None = None
        self._forwarder: Forwarder | None = None
        self._launch: LaunchRequest | None = None
        self._fixed_ports = False
        self._refused: Future[None] | None = None
        self._cwd = ""

    # -- the contract ---------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare as the base class does.

        Raises:
            ConfigurationError: Clients would not come through loopback, or the host is not named.
        """
        if not self.host:
            raise ConfigurationError(
                "No host is set.", hint='Set "host" under "config" in kernel.json.'
            )
        manager = self._manager
        if manager is not None:
            if manager.transport != "tcp":
                raise ConfigurationError(
                    f"A kernel on another host cannot be reached through {manager.transport!r}.",
                    hint="Leave KernelManager.transport at tcp.",
                )
            if not _is_loopback(manager.ip):
                raise ConfigurationError(
                    f"The tunnel to the kernel would be open to others on {manager.ip!r}.",
                    hint="Leave KernelManager.ip at 127.0.0.1.",
                )
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel on the host, and the tunnel to it; see the base class."""
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except BaseException:
            if not self._launched:
                await self._let_go()
            raise

    async def post_launch(self, **kwargs: Any) -> None:
        """Wait until the kernel listens; see the base class."""
        launched_before = self._launched
        try:
            await super().post_launch(**kwargs)
        except BaseException:
            if not launched_before:
                await self._let_go()
            raise

    async def cleanup(self, restart: bool = False) -> None:
        """Remove what was made on the host, and let go of the connection, unless `restart`."""
        try:
            await super().cleanup(restart=restart)
        finally:
            if not restart:
                await self._let_go()

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Adopt a running kernel; see the base class."""
        try:
            await super().load_provisioner_info(provisioner_info)
        except BaseException:
            await self._let_go()
            raise

    def resolve_path(self, path: str) -> str | None:
        """Return where a path of the host is on the server, by `path_map`; None if it is not there."""
        there = PurePosixPath(path)
        if not there.is_absolute():
            if not self._cwd.startswith("/"):
                return None
            there = PurePosixPath(self._cwd, path)
        text = os.path.normpath(str(there))
        pairs = [(remote, local) for local, remote in self.path_map.items()]
        here = _mapped(text, pairs)
        return here if here is not None and os.path.exists(here) else None

    # -- the verbs ------------------------------------------------------------------------------

    def create(self, request: LaunchRequest) -> Handle:
        """Connect, and find the kernelspec there.

        What is to be made on the host is made with the start, in one piece.
        """
        connection = self._connect()
        connection.client()
        argv, env = list(request.argv), dict(request.env)
        if self.kernel:
            argv, env = self._find_kernelspec(connection, request)
        if not argv:
            raise ConfigurationError(
                "There is no command to run.",
                hint='Set "argv" in kernel.json, or the option `kernel` to a kernelspec of the host.',
            )
        self._launch = replace(request, argv=tuple(argv), env=env)
        self._refused = Future()
        if self._forwarder is None:
            self._forwarder = self._forward(request_ports(self.connection_info))
        name = commands.directory_name(request.kernel_id, os.urandom(4).hex())
        return {"name": name, "directory": "", "host": self.host, "owner": _owner()}

    def start(self, handle: Handle) -> None:
        """Make the kernel's directory with the connection file, and start the kernel there."""
        request = self._launch
        assert request is not None
        self._cwd = self._working_directory(request)
        back = not self._fixed_ports and bool(_WRITES_BACK.search(" ".join(request.argv)))
        launch = commands.Launch(
            name=handle["name"],
            owner=_owner(),
            argv=request.argv,
            connection_file=f"kernel-{_safe(request.kernel_id) or 'unnamed'}.json",
            connection=request.connection,
            env=request.env,
            cwd=self._cwd,
            setup=tuple(self.setup),
            login_shell=self.login_shell,
            lease=0 if self.persist else max(1, int(self.lost_timeout)),
            writes_ports_back=back,
            seed=int.from_bytes(os.urandom(3), "big"),
        )
        said, rest, _ = self._ask(lambda mark: commands.launch_script(launch, mark))
        if said[0] != "ok":
            raise LaunchError(
                f"{self._there}: {' '.join(said[1:])}.",
                hint=_last_lines(rest),
                kernel_id=self.kernel_id,
            )
        directory, ports = said[1], said[2:]
        handle["directory"] = directory
        handle["writes_ports_back"] = back
        if ports:
            chosen = dict(zip(PORT_NAMES, map(int, ports), strict=True))
            self._watch().set_ports(handle["name"], chosen)

    def watch(self, handle: Handle) -> tuple[Watch, str]:
        """Return the watch of the host."""
        return self._watch(), handle["name"]

    def signal(self, handle: Handle, signum: int) -> None:
        """Signal the kernel; SIGINT, SIGTERM, SIGHUP and SIGQUIT go to all of its process group."""
        said, rest, _ = self._ask(
            lambda mark: commands.signal_script(handle["directory"], signum, mark)
        )
        if said[0] == "gone":
            raise KernelNotFoundError("The kernel does not run any more.")
        if said[0] != "ok":
            raise SignalError(f"{self._there}: {' '.join(said[1:])}. {_last_lines(rest)}".rstrip())

    def remove(self, handle: Handle) -> None:
        """Kill what runs and remove the kernel's directory."""
        self._watch().forget(handle["name"])
        self._ask(lambda mark: commands.remove_script(handle["name"], mark))

    def logs(self, handle: Handle, tail: int) -> str:
        """Return what the kernel printed."""
        said, _, rest = self._ask(
            lambda mark: commands.logs_script(handle["directory"], tail, mark)
        )
        return rest if said[0] == "ok" else ""

    def attach(self, handle: Handle) -> None:
        """Answer for the running kernel of another process's handle, and open the tunnel to it."""
        try:
            directory, _ = str(handle["directory"]), handle["name"]
        except KeyError as error:
            raise ConfigurationError("The provisioner info is incomplete.") from error
        if handle.get("host") != self.host:
            raise ConfigurationError(
                f"The kernel runs on {handle.get('host')!r}, and the option `host` is {self.host!r}."
            )
        self._connect()
        said, _, _ = self._ask(lambda mark: commands.attach_script(directory, _owner(), mark))
        if said[0] != "ok":
            raise KernelNotFoundError(f"The kernel does not run any more on {self._there}.")
        self._refused = Future()
        try:
            self._forwarder = self._forward(request_ports(self.connection_info))
        except ConfigurationError as error:
            # the process that launched it is there and has the tunnel
            self.log.debug("The kernel's ports are open already: %s", error)

    def kernel_connection(self, info: KernelConnectionInfo) -> dict[str, Any]:
        """Return that the kernel binds the host's loopback; the ports are chosen there."""
        return {"ip": "127.0.0.1", "transport": "tcp"}

    @property
    def connection_file_there(self) -> str:
        """What stands for the connection file until the host has said where it is."""
        return commands.CONNECTION_FILE

    # -- for a doctor ---------------------------------------------------------------------------

    def check_connection(self, on_stage: Callable[[Stage], object]) -> None:
        """Go the way to the host hop by hop, on a connection of its own, and leave nothing there; it blocks.

        Args:
            on_stage: Told of each stage that is done: resolve, connect, agree on encryption, host key,
            authenticate for
                each hop, then shell, runtime directory, kernel command, tunnel.

        Raises:
            KernelProvisionerError: A stage has failed; it is the one after the last that was told.
        """
        client = Client.connect(self._target(), self.ask, on_stage)
        argv = list(getattr(self.kernel_spec, "argv", None) or [])
        script = commands.check_script
        word = "" if self.kernel or not argv else argv[0]
        begun = time.perf_counter()
        try:
            mark = os.urandom(8).hex()
            answer = client.run(script(word, self.setup, self.login_shell, mark), _CHECK_LIMIT)
            said = [
                line.removeprefix(f"{mark} ") for line in answer.output.splitlines() if mark in line
            ]
            for name in ("shell", "runtime directory", "kernel command"):
                line = next((text for text in said if text.startswith(f"{name}: ")), "")
                detail = line.removeprefix(f"{name}: ")
                if not detail:
                    printed = _last_lines(answer.output + answer.errors)
                    missing = f": {word}" if name == "kernel command" else ""
                    raise BackendUnavailableError(
                        f"{client}: the {name} cannot be had{missing}.", hint=printed
                    )
                on_stage(Stage(f"{self.host}: {name}", time.perf_counter() - begun, detail))
                begun = time.perf_counter()
            try:
                client.dial("127.0.0.1", 1, _CHECK_LIMIT).close()
            except ForwardingRefusedError as error:
                raise BackendUnavailableError(
                    f"{error}.",
                    hint="AllowTcpForwarding in its sshd_config has to be yes or local.",
                ) from error
            except ConnectionRefusedError:
                pass  # nobody listens there, which it could only find out by forwarding
            on_stage(Stage(f"{self.host}: tunnel", time.perf_counter() - begun))
        finally:
            client.close()

    # -- steps ----------------------------------------------------------------------------------

    async def _await_kernel(self) -> None:
        for attempt in range(_PORT_TRIES):
            try:
                await self._await_kernel_or_refusal()
            except _PortsUnknownError:
                self.log.info(
                    "The kernel on %s has not written its ports back; once more.", self._there
                )
            except CommandNotFoundError:
                raise
            except LaunchError as error:
                ended = self._liveness is not None and self._liveness.ended is not None
                if attempt == _PORT_TRIES - 1 or not ended or not _PORT_IN_USE.search(error.output):
                    raise
                self.log.info("The ports chosen on %s were taken; once more.", self._there)
            else:
                return
            await self._launch_anew()

    async def _await_kernel_or_refusal(self) -> None:
        assert self._refused is not None
        refused = asyncio.wrap_future(self._refused)
        kernel = asyncio.ensure_future(super()._await_kernel())
        silent = asyncio.ensure_future(self._ports_stay_unknown())
        tasks: list[asyncio.Future[Any]] = [kernel, refused, silent]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                refused.result()
            if not kernel.done():
                raise _PortsUnknownError
            await kernel
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ports_stay_unknown(self) -> None:
        """Return after half of the time for a launch, if the kernel has not written its ports back; else never."""
        handle = self._handle
        if handle is not None and handle.get("writes_ports_back"):
            await asyncio.sleep(self.launch_timeout / 2)
            if self._watch().ports(handle["name"], 0) is None:
                return
        await asyncio.Event().wait()

    async def _launch_anew(self) -> None:
        assert self._request is not None
        self._fixed_ports = True
        await self._create_and_start(self._request)

    def _explain_death(self, ended: KernelExit, output: str) -> LaunchError:
        lines = output.strip().splitlines()
        last = lines[-1] if lines else ""
        if ended.code in (125, 126, 127) and last:
            missing = last.endswith(": command not found") or "cannot be entered" in last
            kind = CommandNotFoundError if missing else LaunchError
            return kind(
                f"{self._there}: {last}.",
                hint="Its path is searched as for a command that `ssh` runs; `setup` and `login_shell` change it."
                if missing and ended.code == 127
                else "",
                kernel_id=self.kernel_id,
                output="\n".join(lines[:-1]),
            )
        return super()._explain_death(ended, output)

    def _connect(self) -> Connection:
        if self._connection is None:
            target = self._target()
            interval = self.keepalive_interval or target.host.keepalive_interval or _KEEPALIVE
            self._connection = Connection.acquire(target, interval, self.ask)
        return self._connection

    def _target(self) -> Target:
        return resolve(
            self.host,
            user=self.user,
            port=self.port,
            identity_file=self.identity_file,
            proxy_jump=self.proxy_jump,
            connect_timeout=self.connect_timeout,
            known_hosts=self.known_hosts,
            strict=self.strict_host_key_checking,
            compression=self.compression,
            config_file=self.ssh_config,
            password_env=self.password_env,
        )

    def _watch(self) -> SSHWatch:
        connection = self._connect()
        watch = SSHWatch.on(connection, _owner())
        if not self.persist:
            step = commands.renewal_step(max(1, int(self.lost_timeout)))
            watch.renewal_interval = min(watch.renewal_interval, step)
        return watch

    def _forward(self, ports: dict[str, int]) -> Forwarder:
        return Forwarder(self._dial, ports, ip=self.connection_info.get("ip", "127.0.0.1"))

    def _dial(self, name: str) -> Duplex:
        handle, connection = self._handle, self._connection
        ended = self._liveness is None or self._liveness.ended is not None
        if handle is None or connection is None or ended:
            raise BackendUnavailableError("There is no kernel just now.")
        ports = self._watch().ports(handle["name"], _DIAL_PATIENCE)
        if ports is None:
            raise BackendUnavailableError("The kernel has not chosen its ports yet.")
        try:
            return connection.dial(ports[name])
        except ForwardingRefusedError as error:
            refused = LaunchError(
                f"{self._there} does not let us reach the kernel's ports: {error}.",
                hint="AllowTcpForwarding in its sshd_config has to be yes or local, and PermitOpen has to allow "
                "127.0.0.1.",
                kernel_id=self.kernel_id,
            )
            if self._refused is not None and not self._refused.done():
                self._refused.set_exception(refused)
            raise

    async def _let_go(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        connection, self._connection = self._connection, None
        if forwarder is not None:
            await in_thread(forwarder.close)
        if connection is not None:
            await in_thread(connection.release)

    def _ask(self, script: Callable[[str], str]) -> tuple[list[str], str, str]:
        """Run a script; return the words of its answer, what was printed before, and what after."""
        mark = os.urandom(8).hex()
        answer = self._connect().run(script(mark))
        before, found, after = answer.output.partition(f"{mark} ")
        if not found:
            said = _last_lines(answer.output + answer.errors)
            raise BackendUnavailableError(
                f"{self._there} does not run a shell for us{': ' if said else ''}{said}.",
                hint=f"`ssh {self.host} echo` has to print an empty line: is there a ForceCommand, or no login "
                f"shell?",
            )
        line, _, rest = after.partition("\n")
        return line.split(" "), before + answer.errors, rest

    @property
    def _there(self) -> str:
        connection = self._connection
        return self.host if connection is None else str(connection.target.host)

    def _working_directory(self, request: LaunchRequest) -> str:
        if self.working_dir:
            return self.working_dir
        return _mapped(request.cwd, list(self.path_map.items())) or "" if request.cwd else ""

    def _find_kernelspec(
        self, connection: Connection, request: LaunchRequest
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment of a kernelspec of the host."""
        name = self.kernel.lower()
        said, _, rest = self._ask(
            lambda mark: commands.find_kernelspec_script(
                name, request.env, self.setup, self.login_shell, mark
            )
        )
        if said[0] != "found":
            known = ", ".join(sorted(set(said[1:]))) or "none"
            raise LaunchError(
                f"{self._there} has no kernelspec {self.kernel!r}; it has: {known}.",
                hint="If it is in an environment, activate that in `setup`.",
                kernel_id=self.kernel_id,
            )
        folder, prefix = " ".join(said[1:]), ""
        first, _, others = rest.partition("\n")
        marked = re.fullmatch(r"[0-9a-f]{16} prefix (.*)", first)
        if marked:
            prefix, rest = marked[1], others
        try:
            spec = json.loads(rest)
            argv = [str(word) for word in spec["argv"]]
            env = {str(k): str(v) for k, v in (spec.get("env") or {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LaunchError(
                f"The kernelspec {folder}/kernel.json of {self._there} is no kernelspec: {error}.",
                kernel_id=self.kernel_id,
            ) from error
        if prefix and re.fullmatch(r"python(3(\.\d+)?)?", argv[0]):
            argv[0] = f"{prefix}/bin/{argv[0]}"
        values = {"resource_dir": folder, "prefix": prefix}
        argv = [re.sub(r"\{(resource_dir|prefix)\}", lambda m: values[m[1]], word) for word in argv]
        mode = spec.get("interrupt_mode")
        if mode in ("signal", "message") and self.kernel_spec is not None:
            self.kernel_spec.interrupt_mode = mode
        return argv, {**env, **request.env}


class _PortsUnknownError(Exception):
    """Raised when a kernel that was to choose its ports has not told them: an ipykernel before 6.25."""


def request_ports(info: KernelConnectionInfo) -> dict[str, int]:
    """Return the ports of the clients' end of the tunnel."""
    entries = cast("dict[str, Any]", info)
    return {name: int(entries[name]) for name in PORT_NAMES}


def _owner() -> str:
    """Return the name of this process's directory on hosts; another one after a fork."""
    pid = os.getpid()
    if pid not in _OWNER:
        _OWNER[pid] = f"owner-{os.urandom(8).hex()}"
    return _OWNER[pid]


def _safe(kernel_id: str) -> str:
    return re.sub("[^A-Za-z0-9._-]", "_", kernel_id)[:128]


def _is_loopback(ip: str) -> bool:
    try:
        return ip == "localhost" or ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


def _mapped(path: str, pairs: list[tuple[str, str]]) -> str | None:
    """Return a path with the longest fitting directory of the pairs replaced; None if none fits."""
    for before, after in sorted(pairs, key=lambda pair: -len(pair[0])):
        before, after = before.rstrip("/"), after.rstrip("/")
        if path == before or path.startswith(f"{before}/"):
            return after + path[len(before) :] or "/"
    return None


def _last_lines(text: str, count: int = 3) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines()[-count:])
