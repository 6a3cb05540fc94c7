"""`RemoteProvisioner`: the contract of `KernelProvisionerBase`, turned into a few verbs of a backend.

A backend says how to create, start, signal and remove a container, a pod or a remote process, and which watch learns
of its end. The verbs are plain synchronous methods that may block; they are called in threads (`threads.in_thread`),
several kernels' at once, each provisioner's one after the other.

    pre_launch      ports, keys, the connection file for the clients; the kernel's command and environment
    launch_kernel   create, watch, start (a restart in place: start)
    post_launch     waits until the kernel listens, or has died
    poll, wait      what the watch has learned; no request
    cleanup         remove
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from string import Template
from typing import Any

import traitlets

from kernel_provisioner_core.connection import PORT_NAMES, KernelConnectionInfo
from kernel_provisioner_core.errors import (
    KernelNotFoundError,
    KernelProvisionerError,
    LaunchError,
    LaunchTimeoutError,
)
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.liveness import Liveness
from kernel_provisioner_core.provisioner import KernelProvisionerBase
from kernel_provisioner_core.records import Owner
from kernel_provisioner_core.threads import in_thread, start_thread
from kernel_provisioner_core.watch import Watch

__all__ = ["Handle", "LaunchRequest", "RemoteProvisioner"]

Handle = dict[str, Any]
"""What a backend needs in order to find what it has created, as JSON values and without secrets."""

_SIGKILL = 9  # Windows has no name for it
_TAIL = 4096  # bytes of output that an error or a log line quotes
_DIAL_PAUSE = 0.02  # seconds between two tries to reach a kernel that does not listen yet

# What of the server's environment a kernel elsewhere gets: never what is not known to be harmless.
_INHERITED = ("JPY_SESSION_NAME", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class LaunchRequest:
    """What is to be run, as the verb `create` gets it.

    Args:
        kernel_id: The kernel's id.
        argv: The command, ready to run where the kernel runs.
        env: The kernel's whole environment, as far as it is not that of its image or host.
        cwd: The working directory that the caller asks for, else the server's own; a path on the server.
        connection_file: The path of the connection file where the kernel runs.
        connection: What that file holds, with the key; never shown.
        labels: Who made it and for what, to be attached to all that is made.
        cancelled: Set when the launch is given up: a verb that takes long looks at it.
    """

    kernel_id: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    connection_file: str
    connection: dict[str, Any] = field(repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def connection_text(self) -> str:
        """The connection file's text."""
        return json.dumps(self.connection, indent=2)


