"""`LocalProvisioner`: the kernel as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from string import Template
from typing import Any

import traitlets

from kernel_provisioner_core import (
    ConfigurationError,
    KernelConnectionInfo,
    KernelExit,
    KernelProvisionerBase,
    LaunchError,
    SignalError,
    launch_kernel,
)
from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_core.records import path_of
from kernel_provisioner_core.turns import turn
from kernel_provisioner_local.memory import MemoryWatch
from kernel_provisioner_local.output import OutputLog, tail_of
from kernel_provisioner_local.process import (
    AdoptedProcess,
    ChildProcess,
    KernelProcess,
)

__all__ = ["LocalProvisioner"]

# What the managers pass along that is none of Popen's business.
_NOT_FOR_POPEN = ("extra_arguments", "kernel_id", "kernel_headers")

_TAIL = 4096  # bytes of output that an error or a log line quotes

_LAST_WAIT = 5.0  # seconds for a killed process to end; the kernel manager has the same limit

_SIGKILL = 9  # Windows has no name for it


class LocalProvisioner(KernelProvisionerBase):
    """Runs a kernel as a child process, in a session and process group of its own.

    A drop-in for jupyter_client's local provisioner: set JUPYTER_DEFAULT_PROVISIONER_NAME to
    kernel-provisioner-local, or name it in kernel.json.
    """

    # What the conformance suite may ask for beyond its core; captures-output only with that option.
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
        "rejects-unknown-options",
        "working-directory",
        "inherits-environment",
        "encryption",
    )

    env = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Variables for the kernel's environment, on top of the server's and of the kernelspec's `env`; "
        "${NAME} in a value is replaced as it is there. Default: none.",
    ).tag(example={"OMP_NUM_THREADS": "2"})

    working_dir = traitlets.Unicode(
        config=True,
        help="The kernel's working directory; a leading ~ is the user's home. Default: the one the caller asks "
        "for, which is the notebook's directory under a Jupyter server.",
    ).tag(example="~/project")

    capture_output = traitlets.Bool(
        False,
        config=True,
        help="Whether to keep what the kernel prints to its standard output and error, so that errors can "
        "quote it and `jupyter provisioner logs` can show it. Default: false, the kernel writes to where the server "
        "writes, as with jupyter_client. Not for kernels launched as independent.",
    ).tag(example=True)

    output_limit = traitlets.Int(
        1 << 20,
        min=1 << 12,
        config=True,
        help="How much captured output is kept; the oldest goes first. Default: 1 MiB, some thousand lines.",
    ).tag(unit="bytes", example=1 << 22)

    def __init__(self, **kwargs: Any) -> None:
        """Check the options; nothing is started."""
        super().__init__(**kwargs)
        self._process: KernelProcess | None = None
        self._output: OutputLog | None = None
        self._memory: MemoryWatch | None = None
        self._cwd: str | None = None
        self._end_expected = False

    @property
    def has_process(self) -> bool:
        """Whether there is a process that `wait` has not seen end."""
        return self._process is not None

    async def poll(self) -> int | None:
        """Return None while the process runs, else its exit code, negative for a signal; 0 before any launch."""
        if self._process is None:
            return 0 if self.last_exit is None else self.last_exit.status
        code = self._process.exit_code()
        if code is not None:
            self._note_exit(code)
        return code

    async def wait(self) -> int | None:
        """Wait for the end of the process, woken by it, and return the exit code; `has_process` is False then."""
        process = self._process
        if process is not None:
            code = await process.wait()
            self._note_exit(code)
            if self._process is process:  # nobody else was faster
                self._let_process_go()
        return await self.poll()

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the process group; silent if the kernel is dead.

        While the manager shuts down, what keeps a signal from being sent is logged instead of raised.

        Raises:
            SignalError: The kernel belongs to another user.
        """
        if self._process is None:
            return
        try:
            self._process.signal_group(signum)
        except SignalError as error:
            if not self._shutting_down:
                raise
            self.log.warning("%s", error)

    async def kill(self, restart: bool = False) -> None:
        """Kill the process group at once, and what is left of it if the kernel is dead."""
        self._end_expected = True
        await self.send_signal(_SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Send SIGTERM to the process group."""
        self._end_expected = True
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Expect the end of the kernel from now on; it is given its time."""
        self._end_expected = True

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare as the base class does, then apply the options `env` and `working_dir`."""
        if self.working_dir:
            kwargs["cwd"] = os.path.expanduser(self.working_dir)  # noqa: ASYNC240 - reads no disk
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the process.

        Raises:
            CommandNotFoundError: The command or the working directory does not exist.
            LaunchError: The command cannot be run, or the kernel of the last launch still runs.
            ConfigurationError: The output of an `independent` kernel is to be captured.
        """
        with self._all_or_nothing():  # cancelled while it waits, too
            await turn()
        arguments = {k: v for k, v in kwargs.items() if k not in _NOT_FOR_POPEN}
        self._let_process_go()
        if self._process is not None:
            raise LaunchError(
                f"The kernel still runs, as process {self._process.pid}.",
                hint="Shut it down before it is launched again.",
                kernel_id=self.kernel_id,
            )
        with self._all_or_nothing():
            self._end_expected = False
            self.last_exit = None
            self._memory = None
            self._capture(arguments)
            try:
                popen = launch_kernel(cmd, **arguments)
            except BaseException as error:
                self._close_output()
                if isinstance(error, LaunchError):
                    error.kernel_id = self.kernel_id
                raise
            self._process = ChildProcess(popen)
            if self._output is not None:
                self._output.start()
            self._cwd = os.fspath(arguments.get("cwd") or _current_directory())
        if self._manager is None:  # nobody who is bound to call post_launch
            await self._watch_over()
        return self.connection_info

    async def post_launch(self, **kwargs: Any) -> None:
        """Do what the start of the kernel need not wait for: write its record, note the out-of-memory kills so far."""
        if self._manager is not None:
            try:
                await turn()
            finally:  # the kernel runs, also for who is cancelled here
                await self._watch_over()
        await super().post_launch(**kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        """Reap the process; unless `restart`, end it if it still runs and remove all that was made for it."""
        if not restart and self._process is not None:
            try:
                await self.kill()
                await asyncio.wait_for(self.wait(), _LAST_WAIT)
            except SignalError as error:
                self.log.warning("%s", error)
            except asyncio.TimeoutError:
                self.log.warning("Process %s was killed and has not ended yet.", self._process.pid)
        self._let_process_go()
        if not restart:
            self._close_output()
            with contextlib.suppress(OSError):
                self._output_path.unlink()
        await super().cleanup(restart=restart)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what a fresh process needs: as in the base class, and the process's pid and start time."""
        info = await super().get_provisioner_info()
        info["cwd"] = self._cwd or ""
        info["process"] = None
        if self._process is not None:
            identity = ProcessIdentity.of(self._process.pid)
            if identity is not None:
                info["process"] = {"pid": identity.pid, "start_time": identity.start_time}
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Adopt the running process.

        It has no exit code for us: `poll` tells of its end with 255. A kernel that was not launched as
        `independent` ends with the process that launched it.

        Raises:
            ConfigurationError: The info was not made by `get_provisioner_info`.
            KernelNotFoundError: The process has ended; its pid may be another process's by now.
        """
        await super().load_provisioner_info(provisioner_info)
        found = provisioner_info.get("process")
        if not isinstance(found, dict) or not {"pid", "start_time"} <= found.keys():
            raise ConfigurationError(
                "The provisioner info names no process.",
                hint="Take it while the kernel runs, and pass it as it was.",
            )
        self._process = AdoptedProcess(ProcessIdentity(found["pid"], found["start_time"]))
        self._cwd = provisioner_info.get("cwd") or "."

    def resolve_path(self, path: str) -> str | None:
        """Return the absolute path of an existing file, relative ones seen from the kernel's working directory."""
        found = Path(path).expanduser()
        if not found.is_absolute():
            if self._cwd is None:
                return None
            found = (Path(self._cwd) / found).resolve()
        return found.as_posix() if found.exists() else None

    def get_logs(self, tail: int = 1 << 16) -> str:
        """Return the last output of the kernel, where it is captured; also of one that runs elsewhere.

        Args:
            tail: How much of it, in bytes.

        Raises:
            ConfigurationError: It is not captured.
        """
        if not self.capture_output and not self._output_path.exists():
            raise ConfigurationError(
                "The output of this kernel is not captured: it went to where its server writes.",
                hint='Set "capture_output": true under "config" in kernel.json.',
            )
        return self._redact(tail_of(self._output_path, tail))

    def _finalize_env(self, env: dict[str, str]) -> None:
        env.update({k: Template(v).safe_substitute(env) for k, v in self.env.items()})
        super()._finalize_env(env)

    @property
    def _output_path(self) -> Path:
        return path_of(self.kernel_id or f"unnamed-{id(self):x}", ".log")

    def _capture(self, arguments: dict[str, Any]) -> None:
        if not self.capture_output:
            return
        if arguments.get("independent"):
            raise ConfigurationError(
                "The output of an independent kernel cannot be captured: it would end with the server.",
                hint="Leave out capture_output, or pass a file as stdout and stderr.",
            )
        self._close_output()
        self._output = OutputLog(self._output_path, self.output_limit)
        for stream in ("stdout", "stderr"):
            if arguments.get(stream) is None:
                arguments[stream] = self._output.write_end

    def _close_output(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None

    def _let_process_go(self) -> None:
        """Reap an ended process; one that runs is kept."""
        if self._process is not None and self._process.exit_code() is not None:
            self._process.reap()
            self._process = None

    def _note_exit(self, code: int) -> None:
        """Keep how the process ended, and say so if nobody has asked it to."""
        if self._process is None or self.last_exit is not None:
            return
        expected = self._end_expected or self._shutting_down
        if isinstance(self._process, AdoptedProcess):
            self.last_exit = KernelExit(
                None, "ended with an exit code that only the process that started it has seen"
            )
        elif expected:
            self.last_exit = KernelExit(code)
        else:
            cause = ""
            if code == -_SIGKILL and self._memory is not None:
                cause = (
                    "likely out of memory" if self._memory.says_killed(self._process.pid) else ""
                )
            output = self._output.tail(_TAIL) if self._output is not None else ""
            self.last_exit = KernelExit(code, cause, self._redact(output))
        if not expected:
            self._report_exit(self.last_exit)

    async def _watch_over(self) -> None:
        self._memory = MemoryWatch()
        await self._record()


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed; the kernel runs all the same
        return "."
