"""Provisioners that are each wrong in one way, and the checks that must catch them."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import zmq
from good_provisioner import PORTS, GoodProvisioner


@dataclass(frozen=True)
class Case:
    """What a broken provisioner must fail at.

    ``caught_by``: the checks that must fail. ``also_run``: its neighbours, which are run too and
    must pass; a whole life with a restart in it if none is named.
    ``entry_point``: whether the provisioner is found by a name, not given as a class.
    """

    provisioner: type[Any]
    caught_by: tuple[str, ...]
    also_run: tuple[str, ...] = ()
    entry_point: bool = False
    target: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def caught_by(*ids: str, **case: Any) -> Callable[[type[Any]], type[Any]]:
    def register(provisioner: type[Any]) -> type[Any]:
        CASES[provisioner.__name__] = Case(provisioner, ids, **case)
        return provisioner

    return register


class KernelFault(GoodProvisioner):
    """Something between the kernel and its clients is wrong: here it is the kernel."""

    fault = ""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        if self.fault:
            python, _, *rest = kwargs["cmd"]
            script = str(Path(__file__).with_name("broken_kernel.py"))
            kwargs["cmd"] = [python, script, self.fault, *rest]
        return kwargs


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


@caught_by("before.options", target={"config": {"colour": "red"}})
class DropsOptions(GoodProvisioner):
    def check_options(self, kwargs: dict[str, Any]) -> None:
        kwargs.pop("colour", None)


@caught_by("before.has_no_process", "before.no_kernelspec_no_parent", also_run=("before.poll",))
class HasProcessBeforeLaunch(GoodProvisioner):
    @property
    def has_process(self) -> bool:
        return self.pid is None or super().has_process


@caught_by("before.wait", also_run=("end.wait_again",))
class WaitsForLaunch(GoodProvisioner):
    async def wait(self) -> int | None:
        while self.pid is None:
            await asyncio.sleep(0.1)
        return await super().wait()


@caught_by("before.signals", also_run=("end.kill_dead",))
class SignalsNeedLaunch(GoodProvisioner):
    async def terminate(self, restart: bool = False) -> None:
        if self.pid is None:
            raise RuntimeError("nothing was launched")
        await super().terminate(restart)


# -- the launch and its info ----------------------------------------------------------------------


@caught_by("launch.info_types", also_run=("launch.ports", "launch.has_process"))
class KeyIsText(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {**info, "key": info["key"].decode()}


@caught_by("encryption.auto")
class CurveKeysAreBytes(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {k: v.encode() if k.startswith("curve") else v for k, v in info.items()}


@caught_by("launch.has_process", also_run=("before.has_no_process",))
class NoProcessAtOnce(GoodProvisioner):
    launched_at = 0.0

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        self.launched_at = time.monotonic()
        return info

    @property
    def has_process(self) -> bool:
        return super().has_process and time.monotonic() > self.launched_at + 0.5


@caught_by("launch.reconciled", also_run=("launch.info_types", "launch.answers"))
class AnotherNameForTheAddress(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        info = await super().launch_kernel(cmd, **kwargs)
        return {**info, "ip": "localhost"}


@caught_by("launch.poll", also_run=("launch.answers", "end.kill_in_poll"))
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


@caught_by("launch.pre_launch")
class CommandIsTuple(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": tuple(kwargs["cmd"])}


@caught_by("launch.ports", also_run=("launch.info_types", "launch.key"))
class ChannelsShareAPort(GoodProvisioner):
    def hold_ports(self) -> None:
        super().hold_ports()
        self.parent.hb_port = self.parent.shell_port


@caught_by("launch.key_differs", also_run=("launch.key",))
class KeyIsFixed(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.session.key = b"0123456789abcdef" * 2
        return await super().pre_launch(**kwargs)


@caught_by("launch.kernel_id")
class DropsKernelId(GoodProvisioner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "kernel_id": "another"})


@caught_by("launch.factory", entry_point=True, also_run=("launch.answers",))
class IsMadeAsAnother(GoodProvisioner):
    def __new__(cls, **kwargs: Any) -> Any:
        return GoodProvisioner(**kwargs)


@caught_by("launch.extra_arguments", also_run=("launch.pre_launch",))
class DropsExtraArguments(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop("extra_arguments", None)
        return await super().pre_launch(**kwargs)


@caught_by("launch.descriptors", also_run=("launch.again",))
class LeaksDescriptors(GoodProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        os.open(os.devnull, os.O_RDONLY)
        return await super().launch_kernel(cmd, **kwargs)


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


# -- talking --------------------------------------------------------------------------------------


@caught_by("talk.execute", also_run=("talk.error", "talk.buffers"))
class DropsOutput(KernelFault):
    fault = "silent"


@caught_by("talk.error", also_run=("talk.execute",))
class DropsErrorName(KernelFault):
    fault = "nameless"


@caught_by("talk.stdin", also_run=("talk.two_clients",))
class StdinLeadsNowhere(KernelFault):
    fault = "stdin"


@caught_by("talk.large_output", also_run=("talk.execute",))
class CutsOutput(KernelFault):
    fault = "short"


@caught_by("talk.buffers", also_run=("talk.large_output",))
class DropsBuffers(KernelFault):
    fault = "text-only"


@caught_by("talk.heartbeat", "restart.heartbeat", also_run=("talk.control_while_busy",))
class HeartbeatLeadsNowhere(KernelFault):
    fault = "hb"


@caught_by("talk.control_while_busy", "interrupt.message", also_run=("talk.heartbeat",))
class ControlWaitsForShell(KernelFault):
    fault = "one-at-a-time"


@caught_by("talk.two_clients", also_run=("talk.stdin",))
class KnowsOneClient(KernelFault):
    fault = "one-client"


@caught_by("talk.signatures", also_run=("talk.execute",))
class ObeysAll(KernelFault):
    fault = "obeys-all"


@caught_by("encryption.refuses_plain", "encryption.auto", also_run=("encryption.disabled",))
class KernelIgnoresCurveKeys(KernelFault):
    fault = "plain"


# -- interrupting ---------------------------------------------------------------------------------


@caught_by("interrupt.message", also_run=("interrupt.sleep", "talk.control_while_busy"))
class DropsInterruptMessage(KernelFault):
    fault = "no-message"


@caught_by("interrupt.idle", also_run=("interrupt.sleep",))
class DiesOfIdleInterrupt(KernelFault):
    fault = "frail"


@caught_by("interrupt.again", also_run=("interrupt.sleep",))
class InterruptsOnce(GoodProvisioner):
    used = False

    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and self.used:
            return
        self.used = signum == signal.SIGINT
        await super().send_signal(signum)


@caught_by(
    "interrupt.sleep", "interrupt.ipykernel", also_run=("interrupt.message", "end.terminate")
)
class IgnoresInterrupt(GoodProvisioner):
    async def send_signal(self, signum: int) -> None:
        if signum != signal.SIGINT:
            await super().send_signal(signum)


@caught_by(
    "interrupt.subprocess",
    "interrupt.system",
    "interrupt.wrapped",
    "interrupt.wrapped_system",
    "interrupt.ipykernel_shell",
    also_run=("interrupt.sleep",),
)
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


@caught_by("end.exit_in_poll", "end.shutdown", "restart.grace", also_run=("end.terminate",))
class SeesOnlyEndsOfItsOwn(GoodProvisioner):
    forced = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.forced = False
        return await super().launch_kernel(cmd, **kwargs)

    async def send_signal(self, signum: int) -> None:
        self.forced = self.forced or signum != signal.SIGINT
        await super().send_signal(signum)

    async def poll(self) -> int | None:
        if self.process is not None and not self.forced:
            return None
        return await super().poll()


@caught_by("end.poll_prompt", also_run=("end.exit_in_poll", "end.shutdown"))
class PollsLate(GoodProvisioner):
    seen = 0.0

    async def poll(self) -> int | None:
        code = await super().poll()
        if code is None or self.process is None:
            self.seen = 0.0
            return code
        self.seen = self.seen or time.monotonic()
        return code if time.monotonic() > self.seen + 1 else None


@caught_by("end.shutdown_stubborn", "end.kill", also_run=("end.terminate",))
class KillsPolitely(GoodProvisioner):
    async def kill(self, restart: bool = False) -> None:
        await self.terminate(restart)

    def end_group(self) -> None:
        if self.process is not None:
            self.process.terminate()
        self.process = None


@caught_by("end.has_process", also_run=("before.has_no_process", "end.shutdown_twice"))
class HasProcessForEver(GoodProvisioner):
    @property
    def has_process(self) -> bool:
        return self.pid is not None


@caught_by("end.terminate", also_run=("end.kill", "end.shutdown"))
class TerminateDoesNothing(GoodProvisioner):
    async def terminate(self, restart: bool = False) -> None:
        pass


@caught_by("end.kill_in_poll", also_run=("end.kill",))
class PollsAlive(GoodProvisioner):
    async def poll(self) -> int | None:
        return None if self.process is not None else await super().poll()


@caught_by("end.kill", also_run=("end.terminate", "end.exit_code"))
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


@caught_by("end.wait_again", also_run=("before.wait",))
class WaitsForEver(GoodProvisioner):
    async def wait(self) -> int | None:
        if self.pid is not None:
            await asyncio.sleep(3600)
        return None


@caught_by("end.wait", "end.wait_cancelled", also_run=("end.exit_in_poll",))
class DoesNotWait(GoodProvisioner):
    async def wait(self) -> int | None:
        return 0


@caught_by("end.exit_code", also_run=("end.wait_again",))
class WaitReturnsAnotherCode(GoodProvisioner):
    async def wait(self) -> int | None:
        code = await super().wait()
        return 1 if code else code


@caught_by("end.exit_code", "end.exit_signal", "failure.exits_at_once")
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


@caught_by("end.poll_stays", "end.wait", also_run=("end.kill_in_poll",))
class AliveAfterCleanup(GoodProvisioner):
    async def poll(self) -> int | None:
        if self.pid is not None and self.process is None and self.adopted is None:
            return None
        return await super().poll()


# -- restarts and cleaning up ---------------------------------------------------------------------


@caught_by("restart.same_address", "restart.clients_stay", also_run=("restart.new_ports",))
class NewPortsAtRestart(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.release_ports()
        self.parent.cleanup_connection_file()
        return await super().pre_launch(**kwargs)


@caught_by("restart.same_address", "restart.clients_stay", also_run=("restart.new_ports",))
class NewKeyAtRestart(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.session.key = os.urandom(16).hex().encode()
        self.parent.cleanup_connection_file()
        return await super().pre_launch(**kwargs)


@caught_by("restart.now", "end.kill_removes_nothing", also_run=("end.kill",))
class KilledForGood(GoodProvisioner):
    killed = False

    async def kill(self, restart: bool = False) -> None:
        self.killed = True
        await super().kill(restart)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self.killed:
            raise RuntimeError("this kernel was killed")
        return await super().pre_launch(**kwargs)


@caught_by("restart.repeated")
class RestartsOnce(GoodProvisioner):
    launches = 0

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.launches += 1
        if self.launches > 2:
            raise RuntimeError("launched twice already")
        return await super().pre_launch(**kwargs)


@caught_by("restart.heartbeat", also_run=("talk.heartbeat", "restart.now"))
class HeartbeatIsLostAtRestart(KernelFault):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.fault = "" if self.pid is None else "hb"
        return await super().pre_launch(**kwargs)


@caught_by("restart.new_ports", also_run=("launch.answers", "restart.same_address"))
class KeepsFirstFile(GoodProvisioner):
    def hold_ports(self) -> None:
        if self.parent.shell_port == 0:
            self.release_ports()
        super().hold_ports()
        # So that the manager may ask for new ones.
        self.parent._random_port_names = [*PORTS]

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        file = self.parent.connection_file
        first = Path(file + ".first")
        if not first.exists():
            first.touch(mode=0o600)
            first.write_bytes(Path(file).read_bytes())
        kwargs["cmd"] = [part.replace(file, str(first)) for part in kwargs["cmd"]]
        return kwargs


@caught_by("restart.environment", also_run=("environment.launch",))
class KeepsFirstEnvironment(GoodProvisioner):
    first: dict[str, str] | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        self.first = self.first or dict(kwargs["env"])
        return {**kwargs, "env": dict(self.first)}


@caught_by("restart.file_stays", also_run=("restart.now",))
class RemovesFileAtRestart(GoodProvisioner):
    async def cleanup(self, restart: bool = False) -> None:
        if restart and self.parent is not None:
            self.parent.cleanup_connection_file()
        await super().cleanup(restart)


@caught_by("cleanup.unreaped", "cleanup.orders", "cleanup.of_running", "cleanup.crashed")
class CleanupNeedsWait(GoodProvisioner):
    async def cleanup(self, restart: bool = False) -> None:
        if self.process is not None:
            raise RuntimeError("nobody has waited for the kernel")
        await super().cleanup(restart)


@caught_by("cleanup.twice", "end.shutdown_twice", also_run=("before.cleanup",))
class CleanupTwiceRaises(GoodProvisioner):
    cleaned = False

    async def cleanup(self, restart: bool = False) -> None:
        if self.cleaned:
            raise RuntimeError("cleaned up already")
        self.cleaned = self.pid is not None and not restart
        await super().cleanup(restart)


@caught_by("cleanup.leaves_nothing", also_run=("end.kill", "cleanup.twice"))
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


@caught_by("failure.leaves_nothing", also_run=("launch.answers", "failure.recovers"))
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


@caught_by("failure.late", "failure.cancelled_start", also_run=("failure.leaves_nothing",))
class ForgetsLaunchUntilItsEnd(GoodProvisioner):
    complete = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.complete = False
        return await super().launch_kernel(cmd, **kwargs)

    async def undo_launch(self) -> None:
        if not isinstance(sys.exc_info()[1], asyncio.CancelledError):
            await super().undo_launch()

    async def post_launch(self, **kwargs: Any) -> None:
        self.complete = True

    async def send_signal(self, signum: int) -> None:
        if self.complete:
            await super().send_signal(signum)

    async def cleanup(self, restart: bool = False) -> None:
        if self.complete:
            await super().cleanup(restart)


@caught_by("failure.leaves_no_file", also_run=("cleanup.no_file",))
class FailedLaunchLeavesFile(GoodProvisioner):
    async def undo_launch(self) -> None:
        self.end_group()
        self.release_ports()


@caught_by("failure.recovers", also_run=("failure.cancelled_recovers",))
class FailsForGood(GoodProvisioner):
    failed = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if self.failed:
            raise RuntimeError("the launch has failed before")
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except Exception:
            self.failed = True
            raise


@caught_by("failure.cancelled_recovers", also_run=("failure.recovers", "failure.cancelled"))
class CancelledForGood(GoodProvisioner):
    cancelled = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if self.cancelled:
            raise RuntimeError("the launch was cancelled before")
        try:
            return await super().launch_kernel(cmd, **kwargs)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@caught_by("failure.unwritable", also_run=("failure.exits_at_once",))
class LaunchesWithoutFile(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        write = self.parent.write_connection_file

        def write_if_possible(**options: Any) -> None:
            try:
                write(**options)
            except OSError:
                self.log.warning("no connection file")

        self.parent.write_connection_file = write_if_possible
        return await super().pre_launch(**kwargs)


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


@caught_by(
    "persistence.fresh_poll",
    "persistence.fresh_kill",
    "persistence.fresh_signal",
    also_run=("persistence.json",),
)
class LoadForgetsProcess(GoodProvisioner):
    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.adopted = None


@caught_by("persistence.untouched", also_run=("persistence.fresh_poll",))
class EndsWithTheProcess(GoodProvisioner):
    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        atexit.register(os.killpg, self.pgid, signal.SIGTERM)


@caught_by("persistence.ended", "persistence.fresh_poll", also_run=("persistence.untouched",))
class LoadedIsAlive(GoodProvisioner):
    async def poll(self) -> int | None:
        return None if self.adopted is not None else await super().poll()


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


@caught_by("concurrency.many", also_run=("launch.key_differs",))
class LaunchesThreeAtOnce(GoodProvisioner):
    running = 0

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if LaunchesThreeAtOnce.running >= 3:
            raise RuntimeError("three launches are under way")
        LaunchesThreeAtOnce.running += 1
        try:
            return await super().launch_kernel(cmd, **kwargs)
        finally:
            LaunchesThreeAtOnce.running -= 1


@caught_by("launch.answers", also_run=("before.poll",), target={"time_limit": 2.0})
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


@caught_by("manager.blocking", "manager.in_loop", "manager.threads", also_run=("end.wait",))
class BelongsToOneLoop(GoodProvisioner):
    loop: Any = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.loop = asyncio.get_running_loop()
        return await super().launch_kernel(cmd, **kwargs)

    async def send_signal(self, signum: int) -> None:
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        await super().send_signal(signum)


@caught_by("manager.wait_elsewhere", also_run=("end.wait", "manager.threads"))
class WakesItsOwnLoopOnly(GoodProvisioner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.waiting: set[Any] = set()

    async def wait(self) -> int | None:
        loop = asyncio.get_running_loop()
        while await self.poll() is None:
            woken = loop.create_future()
            self.waiting.add((loop, woken))
            loop.call_later(0.05, self.wake, loop, woken)
            await woken
        return await super().wait()

    def wake(self, loop: Any, woken: Any) -> None:
        self.waiting.discard((loop, woken))
        if not woken.done() and not self.killed_from_elsewhere(loop):
            woken.set_result(None)

    def killed_from_elsewhere(self, loop: Any) -> bool:
        return getattr(self, "killed_in", loop) is not loop

    async def kill(self, restart: bool = False) -> None:
        self.killed_in = asyncio.get_running_loop()
        await super().kill(restart)


# -- the environment ------------------------------------------------------------------------------


@caught_by("environment.substitution", also_run=("environment.kernelspec",))
class DoesNotSubstitute(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        kwargs["env"].update(self.kernel_spec.env)
        return kwargs


@caught_by("environment.unknown_reference", also_run=("environment.substitution",))
class SubstitutesStrictly(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        for value in self.kernel_spec.env.values():
            Template(value).substitute(os.environ)
        return kwargs


@caught_by("environment.launch", also_run=("environment.server",))
class MixesServerEnvironment(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "env": {**os.environ, **kwargs["env"]}}


@caught_by("environment.filtered", also_run=("environment.server",))
class ClaimsToFilterEnvironment(GoodProvisioner):
    conformance_capabilities = (*GoodProvisioner.conformance_capabilities, "filters-environment")


@caught_by("environment.resolve_path_finds", also_run=("environment.resolve_path",))
class ResolvesNothing(GoodProvisioner):
    def resolve_path(self, path_str: str) -> str | None:
        return None


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


@caught_by("encryption.required", also_run=("encryption.disabled",))
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


@caught_by(
    "encryption.required_unsupported",
    "encryption.unsupported",
    also_run=("encryption.auto", "encryption.disabled"),
)
class ClaimsEncryptionForKernels(GoodProvisioner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.kernel_spec is not None:
            self.kernel_spec.metadata["supported_encryption"] = ["curve"]


@caught_by("encryption.disabled", also_run=("encryption.auto", "encryption.unsupported"))
class EncryptsUnasked(GoodProvisioner):
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        self.parent.transport_encryption = "auto"
        return await super().pre_launch(**kwargs)


@caught_by("encryption.keys_differ", also_run=("encryption.restart",))
class CurveKeysAreFixed(GoodProvisioner):
    keys = zmq.curve_keypair()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self.parent.transport_encryption == "auto":
            self.parent.curve_publickey, self.parent.curve_secretkey = self.keys
        return await super().pre_launch(**kwargs)
