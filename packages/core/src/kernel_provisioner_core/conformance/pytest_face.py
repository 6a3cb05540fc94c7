"""The pytest face of the suite: a class to derive from, with one test for each check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from kernel_provisioner_core.conformance.check import CHECKS, Check, Level
from kernel_provisioner_core.conformance.report import Verdict
from kernel_provisioner_core.conformance.runner import run_check, validate
from kernel_provisioner_core.conformance.target import Target


class ProvisionerConformance:
    """Derive a class whose name begins with ``Test``, set ``target``, and pytest runs the suite.

    Each check is a test of its own, named after its id (``-k restart.same_address``). What the
    target does not claim is skipped with that reason; an expected failure is an xfail, and strict.
    A SHOULD that fails is an xfail too, unless ``fail_on`` is `Level.SHOULD`.

    A check cannot be overridden: `test_suite_is_whole` fails then. Say what is known to be wrong
    in ``Target(expected_failures={"check.id": "reason"})``.
    """

    target: ClassVar[Target]
    fail_on: ClassVar[Level] = Level.MUST

    def test_suite_is_whole(self) -> None:
        """The target makes sense, and no check was overridden or deleted."""
        target = getattr(type(self), "target", None)
        if not isinstance(target, Target):
            pytest.fail(f"{type(self).__name__} needs: target = Target(provisioner=...)")
        validate(target)
        names = [_test_name(check) for check in CHECKS.values()]
        changed = [
            name
            for name in [*names, "_conform"]
            if getattr(type(self), name, None) is not vars(ProvisionerConformance)[name]
        ]
        if changed:
            pytest.fail(
                f"{', '.join(changed)}: a check cannot be overridden. If it is known to fail, "
                "give Target(expected_failures={id: reason})."
            )

    def _conform(self, check: Check) -> None:
        result = run_check(check, self.target)
        message = f"{check.level.value} {check.id}: {result.message}"
        if result.verdict is Verdict.SKIPPED:
            pytest.skip(message)
        if result.verdict is Verdict.EXPECTED_FAILURE:
            pytest.xfail(message)
        if result.verdict is Verdict.FAILED:
            if check.level is Level.SHOULD and self.fail_on is Level.MUST:
                pytest.xfail(message)
            pytest.fail(
                f"{message}\n\n{check.contract}\nIf it fails: {check.look_at}", pytrace=False
            )
        if result.verdict is Verdict.UNEXPECTED_PASS:
            pytest.fail(message, pytrace=False)


def _test_name(check: Check) -> str:
    return "test_" + check.id.replace(".", "_")


def _test(check: Check) -> Callable[..., None]:
    def test(self: Any, check: Check) -> None:
        self._conform(check)

    test.__name__ = _test_name(check)
    test.__qualname__ = f"ProvisionerConformance.{test.__name__}"
    test.__doc__ = f"{check.contract}\n\nIf it fails: {check.look_at}"
    parametrized: Callable[..., None] = pytest.mark.parametrize(
        "check", [pytest.param(check, id=check.id)]
    )(test)
    return parametrized


for _check in CHECKS.values():
    setattr(ProvisionerConformance, _test_name(_check), _test(_check))
