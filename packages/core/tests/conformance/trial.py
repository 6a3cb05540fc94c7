"""One broken provisioner, or one whole run of the suite, in a process of its own.

The suite changes the environment of its process, so what runs at the same time needs processes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broken_provisioners import CASES, Case
from good_provisioner import GoodProvisioner

from kernel_provisioner_core.conformance import Target, Verdict, bench, check, run, runner

#: Seconds that a check waits for what a broken provisioner will not do.
PATIENCE = 2.5


@dataclass(frozen=True)
class Outcome:
    """What came out, in plain values: a report holds functions, which cannot be sent."""

    verdicts: dict[str, str]
    messages: dict[str, str]
    conforms: bool
    summary: str

    def those(self, verdict: Verdict) -> set[str]:
        return {id for id, ended in self.verdicts.items() if ended == verdict.value}

    @property
    def told(self) -> str:
        return "\n".join(f"{id}: {self.verdicts[id]}: {text}" for id, text in self.messages.items())


def _run(target: Target, **selection: Any) -> Outcome:
    report = run(target, **selection)
    return Outcome(
        {result.check.id: result.verdict.value for result in report.results},
        {result.check.id: result.message for result in report.results if result.message},
        report.conforms,
        report.summary,
    )


def try_case(name: str) -> tuple[Outcome, Outcome]:
    """The checks that must catch the broken provisioner; and those that it must pass."""
    case = CASES[name]
    # Broken provisioners hang; the suite need not wait for them as long as for honest ones.
    bench.CLOSE_LIMIT, runner.GRACE = 3.0, 4.0
    target = Target(_provisioner(case), **case.target)
    check.PATIENCE = PATIENCE
    try:
        caught = _run(replace(target, launch_limit=5.0), select=case.caught_by)
    finally:
        check.PATIENCE = float("inf")
    return caught, _run(target, select=case.also_run or ("before.cleanup", "restart.clients_stay"))


def _provisioner(case: Case) -> type[Any] | str:
    if not case.entry_point:
        return case.provisioner
    name = f"broken-{case.provisioner.__name__.lower()}"
    folder = Path(tempfile.mkdtemp(), f"{name.replace('-', '_')}-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    value = f"{case.provisioner.__module__}:{case.provisioner.__qualname__}"
    (folder / "entry_points.txt").write_text(
        f"[jupyter_client.kernel_provisioners]\n{name} = {value}\n"
    )
    sys.path.append(str(folder.parent))
    return name


def try_good() -> Outcome:
    """Every MUST, on the good provisioner."""
    return _run(Target(GoodProvisioner, config={"greeting": "hello"}), level="MUST")


def try_local_provisioner(*ids: str) -> Outcome:
    """Everything, or these checks, on jupyter_client's own."""
    return _run(Target("local-provisioner"), select=ids or None)


def begin() -> None:
    """In a new process, before its first trial."""
    # What the kernels and the broken provisioners say is not the tests' output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