class RemoteProvisioner(KernelProvisionerBase):
    """Runs a kernel elsewhere by the verbs of a backend.

    Subclasses implement the verbs and what is abstract besides; their options are traits, as ever.
    """

    env = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Variables for the kernel's environment, on top of the kernelspec's `env`; ${NAME} in a value is "
        "replaced from the server's environment. Of the server's own variables a kernel gets only "
        + ", ".join(_INHERITED)
        + ". Default: none.",
    ).tag(example={"OMP_NUM_THREADS": "2"})

    launch_timeout = traitlets.Float(
        60.0,
        min=0,
        config=True,
        help="How long a kernel may take from the start of its process until it listens; pulling an image is not "
        "counted. Default: 60, as jupyter_client's own clients wait.",
    ).tag(unit="seconds", example=120)

    stop_timeout = traitlets.Float(
        None,
        allow_none=True,
        min=0,
        config=True,
        help="How long a graceful shutdown may take; half of it is for the kernel's own shutdown, half for "
        "SIGTERM, and then the kernel is killed. Default: none, which is the kernel manager's "
        "shutdown_wait_time (5).",
    ).tag(unit="seconds", example=20)

    lost_timeout = traitlets.Float(
        300.0,
        min=0,
        config=True,
        help="How long the daemon, API server or host may be out of reach before its kernels count as dead. "
        "Default: 300, so that an upgrade of a daemon costs no kernel.",
    ).tag(unit="seconds", example=3600)

    restarts_in_place = True
    """Whether `start` works again on what has ended; else a restart removes and creates."""

    def __init__(self, **kwargs: Any) -> None:
        """Check the options; nothing is connected."""
        super().__init__(**kwargs)
        self._handle: Handle | None = None
        self._request: LaunchRequest | None = None
        self._liveness: Liveness | None = None
        self._collected = False
        self._end_expected = False
        self._was_up = False

    # -- the verbs of a backend -----------------------------------------------------------------

    @abstractmethod
    def create(self, request: LaunchRequest) -> Handle:
        """Make all that the kernel needs and put the connection file there; start nothing.

        All or nothing: what was made is removed before an error leaves.
        """

    @abstractmethod
    def start(self, handle: Handle) -> None:
        """Start the kernel's process; return when it runs, or has ended already.

        Raises:
            KernelNotFoundError: What was created is gone.
            LaunchError: It cannot be started.
        """

    @abstractmethod
    def watch(self, handle: Handle) -> tuple[Watch, str]:
        """Return the watch that learns of the kernel's end, and the name it knows the kernel by."""

    @abstractmethod
    def signal(self, handle: Handle, signum: int) -> None:
        """Send a signal to the kernel and its descendants.

        Raises:
            KernelNotFoundError: It does not run.
        """

    @abstractmethod
    def remove(self, handle: Handle) -> None:
        """Remove all that was made, killing what runs; silent if it is gone."""

    @abstractmethod
    def logs(self, handle: Handle, tail: int) -> str:
        """Return the last `tail` bytes of what the kernel printed."""

    @abstractmethod
    def attach(self, handle: Handle) -> None:
        """Check that the kernel of another process's handle is there.

        Raises:
            KernelNotFoundError: It is gone.
        """

    @abstractmethod
    def kernel_connection(self, info: KernelConnectionInfo) -> dict[str, Any]:
        """Return the ip and the ports that the kernel is to bind, in its own world."""

    def is_current(self, handle: Handle, request: LaunchRequest) -> bool:
        """Return whether a restart may start again what was created; blocks as the verbs do.

        Called if the request is the one it was created for; a backend looks at what else has changed, such as the
        image.
        """
        return True

    @property
    @abstractmethod
    def connection_file_there(self) -> str:
        """The path of the connection file where the kernel runs."""

    # -- the contract ---------------------------------------------------------------------------

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel whose end `wait` has not seen."""
        return self._handle is not None and not self._collected

    async def poll(self) -> int | None:
        """Return None while the kernel runs or nobody knows, else its exit code; makes no request."""
        if self._liveness is None:
            return 0
        if self._liveness.unknown_seconds > self.lost_timeout:
            lost = KernelExit(None, f"out of reach for more than {self.lost_timeout:g} s")
            if self._liveness.set_ended(lost):
                self._note_exit(lost)
        ended = self._liveness.ended
        return None if ended is None else ended.status

    async def wait(self) -> int | None:
        """Wait for the end of the kernel and return its exit code; `has_process` is False then."""
        if self._liveness is None:
            return 0
        ended = await self._liveness.wait()
        self._collected = True
        self.last_exit = self.last_exit or ended  # its listener may be a moment behind
        return ended.status

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel and its descendants; silent if it is dead.

        While the manager shuts down, what keeps a signal from being sent is logged instead of raised.
        """
        if self._handle is None or self._liveness is None or self._liveness.ended is not None:
            return
        try:
            await in_thread(self.signal, self._handle, signum)
        except KernelNotFoundError:
            return
        except KernelProvisionerError as error:
            if not (self._shutting_down or self._end_expected):
                raise
            self.log.warning("%s", error)

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel; nothing is removed."""
        self._end_expected = True
        await self.send_signal(_SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Send SIGTERM; nothing is removed."""
        self._end_expected = True
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Expect the end of the kernel from now on; it is given its time."""
        self._end_expected = True

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare as the base class does; the environment is the kernelspec's and the option's, not the server's."""
        launch = await super().pre_launch(**kwargs)
        whole = launch["env"]
        declared = getattr(self.kernel_spec, "env", None) or {}
        launch["env"] = {
            **{name: whole[name] for name in _INHERITED if name in whole},
            **{name: whole[name] for name in declared if name in whole},
            **{name: Template(value).safe_substitute(whole) for name, value in self.env.items()},
        }
        return launch

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Create and start the kernel; it need not listen yet (see `post_launch`).

        Raises:
            LaunchError: It cannot be created or started, or the last one still runs.
            BackendUnavailableError: The daemon, API server or host cannot be reached.
        """
        if self._handle is not None and self._liveness is not None and self._liveness.ended is None:
            raise LaunchError(
                "The kernel still runs.",
                hint="Shut it down before it is launched again.",
                kernel_id=self.kernel_id,
            )
        request = self._make_request(cmd, kwargs)
        with self._all_or_nothing():
            self._end_expected = self._collected = False
            self.last_exit = None
            await self._create_and_start(request)
            self._request = request
        await self._record()
        return self.connection_info

    async def post_launch(self, **kwargs: Any) -> None:
        """Wait until the kernel listens.

        Raises:
            LaunchError: It has died before; with its last output.
            LaunchTimeoutError: It does not listen within `launch_timeout`. After a first launch, everything is
                removed in both cases.
        """
        try:
            await self._await_kernel()
        except BaseException:
            if not self._was_up:
                await self.cleanup()
            raise
        self._was_up = True
        await super().post_launch(**kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove all that was made; with `restart`, keep it for the next launch."""
        if not restart:
            self._end_expected = True
            self._was_up = False
            await self._remove_all()
        await super().cleanup(restart=restart)

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Return `stop_timeout`, else what the manager recommends; in seconds."""
        return recommended if self.stop_timeout is None else self.stop_timeout

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what a fresh process needs: as in the base class, and the backend's handle."""
        return {**await super().get_provisioner_info(), "handle": self._handle}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Adopt a running kernel.

        Raises:
            ConfigurationError: The info was not made by `get_provisioner_info`.
            KernelNotFoundError: The kernel is gone.
            BackendUnavailableError: The daemon, API server or host cannot be reached.
        """
        await super().load_provisioner_info(provisioner_info)
        handle = provisioner_info.get("handle")
        if not isinstance(handle, dict):
            raise KernelNotFoundError(
                "The provisioner info names no kernel.",
                hint="Take it while the kernel runs, and pass it as it was.",
            )
        await in_thread(self.attach, handle)
        self._handle = handle
        self._was_up = self._launched = True
        watch, name = self._watch_over(handle)
        await in_thread(watch.started, name)

    def get_logs(self, tail: int = 1 << 16) -> str:
        """Return the last output of the kernel; makes a request.

        Args:
            tail: How much of it, in bytes.
        """
        return "" if self._handle is None else self._redact(self.logs(self._handle, tail))

    # -- for the backends -----------------------------------------------------------------------

    progress: Callable[[str], None] | None = None
    """Called, from a thread, with what a long launch is doing; a command line sets it."""

    def report_progress(self, message: str) -> None:
        """Tell what a launch is doing: to the log, and to whoever has set `progress`."""
        self.log.info("Kernel %s: %s", self.kernel_id, message)
        if self.progress is not None:
            self.progress(message)

    def _format_command(self, extra_arguments: list[str]) -> list[str]:
        """Return argv as the kernelspec has it, with the connection file's path where the kernel runs."""
        words = [*(getattr(self.kernel_spec, "argv", None) or []), *extra_arguments]
        return [word.replace("{connection_file}", self.connection_file_there) for word in words]

    # -- steps ----------------------------------------------------------------------------------

    def _make_request(self, cmd: list[str], arguments: dict[str, Any]) -> LaunchRequest:
        info = self.connection_info
        connection: dict[str, Any] = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in dict(info).items()
            if name not in PORT_NAMES
        }
        kernel_name = getattr(self._manager, "kernel_name", "")
        owner = Owner.this_process()
        return LaunchRequest(
            kernel_id=self.kernel_id or "",
            argv=tuple(cmd),
            env=dict(arguments.get("env") or {}),
            cwd=os.fspath(arguments.get("cwd") or os.getcwd()),
            connection_file=self.connection_file_there,
            connection={**connection, "kernel_name": kernel_name, **self.kernel_connection(info)},
            labels={
                "kernel-provisioner.kernel-id": self.kernel_id or "",
                "kernel-provisioner.kernel-name": kernel_name,
                "kernel-provisioner.owner-host": owner.host,
                "kernel-provisioner.owner-pid": str(owner.pid),
                "kernel-provisioner.owner-start-time": owner.start_time,
                "kernel-provisioner.owner-user": owner.user,
            },
        )

    async def _create_and_start(self, request: LaunchRequest) -> None:
        if self._handle is not None:
            if (
                self.restarts_in_place
                and request == self._request
                and await in_thread(self.is_current, self._handle, request)
            ):
                try:
                    await self._start(self._handle, request)
                except KernelNotFoundError:
                    self.log.warning("Kernel %s is gone and is made anew.", self.kernel_id)
                else:
                    return
            await self._remove_all()
        try:
            handle = await in_thread(self.create, request, undo=self.remove, stop=request.cancelled)
        except KernelProvisionerError as error:
            if isinstance(error, LaunchError):
                error.kernel_id = self.kernel_id
            raise
        self._handle = handle
        try:
            await self._start(handle, request)
        except BaseException:
            await self._remove_all()
            raise

    async def _start(self, handle: Handle, request: LaunchRequest) -> None:
        def start() -> None:
            self.start(handle)
            watch.started(name)

        watch, name = self._watch_over(handle)
        await in_thread(start, stop=request.cancelled)

    def _watch_over(self, handle: Handle) -> tuple[Watch, str]:
        watch, name = self.watch(handle)
        self._liveness = Liveness()
        watch.add(name, self._liveness, self._note_exit)
        return watch, name

    async def _remove_all(self) -> None:
        """Remove what was made. What cannot be removed now is left for `jupyter provisioner reap`."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        watch, name = self.watch(handle)
        watch.remove(name)
        try:
            await in_thread(self.remove, handle)
        except KernelProvisionerError as error:
            self.log.warning("Kernel %s could not be removed: %s", self.kernel_id, error)
        if self._liveness is not None:
            self._liveness.set_ended(KernelExit(None, "removed"))

    async def _await_kernel(self) -> None:
        assert self._liveness is not None
        listening = asyncio.ensure_future(self._greeted())
        ended = asyncio.ensure_future(self._liveness.wait())
        try:
            await asyncio.wait(
                [listening, ended], timeout=self.launch_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if listening.done():
                listening.result()
                return
            output = ""
            if self._handle is not None:
                with contextlib.suppress(KernelProvisionerError):
                    output = await in_thread(self.get_logs, _TAIL)
            if ended.done():
                raise self._explain_death(ended.result(), output)
            raise LaunchTimeoutError(
                f"The kernel runs, but does not listen after {self.launch_timeout:g} s.",
                hint="Is it a Jupyter kernel that reads {connection_file}? If it is only slow, raise launch_timeout.",
                kernel_id=self.kernel_id,
                output=output,
            )
        finally:
            for task in (listening, ended):
                task.cancel()

    def _explain_death(self, ended: KernelExit, output: str) -> LaunchError:
        return LaunchError(
            f"The kernel has died at its start: {ended.reason}.",
            hint="Its output says why." if output else "",
            kernel_id=self.kernel_id,
            output=output,
        )

    async def _greeted(self) -> None:
        """Return once the kernel's shell socket sends the first byte of ZMTP's greeting."""
        ip, port = self.connection_info["ip"], self.connection_info["shell_port"]
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(ip, port)
                try:
                    # a proxy in between accepts, and hangs up when it finds nobody behind it
                    if await reader.read(1):
                        return
                finally:
                    writer.close()
            await asyncio.sleep(_DIAL_PAUSE)

    def _note_exit(self, ended: KernelExit) -> None:
        """Keep how the kernel ended, and say so if nobody has asked it to; called in the watch's thread."""
        self.last_exit = ended
        if not (self._end_expected or self._shutting_down):
            start_thread(
                self._report_with_output, ended
            )  # the output is a request, and others wait for the watch

    def _report_with_output(self, ended: KernelExit) -> None:
        with contextlib.suppress(KernelProvisionerError):
            ended = KernelExit(ended.code, ended.cause, self.get_logs(_TAIL))
            self.last_exit = ended
        self._report_exit(ended)
