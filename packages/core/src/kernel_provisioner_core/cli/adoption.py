"""Taking over a kernel that another process has launched, in order to look at it or to end it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from kernel_provisioner_core.cli.listing import load_provisioner
from kernel_provisioner_core.errors import (
    KernelNotFoundError,
    KernelProvisionerError,
    LaunchError,
)
from kernel_provisioner_core.records import KernelRecord, remove_record

__all__ = ["AdoptedKernel", "State", "look_at"]

_KILL_LIMIT = 5.0  # seconds, jupyter_client's own for the end of a killed kernel


class State(str, Enum):
    """How a kernel is, as far as this process can know."""

    RUNNING = "running"
    ORPHAN = "orphan"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class AdoptedKernel:
    """A kernel and the provisioner that this process has made for it.

    Args:
        record: What is written down of it.
        state: How it is; an orphan runs, and its owner does not.
        provisioner: The provisioner; None where the state is unknown.
        reason: Why the state is unknown; empty otherwise.
        is_elsewhere: Whether it is unknown because it was launched on another machine.
    """

    record: KernelRecord
    state: State
    provisioner: Any = None
    reason: str = ""
    is_elsewhere: bool = False

    async def stop(self, *, now: bool = False) -> str:
        """End the kernel, as jupyter_client does, and remove what was made for it; return what was done.

        Args:
            now: Whether to kill it at once, without asking.

        Raises:
            KernelProvisionerError: It goes on running, or what was made for it cannot be removed.
        """
        provisioner = self.provisioner
        how = "forgotten"
        with _foreign_errors(self.record, "stopped"):
            if self.state is not State.ENDED:
                how = "killed" if now or not await self._end_gracefully() else "stopped"
                if await provisioner.poll() is None:
                    await provisioner.kill()
                    if not await _ended_within(provisioner, _KILL_LIMIT):
                        raise LaunchError(
                            f"Kernel {self.record.kernel_id} still runs {_KILL_LIMIT:g} seconds "
                            "after it was killed.",
                            kernel_id=self.record.kernel_id,
                        )
            await provisioner.cleanup(restart=False)
        remove_record(self.record.kernel_id)
        return how

    async def _end_gracefully(self) -> bool:
        """Ask the kernel to end, by a message and then by SIGTERM; return whether it has."""
        provisioner = self.provisioner
        half = provisioner.get_shutdown_wait_time(5.0) / 2
        client = _client(self.record)
        if client is not None:
            client.start_channels(shell=False, iopub=False, stdin=False, hb=False, control=True)
            try:
                client.shutdown()
                await provisioner.shutdown_requested()
                if await _ended_within(provisioner, half):
                    return True
            finally:
                client.stop_channels()
        await provisioner.terminate()
        return await _ended_within(provisioner, half)


async def look_at(record: KernelRecord) -> AdoptedKernel:
    """Find out how a kernel is; never raises for what is wrong with it."""
    owner_runs = record.owner.is_running()
    if owner_runs is None:
        reason = f"it was launched on {record.owner.host}"
        return AdoptedKernel(record, State.UNKNOWN, reason=reason, is_elsewhere=True)
    provisioner: Any = None
    try:
        with _foreign_errors(record, "looked at"):
            provisioner_class: Any = load_provisioner(record.provisioner)
            provisioner = provisioner_class(
                kernel_id=record.kernel_id, kernel_spec=None, parent=None, **record.options
            )
            await provisioner.load_provisioner_info(record.info)
            ended = await provisioner.poll() is not None
    except KernelNotFoundError:
        ended = True
    except KernelProvisionerError as error:
        return AdoptedKernel(record, State.UNKNOWN, reason=error.message)
    if ended:
        return AdoptedKernel(record, State.ENDED, provisioner)
    return AdoptedKernel(record, State.RUNNING if owner_runs else State.ORPHAN, provisioner)


def _client(record: KernelRecord) -> Any:
    """Return a client for the kernel's control channel; None if the record does not say where it is."""
    from jupyter_client.asynchronous.client import AsyncKernelClient

    info: Any = record.info.get("connection_info")
    if not isinstance(info, dict) or not info.get("control_port"):
        return None
    client = AsyncKernelClient()
    client.load_connection_info(cast("Any", info))
    return client


async def _ended_within(provisioner: Any, seconds: float) -> bool:
    try:
        await asyncio.wait_for(provisioner.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


@contextlib.contextmanager
def _foreign_errors(record: KernelRecord, verb: str) -> Iterator[None]:
    """Turn what a provisioner raises, which may be anything, into an error of the tree."""
    try:
        yield
    except KernelProvisionerError:
        raise
    except Exception as error:
        raise KernelProvisionerError(
            f"Kernel {record.kernel_id} could not be {verb}: {type(error).__name__}: {error}"
        ) from error
