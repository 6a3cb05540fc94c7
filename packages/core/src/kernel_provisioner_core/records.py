"""What this user's provisioners have launched, kept so that another process finds it.

One file per kernel that runs (mode 0600, in a directory 0700 below Jupyter's runtime directory). It holds
the provisioner's own `get_provisioner_info()`, with the key: whoever can read it can talk to the kernel.
A server that is killed leaves its records behind; that is how `jupyter provisioner reap` knows its kernels.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_provisioner_core.connection import jupyter_runtime_dir, write_private_file
from kernel_provisioner_core.processes import ProcessIdentity

__all__ = [
    "KernelRecord",
    "Owner",
    "path_of",
    "read_records",
    "records_dir",
    "remove_record",
    "write_record",
]

_ISO_8601 = "%Y-%m-%dT%H:%M:%S+00:00"


@dataclass(frozen=True)
class Owner:
    """The process that has launched a kernel and answers for it.

    Args:
        host: The machine's name.
        pid: The process's id.
        start_time: When it started; see `processes.ProcessIdentity`.
        user: The user's name.
    """

    host: str
    pid: int
    start_time: str
    user: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return the calling process as an owner."""
        return _owner_of(ProcessIdentity.of_this_process())

    def is_running(self) -> bool | None:
        """Return whether the owner still runs; None if it is on another machine and nobody here knows."""
        if self.host != _host():
            return None
        return ProcessIdentity(self.pid, self.start_time).is_running()


@dataclass(frozen=True)
class KernelRecord:
    """One kernel that a provisioner has launched.

    Args:
        kernel_id: The kernel's id.
        provisioner: The provisioner's class as `module:Class`.
        kernel_name: The kernelspec's name; empty where it had none.
        info: What the provisioner's `get_provisioner_info()` returned, with the key.
        options: The provisioner's options, as the `config` of kernel.json has them.
        owner: Who launched it.
        created: When, in UTC, as ISO 8601.
    """

    kernel_id: str
    provisioner: str
    kernel_name: str
    info: dict[str, Any] = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    owner: Owner = field(default_factory=Owner.this_process)
    created: str = field(default_factory=lambda: time.strftime(_ISO_8601, time.gmtime()))


def records_dir() -> Path:
    """Return the directory of the records; it need not exist."""
    return Path(jupyter_runtime_dir(), "kernel-provisioners")


def path_of(kernel_id: str, suffix: str = ".json") -> Path:
    """Return the path of a kernel's record, or with another suffix of what is kept beside it."""
    # a kernel id may be anything that a caller made up
    return records_dir() / (re.sub("[^A-Za-z0-9._-]", "_", kernel_id) + suffix)


def write_record(record: KernelRecord) -> None:
    """Write or replace the record of a kernel.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    # `asdict` would copy all of it, deep down
    entries = {**vars(record), "owner": vars(record.owner)}
    write_private_file(path_of(record.kernel_id), json.dumps(entries))


def remove_record(kernel_id: str) -> None:
    """Remove the record of a kernel; nothing happens if there is none."""
    with contextlib.suppress(OSError):
        path_of(kernel_id).unlink()


def read_records() -> list[KernelRecord]:
    """Return the records of this user's kernels, the oldest first; files that are no records are passed over."""
    records = []
    for path in sorted(records_dir().glob("*.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            records.append(KernelRecord(**{**entries, "owner": Owner(**entries["owner"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # gone meanwhile, or written by a version that knew other fields
    return sorted(records, key=lambda record: record.created)


@functools.lru_cache(maxsize=1)  # the process as argument keeps it right after a fork
def _owner_of(process: ProcessIdentity) -> Owner:
    return Owner(_host(), process.pid, process.start_time, _user())


def _host() -> str:
    import platform  # records come with the first kernel, and importing core is to be quick

    return platform.node()


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as containers have it
        return str(os.getuid()) if hasattr(os, "getuid") else ""
