"""Provisioners that are each wrong in one way, and the checks that must catch them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from good_provisioner import PORTS, GoodProvisioner


@dataclass(frozen=True)
class Case:
    """What a broken provisioner must fail at.

    ``caught_by``: the checks that must fail. ``also_run``: checks that are run too, and must pass,
    next to the common ones (unless ``smoke`` is false, since then hardly anything can pass).
    """

    provisioner: type[Any]
    caught_by: tuple[str, ...]
    also_run: tuple[str, ...] = ()
    smoke: bool = True
    target: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def caught_by(*ids: str, **case: Any) -> Callable[[type[Any]], type[Any]]:
    def register(provisioner: type[Any]) -> type[Any]:
        CASES[provisioner.__name__] = Case(provisioner, ids, **case)
        return provisioner

    return register


# -- before a launch ------------------------------------------------------------------------------


@caught_by("before.no_kernelspec_no_parent", also_run=("before.no_event_loop",))
class NeedsKernelspec(GoodProvisioner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.argv = list(self.kernel_spec.argv)


@caught_by("before.no_event_loop", also_run=("before.no_kernelspec_no_parent",))
class MakesFutureInConstructor(GoodProvisioner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ended = asyncio.get_running_loop().create_future()


@caught_by("before.unknown_option")
class SwallowsUnknownOptions(GoodProvisioner):
    def check_options(self, kwargs: dict[str, Any]) -> None:
        for name in kwargs.keys() - set(self.class_trait_names()):
            del kwargs[name]


@caught_by("before.cleanup", "failure.leaves_nothing", also_run=("cleanup.twice",))
class CleanupNeedsLaunch(GoodProvisioner):
    async def cleanup(self, restart: bool = False) -> None:
        if self.pid is None:
            raise RuntimeError("nothing was launched")
        await super().cleanup(restart)


@caught_by("before.poll")
class AliveBeforeLaunch(GoodProvisioner):
    async def poll(self) -> int | None:
        return None if self.pid is None else await super().poll()


@caught_by("before.times")
class TimeIsNone(GoodProvisioner):
    def get_stable_start_time(self, recommended: float = 10.0) -> Any:
        return None


@caught_by("before.methods")
class PlainPoll(GoodProvisioner):
    def poll(self) -> Any:
        return super().poll()


# -- the launch and its info ----------------------------------------------------------------------


@caught_by("launch.info_types", smoke=False, also_run=("launch.ports", "launch.has_process"))
class KeyIsText(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {**info, "key": info["key"].decode()}


@caught_by("encryption.auto")
class CurveKeysAreBytes(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {k: v.encode() if k.startswith("curve") else v for k, v in info.items()}


@caught_by("launch.has_process", smoke=False, also_run=("before.has_no_process",))
class NoProcessAtOnce(GoodProvisioner):
    launched_at = 0.0

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        self.launched_at = time.monotonic()
        return info

    @property
    def has_process(self) -> bool:
        return super().has_process and time.monotonic() > self.launched_at + 0.5


@caught_by("launch.reconciled", smoke=False, also_run=("launch.info_types", "launch.answers"))
class AnotherNameForTheAddress(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {**info, "ip": "localhost"}


@caught_by("launch.poll", smoke=False, also_run=("launch.answers", "end.kill_in_poll"))
class PollsDead(GoodProvisioner):
    async def poll(self) -> int | None:
        return await super().poll() or 0


@caught_by("launch.poll_is_free", also_run=("end.wait",))
class PollMakesRequest(GoodProvisioner):
    async def poll(self) -> int | None:
        await asyncio.sleep(0.005)
        return await super().poll()


@caught_by("launch.key")
class ShortKey(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.session.key = self.parent.session.key[:4]
        return await super().pre_launch(**kwargs)


@caught_by("launch.again", also_run=("restart.now",))
class LaunchesOnce(GoodProvisioner):
    over = False

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self.over:
            raise RuntimeError("this provisioner was cleaned up")
        return await super().pre_launch(**kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        self.over = not restart and self.pid is not None
        await super().cleanup(restart)


@caught_by("launch.ports_held", also_run=("restart.same_address",))
class ClosesPortsEarly(GoodProvisioner):
    def hold_ports(self) -> None:
        if not getattr(self, "numbers", None):
            super().hold_ports()
            self.numbers = [held.getsockname()[1] for held in self.held]
        self.release_ports()
        for name, number in zip(PORTS, self.numbers, strict=True):
            setattr(self.parent, name, number)


# -- interrupting ---------------------------------------------------------------------------------


@caught_by("interrupt.sleep", also_run=("interrupt.message", "end.terminate"))
class IgnoresInterrupt(GoodProvisioner):
    async def send_signal(self, signum: int) -> None:
        if signum != signal.SIGINT:
            await super().send_signal(signum)


@caught_by("interrupt.subprocess", "interrupt.system", also_run=("interrupt.sleep",))
class InterruptsLeaderOnly(GoodProvisioner):
    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and self.process is not None:
            self.process.send_signal(signum)
        else:
            await super().send_signal(signum)


@caught_by("interrupt.any_signal", also_run=("interrupt.sleep",))
class TakesAllForInterrupt(GoodProvisioner):
    async def send_signal(self, signum: int) -> None:
        await super().send_signal(signum if signum == signal.SIGKILL else signal.SIGINT)

    async def terminate(self, restart: bool = False) -> None:
        await self.kill()


# -- the end --------------------------------------------------------------------------------------


@caught_by("end.kill_in_poll", smoke=False, also_run=("end.kill",))
class PollsAlive(GoodProvisioner):
    async def poll(self) -> int | None:
        return None if self.process is not None else await super().poll()


@caught_by("end.kill", smoke=False, also_run=("end.terminate", "end.exit_code"))
class KillDoesNothing(GoodProvisioner):
    async def kill(self, restart: bool = False) -> None:
        pass


@caught_by("end.kill_removes_nothing", also_run=("end.kill",))
class KillCleansUp(GoodProvisioner):
    async def kill(self, restart: bool = False) -> None:
        await super().kill(restart)
        self.parent.cleanup_connection_file()


@caught_by("end.kill_descendants", also_run=("end.kill",))
class LeavesDescendants(GoodProvisioner):
    async def kill(self, restart: bool = False) -> None:
        if self.process is not None:
            self.process.kill()

    def end_group(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.last_code = self.process.wait()
            self.process = None


@caught_by("end.signal_to_dead", "restart.crash_calls", "restart.auto", also_run=("end.kill_dead",))
class SignalToDeadRaises(GoodProvisioner):
    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and await self.poll() is not None:
            raise ProcessLookupError(f"process {self.pid} has ended")
        await super().send_signal(signum)


@caught_by("end.kill_dead", also_run=("end.signal_to_dead",))
class KillOfDeadRaises(GoodProvisioner):
    async def kill(self, restart: bool = False) -> None:
        if self.pid is not None and await self.poll() is not None:
            raise ProcessLookupError(f"process {self.pid} has ended")
        await super().kill(restart)


@caught_by("end.shutdown_requested", also_run=("end.kill",))
class ShutdownRequestedKills(GoodProvisioner):
    async def shutdown_requested(self, restart: bool = False) -> None:
        await self.kill(restart)


@caught_by("end.wait_again", smoke=False, also_run=("before.wait",))
class WaitsForEver(GoodProvisioner):
    async def wait(self) -> int | None:
        if self.pid is not None:
            await asyncio.sleep(3600)
        return None


@caught_by("end.wait", "end.wait_cancelled", smoke=False, also_run=("end.exit_in_poll",))
class DoesNotWait(GoodProvisioner):
    async def wait(self) -> int | None:
        return 0


@caught_by("end.exit_code", also_run=("end.wait_again",))
class WaitReturnsAnotherCode(GoodProvisioner):
    async def wait(self) -> int | None:
        code = await super().wait()
        return 1 if code else code


@caught_by("end.exit_code", "end.exit_signal")
class AllEndsAreZero(GoodProvisioner):
    async def poll(self) -> int | None:
        return None if await super().poll() is None else 0


@caught_by("end.wait_cancelled", also_run=("end.wait",))
class CancelledWaitKills(GoodProvisioner):
    async def wait(self) -> int | None:
        try:
            return await super().wait()
        except asyncio.CancelledError:
            await self.kill()
            raise


@caught_by("end.poll_stays", "end.wait", smoke=False, also_run=("end.kill_in_poll",))
class AliveAfterCleanup(GoodProvisioner):
    async def poll(self) -> int | None:
        if self.pid is not None and self.process is None and self.adopted is None:
            return None
        return await super().poll()


# -- restarts and cleaning up ---------------------------------------------------------------------


@caught_by(
    "restart.same_address", "restart.clients_stay", smoke=False, also_run=("restart.new_ports",)
)
class NewPortsAtRestart(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.release_ports()
        self.parent.cleanup_connection_file()
        return await super().pre_launch(**kwargs)


@caught_by(
    "restart.same_address", "restart.clients_stay", smoke=False, also_run=("restart.new_ports",)
)
class NewKeyAtRestart(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.session.key = os.urandom(16).hex().encode()
        self.parent.cleanup_connection_file()
        return await super().pre_launch(**kwargs)


@caught_by("restart.file_stays", also_run=("restart.now",))
class RemovesFileAtRestart(GoodProvisioner):
    async def cleanup(self, restart: bool = False) -> None:
        if restart and self.parent is not None:
            self.parent.cleanup_connection_file()
        await super().cleanup(restart)


@caught_by("cleanup.twice", also_run=("before.cleanup",))
class CleanupTwiceRaises(GoodProvisioner):
    cleaned = False

    async def cleanup(self, restart: bool = False) -> None:
        if self.cleaned:
            raise RuntimeError("cleaned up already")
        self.cleaned = self.pid is not None and not restart
        await super().cleanup(restart)


@caught_by("cleanup.leaves_nothing", smoke=False, also_run=("end.kill", "cleanup.twice"))
class LeavesHelper(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        env = dict(kwargs["env"])
        subprocess.Popen(["sleep", "120"], env=env, start_new_session=True)
        return info


@caught_by("cleanup.no_file", also_run=("cleanup.leaves_nothing",))
class LeavesFile(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        copy = Path(self.parent.connection_file).with_suffix(".copy")
        copy.touch(mode=0o600)
        copy.write_bytes(info["key"])
        return info


# -- failed and cancelled launches ----------------------------------------------------------------


@caught_by("failure.leaves_nothing", smoke=False, also_run=("launch.answers", "failure.recovers"))
class FailedLaunchLeavesHelper(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        helper = subprocess.Popen(["sleep", "120"], env=kwargs["env"], start_new_session=True)
        info = await super().launch_kernel(cmd, **kwargs)
        helper.kill()
        helper.wait()
        return info


@caught_by(
    "failure.missing_command",
    "failure.missing_command_named",
    smoke=False,
    also_run=("launch.answers",),
)
class HidesMissingCommand(GoodProvisioner):
    failed = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except FileNotFoundError:
            self.failed = True
            return self.connection_info

    @property
    def has_process(self) -> bool:
        return self.failed or super().has_process

    async def poll(self) -> int | None:
        return None if self.failed else await super().poll()


@caught_by("failure.cancelled", also_run=("failure.cancelled_start",))
class CancelledLaunchLeavesKernel(GoodProvisioner):
    async def undo_launch(self) -> None:
        if not isinstance(sys.exc_info()[1], asyncio.CancelledError):
            await super().undo_launch()


@caught_by("failure.cancelled", also_run=("failure.leaves_nothing",))
class CancelledLaunchRaisesAnother(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except asyncio.CancelledError:
            raise RuntimeError("the launch failed") from None


@caught_by("failure.last_words", also_run=("failure.exits_at_once",))
class ClaimsToCaptureOutput(GoodProvisioner):
    conformance_capabilities = (*GoodProvisioner.conformance_capabilities, "captures-output")


@caught_by("failure.readiness", also_run=("failure.exits_at_once",))
class ClaimsToAwaitReadiness(GoodProvisioner):
    conformance_capabilities = (*GoodProvisioner.conformance_capabilities, "awaits-readiness")


# -- persistence ----------------------------------------------------------------------------------


@caught_by("persistence.json", "persistence.load", "persistence.fresh_poll")
class InfoIsNotJson(GoodProvisioner):
    async def get_provisioner_info(self) -> dict[str, Any]:
        info = await super().get_provisioner_info()
        return {**info, "connection_info": self.connection_info}


@caught_by("persistence.fresh_poll", "persistence.fresh_kill", also_run=("persistence.json",))
class LoadForgetsProcess(GoodProvisioner):
    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.adopted = None


@caught_by("persistence.fresh_address", also_run=("persistence.fresh_poll",))
class LoadedKeyIsText(GoodProvisioner):
    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.connection_info = provisioner_info["connection_info"]


# -- the event loop -------------------------------------------------------------------------------


@caught_by("concurrency.blocks")
class BlocksTheLoop(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        time.sleep(0.3)
        return await super().launch_kernel(cmd, **kwargs)


@caught_by("launch.answers", smoke=False, also_run=("before.poll",), target={"time_limit": 2.0})
class HangsInLaunch(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        time.sleep(20)
        return await super().launch_kernel(cmd, **kwargs)


@caught_by("manager.threads", also_run=("end.wait",), target={"time_limit": 12.0})
class KeepsLoopBoundObjects(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        self.ended = asyncio.Event()
        self.watch = asyncio.ensure_future(self.watch_process())
        return info

    async def watch_process(self) -> None:
        while await self.poll() is None:
            await asyncio.sleep(0.02)
        self.ended.set()

    async def wait(self) -> int | None:
        if self.process is not None and self.adopted is None:
            await self.ended.wait()
        return await super().wait()


# -- the environment ------------------------------------------------------------------------------


@caught_by("environment.kernelspec", also_run=("environment.server",))
class DropsKernelspecEnvironment(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        for name in self.kernel_spec.env:
            kwargs["env"].pop(name, None)
        return kwargs


@caught_by("environment.server", also_run=("environment.kernelspec",))
class DropsServerEnvironment(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if "env" not in kwargs:
            kwargs["env"] = {name: os.environ[name] for name in ("PATH", "HOME")}
        return await super().pre_launch(**kwargs)


@caught_by("environment.caller_untouched", also_run=("environment.kernelspec",))
class WritesIntoServerEnvironment(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        os.environ["KERNEL_PROVISIONER_CONFORMANCE_LEAK"] = "1"
        return await super().pre_launch(**kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        os.environ.pop("KERNEL_PROVISIONER_CONFORMANCE_LEAK", None)
        await super().cleanup(restart)


@caught_by("environment.working_directory", also_run=("environment.resolve_path",))
class IgnoresWorkingDirectory(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        return await super().launch_kernel(cmd, **{**kwargs, "cwd": "/"})


@caught_by("environment.resolve_path")
class ResolvePathRaises(GoodProvisioner):
    def resolve_path(self, path_str: str) -> str | None:
        return Path(path_str).resolve(strict=True).as_posix()


# -- secrets --------------------------------------------------------------------------------------


@caught_by("secrecy.argv", also_run=("secrecy.exposed",))
class KeyInArgv(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": [*kwargs["cmd"], self.parent.session.key.decode()]}


@caught_by("secrecy.exposed", also_run=("secrecy.argv",))
class KeyInEnvironment(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        kwargs["env"]["KERNEL_KEY"] = self.parent.session.key.decode()
        return kwargs


@caught_by("secrecy.log", also_run=("secrecy.errors",))
class KeyInLog(GoodProvisioner):
    async def post_launch(self, **kwargs: Any) -> None:
        self.log.debug("launched with %s", self.connection_info)


@caught_by("secrecy.errors", also_run=("secrecy.log",))
class KeyInErrors(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except OSError as error:
            raise RuntimeError(f"cannot launch {cmd[0]}: {self.connection_info}") from error


@caught_by("secrecy.repr")
class KeyInRepr(GoodProvisioner):
    def __repr__(self) -> str:
        return f"<KeyInRepr {self.connection_info}>"


@caught_by("secrecy.files", also_run=("launch.reconciled",))
class ReadableFile(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        os.chmod(self.parent.connection_file, 0o644)
        return kwargs


@caught_by("secrecy.loopback", also_run=("launch.info_types",))
class ListensEverywhere(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.ip = "0.0.0.0"
        return await super().pre_launch(**kwargs)


@caught_by("encryption.required", smoke=False, also_run=("encryption.disabled",))
class ForgetsEncryption(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        return await super().pre_launch(**{**kwargs, "transport_encryption": "disabled"})


@caught_by("encryption.restart", also_run=("encryption.auto", "restart.same_address"))
class NewCurveKeysAtRestart(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.curve_publickey = self.parent.curve_secretkey = None
        if self.pid is not None:
            self.parent.cleanup_connection_file()
        return await super().pre_launch(**kwargs)
