"""The page on the suite is what the suite says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import Check, Verdict, run, select_checks
from kernel_provisioner_core.conformance.documentation import SCOREBOARD, page
from kernel_provisioner_core.conformance.target import Target

PAGE = Path(__file__).parents[4] / "docs" / "conformance.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), (
        "python -m kernel_provisioner_core.conformance.documentation > docs/conformance.md"
    )


@pytest.mark.parametrize("check", select_checks(), ids=lambda check: check.id)
def test_check_says_its_contract_and_what_to_look_at(check: Check) -> None:
    assert check.contract.endswith(".")
    assert check.look_at.endswith((".", ")"))


@pytest.mark.timeout(600)
def test_jupyter_clients_own_provisioner_is_run_to_the_end_and_scores_as_the_page_says() -> None:
    report = run(Target("local-provisioner"))
    assert len(report.results) == len(select_checks())
    told = {r.check.id: r.message for r in report.results if r.verdict is Verdict.FAILED}
    score = SCOREBOARD["local-provisioner"]
    # How long a step takes is a matter of the machine, and the page says so.
    assert told.keys() - {"concurrency.steps"} == {*score.must, *score.should}, told
