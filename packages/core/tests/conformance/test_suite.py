"""The suite is tested itself: the good provisioner passes, and each broken one is caught by name.

A broken provisioner is not put through the whole suite, which would take a minute for each, but
through the checks that must catch it, some neighbours of these, and a few common ones.
"""

from __future__ import annotations

import pytest
from broken_provisioners import CASES, Case
from good_provisioner import GoodProvisioner

from kernel_provisioner_core.conformance import Report, Target, Verdict, bench, run, runner

# What broken provisioners leave to the garbage collector is theirs, not the suite's.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)

#: Checks that a provisioner with one fault elsewhere passes.
SMOKE = (
    "before.cleanup",
    "launch.poll",
    "restart.clients_stay",
    "failure.leaves_nothing",
)


def _told(report: Report) -> str:
    return "\n".join(
        f"{result.check.id}: {result.verdict.value}: {result.message}"
        for result in report.results
        if result.verdict is not Verdict.PASSED
    )


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken provisioners hang; the suite need not wait for them as long as for honest ones."""
    monkeypatch.setattr(bench, "CLOSE_LIMIT", 3.0)
    monkeypatch.setattr(runner, "GRACE", 4.0)


@pytest.mark.parametrize("name", CASES)
def test_broken_provisioner_fails_at_its_named_checks_and_only_there(name: str) -> None:
    case: Case = CASES[name]
    select = [*case.caught_by, *case.also_run, *(SMOKE if case.smoke else ())]
    target = Target(case.provisioner, **{"launch_limit": 8.0, **case.target})
    report = run(target, select=select)
    assert set(report.failed()) == set(case.caught_by), _told(report)
    assert len(report.results) == len(set(select))


def test_at_least_twenty_faults_are_known() -> None:
    assert len(CASES) >= 20


@pytest.mark.timeout(600)
def test_good_provisioner_passes_every_must() -> None:
    report = run(Target(GoodProvisioner, config={"greeting": "hello"}), level="MUST")
    assert report.conforms, _told(report)
    skipped = {r.check.id for r in report.results if r.verdict is Verdict.SKIPPED}
    assert skipped <= {
        "launch.factory",  # it has no entry point
        "failure.last_words",
        "failure.readiness",
        "environment.filtered",
        "interrupt.ipykernel",  # where there is no ipykernel
        "interrupt.ipykernel_shell",
    }
