"""The page on the suite is what the suite says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import Check, select_checks
from kernel_provisioner_core.conformance.documentation import page

PAGE = Path(__file__).parents[4] / "docs" / "conformance.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), (
        "python -m kernel_provisioner_core.conformance.documentation > docs/conformance.md"
    )


@pytest.mark.parametrize("check", select_checks(), ids=lambda check: check.id)
def test_check_says_its_contract_and_what_to_look_at(check: Check) -> None:
    assert check.contract.endswith(".")
    assert check.look_at.endswith((".", ")"))
