"""`ps`, `logs`, `stop`, `reap`: the kernels that provisioners of this user have launched."""

from __future__ import annotations

import argparse
import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.adoption import AdoptedKernel, State, look_at
from kernel_provisioner_core.errors import (
    ConfigurationError,
    KernelNotFoundError,
    KernelProvisionerError,
)
from kernel_provisioner_core.records import KernelRecord, read_records

__all__ = ["list_kernels", "reap_kernels", "show_logs", "stop_kernels"]

_SHORT = 8  # characters of a kernel's id that a table shows
_ALL_OUTPUT = 1 << 24  # bytes; more than any provisioner keeps


@dataclass(frozen=True)
class _Done:
    """What was done with a kernel, as `--json` has it."""

    kernel_id: str
    kernel_name: str
    done: str
    reason: str


def list_kernels(options: argparse.Namespace) -> int:
    """List the kernels and how they are."""
    kernels = asyncio.run(_look_at_all(known_kernels()))
    if options.json:
        output.print_json([_as_json(kernel) for kernel in kernels])
        return 0
    output.table(
        ("KERNEL", "KERNELSPEC", "PROVISIONER", "STATE", "OWNER", "AGE"),
        [
            (
                kernel.record.kernel_id[:_SHORT],
                kernel.record.kernel_name,
                kernel.record.provisioner,
                kernel.state.value + (f": {kernel.reason}" if kernel.reason else ""),
                _owner(kernel.record),
                _age_in_words(_age(kernel.record)),
            )
            for kernel in kernels
        ],
    )
    return 0


def show_logs(options: argparse.Namespace) -> int:
    """Print the last lines of what a kernel has printed."""
    record = _find(options.kernel, known_kernels())
    text = asyncio.run(_logs(record))
    lines = text.splitlines()[-options.tail :]
    if options.json:
        output.print_json({"kernel_id": record.kernel_id, "lines": lines})
    elif lines:
        output.line("\n".join(lines))
    return 0


def stop_kernels(options: argparse.Namespace) -> int:
    """Shut the named kernels down; 1 if one of them could not be."""
    known = known_kernels()
    chosen = {(record := _find(name, known)).kernel_id: record for name in options.kernel}
    return asyncio.run(_stop_all(list(chosen.values()), options))


def reap_kernels(options: argparse.Namespace) -> int:
    """Shut down the kernels whose owner is gone, and forget those that have ended without one."""
    return asyncio.run(_reap(options))


def known_kernels() -> list[KernelRecord]:
    """Return the records of this user's kernels.

    Kernels of a backend whose daemon keeps labels would be asked for here too: from the classes of the
    installed provisioners that can find them.
    """
    return read_records()


async def _look_at_all(records: Sequence[KernelRecord]) -> list[AdoptedKernel]:
    return list(await asyncio.gather(*(look_at(record) for record in records)))


async def _logs(record: KernelRecord) -> str:
    kernel = await look_at(record)
    if kernel.state is State.UNKNOWN:
        raise KernelNotFoundError(
            f"The logs of kernel {record.kernel_id[:_SHORT]} are out of reach: {kernel.reason}."
        )
    get_logs = getattr(kernel.provisioner, "get_logs", None)
    if get_logs is None:
        raise ConfigurationError(f"The provisioner {record.provisioner} keeps no logs.")
    text = get_logs(_ALL_OUTPUT)
    return str(await text if inspect.isawaitable(text) else text)


async def _stop_all(records: Sequence[KernelRecord], options: argparse.Namespace) -> int:
    done, failures = [], 0
    for kernel in await _look_at_all(records):
        try:
            done.append(await _stop(kernel, now=options.now, force=options.force))
        except KernelProvisionerError as error:
            failures += 1
            output.error(error)
            continue
        if not options.json:
            _tell(done[-1])
    if options.json:
        output.print_json([asdict(one) for one in done])
    return 1 if failures else 0


async def _stop(kernel: AdoptedKernel, *, now: bool, force: bool) -> _Done:
    record = kernel.record
    short, owner = record.kernel_id[:_SHORT], _owner(record)
    if kernel.state is State.UNKNOWN:
        raise KernelNotFoundError(
            f"Kernel {short} of {owner} cannot be stopped from here: {kernel.reason}.",
            hint=f"Run this command on {record.owner.host}." if kernel.is_elsewhere else "",
        )
    if record.owner.is_running() and not force:
        raise ConfigurationError(
            f"Kernel {short} belongs to {owner}, which still runs and would start it again.",
            hint="Shut the kernel down there, or give --force.",
        )
    with output.working(f"stopping {short}"):
        how = await kernel.stop(now=now)
    return _Done(record.kernel_id, record.kernel_name, how, f"it was launched by {owner}")


async def _reap(options: argparse.Namespace) -> int:
    done, failures = [], 0
    for kernel in await _look_at_all(known_kernels()):
        record = kernel.record
        if kernel.state is State.UNKNOWN or record.owner.is_running():
            continue  # an ended kernel with an owner may be about to be restarted
        reason = f"its owner {_owner(record)} is gone"
        if options.dry_run:
            would = "would be forgotten" if kernel.state is State.ENDED else "would be stopped"
            done.append(_Done(record.kernel_id, record.kernel_name, would, reason))
        else:
            try:
                how = await kernel.stop()
            except KernelProvisionerError as error:
                failures += 1
                output.error(error)
                continue
            done.append(_Done(record.kernel_id, record.kernel_name, how, reason))
        if not options.json:
            _tell(done[-1])
    if options.json:
        output.print_json([asdict(one) for one in done])
    elif not done and not failures:
        output.line("Nothing to reap.")
    return 1 if failures else 0


def _find(wanted: str, records: Sequence[KernelRecord]) -> KernelRecord:
    found = [r for r in records if r.kernel_id.startswith(wanted)] if wanted else []
    found = found or [r for r in records if wanted and r.kernel_name == wanted]
    if len(found) == 1:
        return found[0]
    if not found:
        raise KernelNotFoundError(
            f"No kernel has an id that begins with {wanted!r}, or a kernelspec of that name.",
            hint="`jupyter provisioner ps` lists the kernels.",
        )
    ids = ", ".join(record.kernel_id[:_SHORT] for record in found)
    raise ConfigurationError(
        f"{wanted!r} may be any of {len(found)} kernels: {ids}.", hint="Give more of the id."
    )


def _tell(done: _Done) -> None:
    name = f" ({done.kernel_name})" if done.kernel_name else ""
    output.line(f"{done.kernel_id[:_SHORT]}{name} {done.done}: {done.reason}")


def _as_json(kernel: AdoptedKernel) -> dict[str, Any]:
    """Return what may be shown of a kernel; not its info, which has the key."""
    record = kernel.record
    return {
        "kernel_id": record.kernel_id,
        "kernel_name": record.kernel_name,
        "provisioner": record.provisioner,
        "state": kernel.state.value,
        "reason": kernel.reason,
        "owner": {
            "pid": record.owner.pid,
            "host": record.owner.host,
            "user": record.owner.user,
            "running": record.owner.is_running(),
        },
        "created": record.created,
        "age_seconds": round(_age(record)),
    }


def _owner(record: KernelRecord) -> str:
    return f"{record.owner.pid}@{record.owner.host}"


def _age(record: KernelRecord) -> float:
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        return 0.0
    return max(0.0, (datetime.now(timezone.utc) - created).total_seconds())


def _age_in_words(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
