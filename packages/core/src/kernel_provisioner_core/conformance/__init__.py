"""The conformance suite for Jupyter kernel provisioners (extra ``conformance``).

One list of checks, two faces. With pytest, in a test module of your own::

    from kernel_provisioner_core.conformance import Capability, ProvisionerConformance, Target

    class TestMine(ProvisionerConformance):
        target = Target(
            provisioner="my-provisioner",           # an entry point, a class, or "module:Class"
            config={"image": "..."},                # what kernel.json would say
            capabilities={Capability.INTERRUPT, Capability.EXIT_CODES},
            expected_failures={"cleanup.crashed": "issue 12"},
        )

In plain Python, which is what ``jupyter provisioner conform`` does::

    from kernel_provisioner_core.conformance import Target, run, select_checks

    for check in select_checks():                   # --list
        check.id, check.level, check.since, check.contract, check.look_at, check.needs
    report = run(
        Target(provisioner="my-provisioner"),
        select=["launch", "restart.same_address"],  # ids, groups, or patterns; None means all
        level="MUST",                               # only these; None or "SHOULD" means both
        on_start=lambda check: ...,                 # before each check, for progress
        on_result=lambda result: ...,               # after each check
    )
    report.results            # Result: check, verdict, seconds, message, notes
    report.counts             # {"passed": 70, "failed": 1, ...}
    report.summary            # one line
    report.to_json()          # str
    report.to_junit()         # str
    report.exit_status        # 1 if a MUST failed (or passed against expectation), else 0

``run`` takes care of itself: each check has a time limit, a bad provisioner cannot stop it, and
what a check left behind is removed. It raises ``ConfigurationError`` before the first check if the
target makes no sense (a provisioner that cannot be loaded, an unknown id or capability).

Capabilities are declared, never guessed: in ``Target(capabilities=...)``, or once and for all in the
provisioner's class as ``conformance_capabilities = ("interrupt", ...)``. What is not claimed is
skipped with that reason. Nothing here is loaded until it is used, and only
``ProvisionerConformance`` needs pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_provisioner_core.conformance.check import Check, CheckFailed, Level
    from kernel_provisioner_core.conformance.probe import KernelIdentity, Probe, ProcessProbe
    from kernel_provisioner_core.conformance.pytest_face import ProvisionerConformance
    from kernel_provisioner_core.conformance.report import Report, Result, Verdict
    from kernel_provisioner_core.conformance.runner import run, run_check, select_checks
    from kernel_provisioner_core.conformance.target import Capability, Target

_HOME = {
    "Capability": "target",
    "Check": "check",
    "CheckFailed": "check",
    "KernelIdentity": "probe",
    "Level": "check",
    "Probe": "probe",
    "ProcessProbe": "probe",
    "ProvisionerConformance": "pytest_face",
    "Report": "report",
    "Result": "report",
    "Target": "target",
    "Verdict": "report",
    "run": "runner",
    "run_check": "runner",
    "select_checks": "runner",
}

__all__ = [
    "Capability",
    "Check",
    "CheckFailed",
    "KernelIdentity",
    "Level",
    "Probe",
    "ProcessProbe",
    "ProvisionerConformance",
    "Report",
    "Result",
    "Target",
    "Verdict",
    "run",
    "run_check",
    "select_checks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
