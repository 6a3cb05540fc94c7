"""The contract between jupyter_client and a provisioner, and the preparation that every backend shares."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from string import Template
from typing import Any, cast

import traitlets
from traitlets.config import LoggingConfigurable

from kernel_provisioner_core.connection import (
    PORT_NAMES,
    KernelConnectionInfo,
    connection_file_write_error,
    jupyter_runtime_dir,
    temporary_connection_file,
    write_connection_file,
    write_private_file,
)
from kernel_provisioner_core.encryption import curve_keypair, curve_wanted
from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.options import check_option_names
from kernel_provisioner_core.ports import PortReservation, can_hold_ports
from kernel_provisioner_core.records import KernelRecord, remove_record, write_record
from kernel_provisioner_core.turns import turn

__all__ = ["KernelProvisionerBase"]


class _ProvisionerMeta(ABCMeta, type(LoggingConfigurable)):  # type: ignore[misc]
    """Lets a class be abstract and have traits."""


class KernelProvisionerBase(LoggingConfigurable, ABC, metaclass=_ProvisionerMeta):  # type: ignore[metaclass]
    """What jupyter_client's kernel manager calls in order to run a kernel.

    A provisioner author overrides the abstract methods, and of the others what the backend needs. The
    kernel manager makes one provisioner for a kernel and keeps it through all restarts. The blocking
    manager runs every call in an event-loop run of its own, perhaps in another thread each time: keep nothing on the
    instance that belongs to a loop.

    Options are traits with `config=True`; they arrive from the `config` of kernel.json as keyword
    arguments. See `options` for how they are described.

    Args:
        **kwargs: `kernel_id`, `kernel_spec`, `parent` (the kernel manager; each may be None) and the options.

    Raises:
        ConfigurationError: kernel.json has an option that the class does not have, or of the wrong type.
    """

    kernel_spec = traitlets.Any(
        None, allow_none=True, help="The kernelspec that is launched, or None."
    )
    kernel_id = traitlets.Unicode(None, allow_none=True, help="The kernel's id, or None.")

    connection_info: KernelConnectionInfo
    """How the kernel is reached; complete from `pre_launch` on."""

    last_exit: KernelExit | None = None
    """How the kernel ended the last time; None while none has ended, or it is not known yet."""

    def __init__(self, **kwargs: Any) -> None:
        """Check the options and take them over; nothing is started, opened or connected."""
        check_option_names(type(self), _options_in(kwargs.get("kernel_spec")))
        known = {k: v for k, v in kwargs.items() if self.has_trait(k) or k == "log"}
        try:
            super().__init__(**known)
        except traitlets.TraitError as error:
            raise ConfigurationError(
                f"An option of {type(self).__name__} has a wrong value: {error}",
                hint=f"`jupyter provisioner show {_name_of(self)}` lists the options and their types.",
            ) from error
        # What a later jupyter_client may pass is no mistake of the user's, so it is no error.
        for name in kwargs.keys() - known.keys():
            self.log.warning("%s ignores the argument %r.", type(self).__name__, name)
        self.connection_info = {}
        self._ports: PortReservation | None = None
        self._chosen_ports: tuple[int, ...] = ()
        self._managers_ports: dict[str, int] = {}
        self._connection_file = ""
        self._launched = False
        self._follows_restarter = False

    # -- what a backend has to do ---------------------------------------------------------------

    @property
    @abstractmethod
    def has_process(self) -> bool:
        """Whether there is a kernel to manage.

        Asserted by the kernel manager right after `launch_kernel`; False again once `wait` has seen the
        end. While it is False, the manager calls neither `poll` nor the signals.
        """

    @abstractmethod
    async def poll(self) -> int | None:
        """Return None while the kernel runs (or may run: unknown is not dead), else its exit code.

        Called every 0.1 s while the manager waits and every 3 s by its restarter, so it makes no request: it
        tells what a watch has learned.
        """

    @abstractmethod
    async def wait(self) -> int | None:
        """Wait for the end of the kernel and return its exit code.

        Called by the manager after `poll` has told of the end, and by callers who want to be woken by
        it. May be called again, and cancelled: the kernel is not touched.
        """

    @abstractmethod
    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel and what it has started.

        Called to interrupt (SIGINT), also at every shutdown and restart, also of a dead kernel. Silent when
        the kernel is dead, and while the manager shuts down: an exception then would stop the shutdown for good.

        Raises:
            SignalError: The kernel runs and cannot be signalled.
        """

    @abstractmethod
    async def kill(self, restart: bool = False) -> None:
        """End the kernel at once and leave everything else as it is; `poll` tells of it within 5 seconds.

        Silent when it is dead already. jupyter_client passes `restart=False` even when it restarts.
        """

    @abstractmethod
    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end (SIGTERM) and leave everything else as it is; as `kill` otherwise."""

    @abstractmethod
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel and return how it is reached; `has_process` is True from then on.

        Called once for a start and once for each restart, with what `pre_launch` returned. It does
        everything or nothing: on an error or a cancellation, what it had made is removed before that leaves.

        Args:
            cmd: The command.
            **kwargs: The rest of what `pre_launch` returned: `env`, `cwd` and what the caller of
                `start_kernel` passed.

        Returns:
            `connection_info`: ports, ip and key as they were before a restart.

        Raises:
            LaunchError: The kernel did not start.
        """

    # -- what a backend may do ------------------------------------------------------------------

    async def cleanup(self, restart: bool = False) -> None:
        """Remove what was made for the kernel; with `restart`, keep what the next launch needs.

        Called at the end of each shutdown and restart, also before a first launch, after a failed one, and
        twice. Overriding methods call this one: it lets go of the ports and removes the connection file and the record
        unless `restart`.
        """
        if not restart:
            if self.kernel_id:
                remove_record(self.kernel_id)
            self._forget_connection()

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Learn that the manager has sent the kernel a shutdown request; the kernel gets its grace.

        Not called at an automatic restart, nor when the manager kills at once.
        """

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare a launch: hold the ports, mint the keys, write the connection file, complete the environment.

        Called before each launch, the first one and those of restarts; ports and keys are the same each
        time. Without a manager (`parent` is None) the connection file is a new one in Jupyter's runtime directory.

        Args:
            **kwargs: What the caller of `start_kernel` passed: `env` (by default this process's), `cwd`,
                `extra_arguments`, `transport_encryption`, and more.

        Returns:
            The arguments of `launch_kernel`, `cmd` and `env` among them. A `cmd` that is given stays.

        Raises:
            ConfigurationError: The ip is not this machine's, a port is in use, or encryption is required
                and cannot be had.
            ConnectionFileWriteError: The connection file cannot be written. Nothing is left behind in either case.
        """
        await turn()
        policy = kwargs.pop("transport_encryption", None)
        extra_arguments = kwargs.pop("extra_arguments", None) or []
        env = kwargs.pop("env", None)
        env = dict(os.environ if env is None else env)
        with self._all_or_nothing():
            self._prepare_connection(policy, env)
            if "cmd" not in kwargs:
                kwargs["cmd"] = self._format_command(extra_arguments)
        # The kernelspec's values may refer to the environment that the kernel would have without them.
        declared = dict(getattr(self.kernel_spec, "env", None) or {})
        env.update({k: Template(v).safe_substitute(env) for k, v in declared.items()})
        self._finalize_env(env)
        return {**kwargs, "env": env}

    async def post_launch(self, **kwargs: Any) -> None:
        """Do what is left to do once the manager watches over the kernel; called after each launch.

        Overriding methods call this one: it has everything removed should the manager give the kernel up.
        """
        self._launched = True
        add_callback = getattr(self._manager, "add_restart_callback", None)
        if add_callback is not None and not self._follows_restarter:
            add_callback(self._given_up, "dead")
            self._follows_restarter = True

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return all that a fresh process needs in order to manage the running kernel, as JSON values.

        It holds the key: store it in files of mode 0600 only.
        """
        info: dict[str, Any] = dict(self.connection_info)
        if isinstance(info.get("key"), bytes):
            info["key"] = info["key"].decode()
        return {
            "kernel_id": self.kernel_id,
            "connection_info": info,
            "connection_file": self._connection_file,
        }

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over a running kernel from what `get_provisioner_info` returned in another process.

        The manager, if there is one, is told ports, ip and keys. Overriding methods call this one first.

        Raises:
            ConfigurationError: The info was not made by `get_provisioner_info`.
            KernelNotFoundError: The kernel is gone (raised by the backends).
        """
        try:
            info = dict(provisioner_info["connection_info"])
            kernel_id = provisioner_info["kernel_id"]
            key = info.get("key", b"")
            info["key"] = key.encode() if isinstance(key, str) else key
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                "The provisioner info is incomplete.",
                hint="Pass what get_provisioner_info() returned, as it was.",
            ) from error
        self.kernel_id = kernel_id
        self.connection_info = cast("KernelConnectionInfo", info)
        self._connection_file = provisioner_info.get("connection_file", "")
        if self._manager is not None:
            self._tell_manager(self._manager, info)

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Return how long a graceful shutdown may take, in seconds.

        Args:
            recommended: What the manager is configured to (5 s by default).
        """
        return recommended

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """Return after how many seconds of life a (re)started kernel counts as up.

        Args:
            recommended: What the restarter is configured to (10 s by default).
        """
        return recommended

    def resolve_path(self, path: str) -> str | None:
        """Return where a path, as the kernel sees it, is on the server; None where that cannot be told.

        Called for the debugger and for links in tracebacks.
        """
        return None

    # -- for the backends -----------------------------------------------------------------------

    @property
    def _manager(self) -> Any:
        """The kernel manager, or None if `parent` is none."""
        return self.parent if hasattr(self.parent, "write_connection_file") else None

    @property
    def _shutting_down(self) -> bool:
        """Whether the manager shuts down or restarts, so that no exception may reach it."""
        return bool(getattr(self.parent, "shutting_down", False))

    def _finalize_env(self, env: dict[str, str]) -> None:
        """Change the kernel's environment at the very last; overriding methods call this one."""
        language = getattr(self.kernel_spec, "language", "") or ""
        if language.lower().startswith("python"):
            # It names the server's interpreter, and would make another one take it for its own.
            env.pop("PYTHONEXECUTABLE", None)

    def _format_command(self, extra_arguments: list[str]) -> list[str]:
        """Return argv with its placeholders filled in, for a kernel that runs on this machine."""
        if self._manager is not None:
            return cast("list[str]", self._manager.format_kernel_cmd(extra_arguments))
        words = [*(getattr(self.kernel_spec, "argv", None) or []), *extra_arguments]
        if words and re.fullmatch(r"python(3(\.\d+)?)?", words[0]):
            words[0] = sys.executable
        values = {
            "connection_file": os.path.realpath(self._connection_file),
            "prefix": sys.prefix,
            "resource_dir": getattr(self.kernel_spec, "resource_dir", ""),
        }
        return [re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), word) for word in words]

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo the preparation of a launch if the body raises or is cancelled; both steps of a launch use it.

        A launch that follows another one leaves ports and file as `cleanup(restart=True)` does: the manager
        may try once more, and clients wait on those ports.
        """
        try:
            yield
        except BaseException:
            if not self._launched:
                self._forget_connection()
                for name, port in self._managers_ports.items():
                    setattr(self._manager, name, port)
                self.connection_info = {}
            raise
        self._launched = self._launched or self.has_process

    async def _record(self) -> None:
        """Write down that the kernel runs, for `jupyter provisioner ps` and its like."""
        if not self.kernel_id:
            return
        this = type(self)
        record = KernelRecord(
            kernel_id=self.kernel_id,
            provisioner=f"{this.__module__}:{this.__qualname__}",
            kernel_name=getattr(self._manager, "kernel_name", ""),
            info=await self.get_provisioner_info(),
            options=dict(_options_in(self.kernel_spec)),
        )
        try:
            write_record(record)
        except OSError as error:
            self.log.warning(
                "`jupyter provisioner ps` will not list kernel %s: %s", self.kernel_id, error
            )

    def _report_exit(self, ended: KernelExit) -> None:
        """Tell the log, and the reader of the server's kernel list, how a kernel ended that nobody has ended."""
        level = logging.INFO if ended.code == 0 else logging.WARNING
        output = f" Its last output:\n{ended.output}" if ended.output else ""
        self.log.log(level, "Kernel %s: %s.%s", self.kernel_id, ended.reason, output)
        if hasattr(
            self._manager, "reason"
        ):  # jupyter_server puts it there, and into its kernel list
            self._manager.reason = ended.reason

    def _given_up(self) -> None:
        """Clean up after a kernel that its manager's restarter has given up: nobody else is told to.

        jupyter_server forgets such a kernel without a further call. Called by the restarter, in an event
        loop or in none.
        """
        import asyncio

        from kernel_provisioner_core.threads import start_thread

        def clean_up() -> None:
            asyncio.run(self.cleanup())

        start_thread(clean_up)

    def _redact(self, text: str) -> str:
        """Return a text (a kernel's output, a log line) without this kernel's keys."""
        for name in ("key", "curve_secretkey"):
            secret = self.connection_info.get(name) or ""
            secret = secret.decode() if isinstance(secret, bytes) else str(secret)
            if secret:
                text = text.replace(secret, "[key]")
        return text

    # -- ports, keys and the connection file ----------------------------------------------------

    def _prepare_connection(self, policy: Any, env: Mapping[str, str]) -> None:
        manager = self._manager
        if manager is None:
            self._prepare_own_connection(policy or "disabled")
            return
        policy = policy or getattr(manager, "transport_encryption", "disabled")
        if (
            curve_wanted(policy, self.kernel_spec, manager.transport)
            and not manager.curve_publickey
        ):
            manager.curve_publickey, manager.curve_secretkey = curve_keypair()
        if manager.transport == "tcp":
            wanted = [getattr(manager, name) for name in PORT_NAMES]
            if not self._launched:
                self._managers_ports = dict(zip(PORT_NAMES, wanted, strict=True))
            for name, port in zip(PORT_NAMES, self._hold_ports(manager.ip, wanted), strict=True):
                setattr(manager, name, port)
        self.connection_info = self._write_managers_file(manager, env.get("JPY_SESSION_NAME", ""))

    def _prepare_own_connection(self, policy: object) -> None:
        info = self.connection_info
        if not info:
            keys = (
                curve_keypair() if curve_wanted(policy, self.kernel_spec, "tcp") else (None, None)
            )
            ports = self._hold_ports("127.0.0.1", [0] * len(PORT_NAMES))
            name = f"kernel-{self.kernel_id or os.urandom(8).hex()}.json"
            self._connection_file = os.path.join(jupyter_runtime_dir(), name)
            key = os.urandom(16).hex().encode()
            entries: dict[str, Any] = {
                **dict(zip(PORT_NAMES, ports, strict=True)),
                "key": key,
                "kernel_name": getattr(self.kernel_spec, "display_name", ""),
                "curve_publickey": keys[0],
                "curve_secretkey": keys[1],
            }
            _, written = write_connection_file(self._connection_file, **entries)
            self.connection_info = cast("KernelConnectionInfo", {**written, "key": key})

    def _hold_ports(self, ip: str, wanted: list[int]) -> tuple[int, ...]:
        """Return the ports to use, held from now on; where they cannot be held, as they are wanted."""
        held = self._ports
        if held is not None:
            if held.ip == ip and all(w in (0, p) for w, p in zip(wanted, held.ports, strict=True)):
                return held.ports
            held.release()
            self._ports = None
        if not can_hold_ports(ip):
            return tuple(wanted)  # the manager chooses, and its restarter retries with new ones
        try:
            self._ports = PortReservation(ip, wanted)
        except ConfigurationError:
            if tuple(wanted) != self._chosen_ports:
                raise
            # They were ours at an earlier start; nobody has asked for just these.
            self._ports = PortReservation(ip, [0] * len(wanted))
        self._chosen_ports = self._ports.ports
        return self._ports.ports

    def _write_managers_file(self, manager: Any, jupyter_session: str) -> KernelConnectionInfo:
        """Write the manager's connection file, and return what it says; one that is there is written anew."""
        path = manager.connection_file
        if not path:
            path = manager.connection_file = temporary_connection_file()
        self._connection_file = path
        info = manager.get_connection_info()
        try:
            if _writes_as_jupyter_client(manager) and all(info[name] for name in PORT_NAMES):
                # what the manager's own method writes, but in one piece and in half the time
                entries = {
                    **info,
                    "key": info["key"].decode(),
                    "kernel_name": manager.kernel_name,
                    "jupyter_session": jupyter_session,
                }
                write_private_file(path, json.dumps(entries, separators=(",\n ", ": ")))
                manager._connection_file_written = True  # so that the manager removes it, as ever
                return cast("KernelConnectionInfo", info)
            self._let_manager_write(manager, jupyter_session)
            return cast("KernelConnectionInfo", manager.get_connection_info())
        except OSError as error:
            raise connection_file_write_error(path, error) from error

    def _let_manager_write(self, manager: Any, jupyter_session: str) -> None:
        path = self._connection_file
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        try:
            manager.write_connection_file(jupyter_session=jupyter_session)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)  # cut off in the middle
            raise

    def _tell_manager(self, manager: Any, info: Mapping[str, Any]) -> None:
        for name in PORT_NAMES:  # it takes over no port where it has one
            setattr(manager, name, 0)
        manager.load_connection_info(info)
        if self._connection_file:
            manager.connection_file = self._connection_file

    def _forget_connection(self) -> None:
        if self._ports is not None:
            self._ports.release()
            self._ports = None
        if self._manager is not None:
            self._manager.cleanup_connection_file()
        if self._connection_file:
            with contextlib.suppress(OSError):
                os.unlink(self._connection_file)
        if self._manager is None:
            self.connection_info = {}
        self._launched = False


def _options_in(kernel_spec: Any) -> Mapping[str, Any]:
    stanza = (getattr(kernel_spec, "metadata", None) or {}).get("kernel_provisioner") or {}
    return stanza.get("config") or {}


def _name_of(provisioner: KernelProvisionerBase) -> str:
    """Return the name that kernel.json has for the provisioner, else `module:Class`."""
    stanza = (getattr(provisioner.kernel_spec, "metadata", None) or {}).get(
        "kernel_provisioner"
    ) or {}
    this = type(provisioner)
    return str(stanza.get("provisioner_name") or f"{this.__module__}:{this.__qualname__}")


def _writes_as_jupyter_client(manager: Any) -> bool:
    """Return whether the manager writes its file as jupyter_client's does, and not in a way of its own.

    On Windows it does more: it sets the file's access list.
    """
    method = getattr(type(manager), "write_connection_file", None)
    return os.name == "posix" and getattr(method, "__module__", "") == "jupyter_client.connect"
