"""`conform`: the conformance suite on a provisioner."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError

if TYPE_CHECKING:
    from kernel_provisioner_core.conformance import Result

__all__ = ["conform"]

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "expected failure": "yellow",
    "unexpected pass": "bold red",
}


def conform(options: argparse.Namespace) -> int:
    """Run the suite, or list its checks; 1 if the provisioner does not conform."""
    if importlib.util.find_spec("ipykernel") is None:
        raise KernelProvisionerError(
            "The conformance suite is not complete here: ipykernel is not installed.",
            hint='pip install "kernel-provisioner-core[conformance]"',
        )
    from kernel_provisioner_core.conformance import Target, run, select_checks

    if options.list:
        checks = select_checks(options.select, options.level)
        output.table(
            ("ID", "LEVEL", "SINCE", "NEEDS", "CONTRACT"),
            [
                (
                    one.id,
                    one.level.value,
                    one.since,
                    ", ".join(need.value for need in one.needs),
                    one.contract,
                )
                for one in checks
            ],
        )
        return 0
    if options.provisioner is None:
        raise ConfigurationError(
            "There is no provisioner to check.", hint="Give its name or module:Class, or --list."
        )
    target = Target(
        provisioner=options.provisioner,
        config=_config(options.config),
        capabilities=options.claim,
    )
    quiet = options.json == "-"
    with output.children_apart(), contextlib.ExitStack() as shown:

        def on_start(check: Any) -> None:
            shown.enter_context(output.working(check.id))

        def on_result(result: Result) -> None:
            shown.pop_all().close()
            if not quiet:
                _show(result)

        report = run(
            target,
            select=options.select,
            level=options.level,
            on_start=on_start,
            on_result=on_result,
        )
    for file, text in ((options.json, report.to_json), (options.junit, report.to_junit)):
        if file is not None:
            _write(file, text())
    if not quiet:
        output.line(report.summary)
    return report.exit_status


def _show(result: Result) -> None:
    verdict = result.verdict.value
    output.styled_line(
        (f"{verdict:<18}", _STYLES[verdict]),
        f"{result.check.level.value:<8}{result.seconds:>7.2f} s  {result.check.id}",
        f"  ({result.message})" if result.message and verdict != "failed" else "",
    )
    if verdict == "failed":
        output.line(f"    {result.check.contract}")
        output.line(f"    {' '.join(result.message.split())}")
        if result.check.look_at:
            output.line(f"    look at: {result.check.look_at}")
    for note in result.notes:
        output.line(f"    note: {note}")


def _config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"--config is not JSON: {error}.", hint="""For example: --config '{"image": "..."}'."""
        ) from error
    if not isinstance(config, dict):
        raise ConfigurationError("--config is not a JSON object.")
    return config


def _write(file: str, text: str) -> None:
    if file == "-":
        output.line(text.rstrip("\n"))
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"The report cannot be written to {file!r}: {error.strerror}."
        ) from error
