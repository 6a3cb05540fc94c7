"""What came out: one result per check, and reports for machines and people."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata
from typing import Any
from xml.etree import ElementTree

from kernel_provisioner_core.conformance.check import Check, Level


class Verdict(str, Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_PASS = "unexpected pass"


@dataclass(frozen=True)
class Result:
    """One check's outcome.

    ``message`` says why it failed or was skipped, in words without secrets; ``notes`` are remarks
    that change no verdict, such as what the suite had to remove afterwards.
    """

    check: Check
    verdict: Verdict
    seconds: float
    message: str = ""
    notes: Sequence[str] = ()

    @property
    def counts_against(self) -> bool:
        """Whether the provisioner does not conform because of this."""
        return self.verdict is Verdict.UNEXPECTED_PASS or (
            self.verdict is Verdict.FAILED and self.check.level is Level.MUST
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        failed = self.verdict in (Verdict.FAILED, Verdict.EXPECTED_FAILURE)
        return {
            "id": self.check.id,
            "level": self.check.level.value,
            "since": self.check.since,
            "contract": self.check.contract,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            "message": self.message,
            "look_at": self.check.look_at if failed else "",
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Report:
    """The results of one run, in the order in which the checks ran."""

    target: str
    capabilities: Sequence[str]
    results: Sequence[Result] = field(default_factory=tuple)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks ended how."""
        return {
            verdict.value: sum(result.verdict is verdict for result in self.results)
            for verdict in Verdict
        }

    def failed(self, level: Level | None = None) -> list[str]:
        """The ids of the checks that failed, of one level or of both."""
        return [
            result.check.id
            for result in self.results
            if result.verdict is Verdict.FAILED and level in (None, result.check.level)
        ]

    @property
    def conforms(self) -> bool:
        """Whether no MUST failed and nothing passed that was expected to fail."""
        return not any(result.counts_against for result in self.results)

    @property
    def exit_status(self) -> int:
        """0 if the provisioner conforms, else 1."""
        return 0 if self.conforms else 1

    @property
    def summary(self) -> str:
        """One line: the verdict and the counts."""
        counted = ", ".join(f"{number} {name}" for name, number in self.counts.items() if number)
        seconds = sum(result.seconds for result in self.results)
        verdict = "conforms" if self.conforms else "does not conform"
        should = len(self.failed(Level.SHOULD))
        aside = f" ({should} of the failed are SHOULD)" if should else ""
        return f"{self.target} {verdict}: {counted or 'no checks'}{aside}, in {seconds:.1f} s"

    def to_json(self) -> str:
        """The report as JSON. Of the configuration nothing is in it: it may hold secrets."""
        document = {
            "provisioner": self.target,
            "capabilities": sorted(self.capabilities),
            "environment": _environment(),
            "conforms": self.conforms,
            "counts": self.counts,
            "results": [result.as_dict() for result in self.results],
        }
        return json.dumps(document, indent=2) + "\n"

    def to_junit(self) -> str:
        """The report as JUnit XML. A SHOULD that failed is a skip here, with its message."""
        suite = ElementTree.Element(
            "testsuite",
            name=f"conformance of {self.target}",
            tests=str(len(self.results)),
            failures=str(sum(result.counts_against for result in self.results)),
            skipped=str(sum(_junit_skips(result) for result in self.results)),
            time=f"{sum(result.seconds for result in self.results):.3f}",
        )
        for result in self.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"conformance.{result.check.group}",
                name=result.check.id,
                time=f"{result.seconds:.3f}",
            )
            message = f"{result.check.level.value} {result.verdict.value}: {result.message}"
            if result.counts_against:
                element = ElementTree.SubElement(case, "failure", message=_printable(message))
                element.text = _printable(f"{result.check.contract}\n{result.check.look_at}")
            elif _junit_skips(result):
                ElementTree.SubElement(case, "skipped", message=_printable(message))
        document = ElementTree.Element("testsuites")
        document.append(suite)
        return ElementTree.tostring(document, encoding="unicode", xml_declaration=True) + "\n"


def _junit_skips(result: Result) -> bool:
    return result.verdict is not Verdict.PASSED and not result.counts_against


def _printable(text: str) -> str:
    """The text without the control characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def _environment() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("kernel-provisioner-core", "jupyter_client", "pyzmq", "ipykernel"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
