"""What the environments of tox did, added up: the closing line, what was skipped and why, what must not have been."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import services

FOLDER = Path(__file__).resolve().parent.parent / ".tox" / "results"
VERDICTS = FOLDER / "tox.json"  # what tox says about its environments
_ORDER = ("failed", "errors", "passed", "skipped", "xfailed")


@dataclass
class Environment:
    """One environment of tox, and the tests that pytest ran in it.

    Args:
        name: The name; its parts between hyphens are what KERNEL_PROVISIONERS_REQUIRE may ask for.
        absent: Whether it was left out because its interpreter is not on this machine.
        succeeded: Whether all its commands succeeded.
        counts: How many tests had which outcome; empty if it runs no tests.
        reasons: Why tests were skipped, and how many for each reason.
        seconds: The time that the tests took.
    """

    name: str
    absent: bool
    succeeded: bool
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def factors(self) -> list[str]:
        """The parts of the name."""
        return self.name.split("-")


def read(folder: Path = FOLDER) -> list[Environment]:
    """Return the environments of the last run."""
    verdicts = json.loads((folder / VERDICTS.name).read_text(encoding="utf-8"))["testenvs"]
    found = []
    for name, verdict in verdicts.items():
        result = verdict.get("result")
        if result is None or name.startswith("."):
            continue
        environment = Environment(name, result.get("skipped", False), result["success"])
        _add_tests(environment, folder / f"{name}.xml")
        found.append(environment)
    return found


def report(required: set[str], folder: Path = FOLDER) -> int:
    """Print what was skipped and how to provide it, then one closing line for all tests.

    Args:
        required: The words of KERNEL_PROVISIONERS_REQUIRE.
        folder: Where tox and pytest wrote.

    Returns:
        0, or 1 if a test failed, no test ran, or something required was skipped.
    """
    environments = read(folder)
    faults = unmet(required, environments)
    for environment in environments:
        for reason, count in environment.reasons.items():
            print(f"skipped in {environment.name}: {count} x {reason}")
    absent = [environment.name for environment in environments if environment.absent]
    if absent:
        print(f"skipped for want of an interpreter: {', '.join(absent)}")
        print("  Put python3.X on PATH, or install it by pyenv or uv; tox finds it there.")
    for fault in faults:
        print(f"REQUIRED: {fault}")
    total = sum((environment.counts for environment in environments), Counter())
    outcomes = [f"{total[outcome]} {outcome}" for outcome in _ORDER if total[outcome]]
    seconds = sum(environment.seconds for environment in environments)
    print(f" {', '.join(outcomes) or 'no tests ran'} in {seconds:.2f}s ".center(100, "="))
    return int(bool(faults or total["failed"] or total["errors"]))


def unmet(required: set[str], environments: list[Environment]) -> list[str]:
    """Return a sentence for each required word that was not honoured."""
    faults = []
    for word in sorted(required):
        asked = [environment for environment in environments if word in environment.factors]
        absent = [environment.name for environment in asked if environment.absent]
        if absent and (word.startswith("py") or len(absent) == len(asked)):
            faults.append(f"{word}: the interpreter is missing for {', '.join(absent)}.")
        elif asked and not any(environment.counts["passed"] for environment in asked):
            faults.append(f"{word}: no test passed in {', '.join(e.name for e in asked)}.")
        elif not asked and word not in services.names():
            faults.append(
                f"{word}: no service and no part of an environment that ran has the name."
            )
    return faults


def _add_tests(environment: Environment, path: Path) -> None:
    if not path.exists():
        return
    for suite in ElementTree.parse(path).iter("testsuite"):
        environment.seconds += float(suite.get("time", 0))
        for case in suite.iter("testcase"):
            outcome, reason = _outcome(case)
            environment.counts[outcome] += 1
            if outcome == "skipped":
                environment.reasons[reason] += 1


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for tag, outcome in (("failure", "failed"), ("error", "errors"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            if found.get("type") == "pytest.xfail":
                outcome = "xfailed"
            return outcome, found.get("message", "")
    return "passed", ""
