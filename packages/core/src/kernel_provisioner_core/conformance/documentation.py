"""Writes the page on the suite, ``docs/conformance.md``, from the suite itself.

``python -m kernel_provisioner_core.conformance.documentation > docs/conformance.md``
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import groupby

from kernel_provisioner_core.conformance.check import Check, Level
from kernel_provisioner_core.conformance.runner import select_checks
from kernel_provisioner_core.conformance.target import Capability

_INTRODUCTION = """\
# The conformance suite

<!-- Written by `python -m kernel_provisioner_core.conformance.documentation`. Do not edit. -->

The suite says whether a Jupyter kernel provisioner, anybody's, does what `jupyter_client` and its users
rely on. It drives the provisioner with `jupyter_client`'s real managers, and looks from outside at
what really runs, so that a provisioner that lies is caught.

    pip install "kernel-provisioner-core[conformance]"

On the command line:

    jupyter provisioner conform my-provisioner --config '{"image": "..."}'
    jupyter provisioner conform my_package.module:MyProvisioner --select restart --select "end.*"

With pytest, every check a test of its own (`-k restart.same_address`):

    from kernel_provisioner_core.conformance import Capability, ProvisionerConformance, Target

    class TestMine(ProvisionerConformance):
        target = Target(
            provisioner="my-provisioner",
            config={"image": "..."},
            capabilities={Capability.INTERRUPT, Capability.EXIT_CODES},
            expected_failures={"cleanup.crashed": "issue 12"},
        )

- **Levels.** A provisioner conforms if no MUST fails. A SHOULD that fails is reported, and in pytest it is
  an xfail, unless the class says `fail_on = Level.SHOULD`.
- **Capabilities** are declared, never guessed: in the target, or once and for all in the provisioner's
  class as `conformance_capabilities = ("interrupt", ...)`. What is not claimed is skipped with
  that reason. The checks that need no capability are the core that everybody must pass.
- **Expected failures** need a reason and are strict: when such a check passes, that is a failure.
  A check cannot be overridden in the pytest class.
- **The probe** sees from outside. The default sees the processes of this machine by the kernel's id in their
  argv or environment. For kernels elsewhere, derive one from `Probe` that asks the daemon, the API or
  the host, and give `Target(probe=...)`; `Probe()` itself sees nothing, and what needs eyes is skipped.
- **The kernel** of most checks is a tiny one on pyzmq alone, `conformance/kernel.py`: a single file that
  an author can put into an image: `Target(kernel=["python3", "/kernel.py"])`. `kernel="ipykernel"`
  takes ipykernel for all.
- **It comes to its end.** Each check has a time limit (`Target(time_limit=60)`), and what a check left
  behind is removed, also when the provisioner hangs.
- **It can fail.** The suite's own tests put provisioners through it that are each wrong in one way. The column
  "shown to fail" says whether one of them fails at the check.

The version in which a check came in is in the table. A new check begins as a SHOULD.
"""

#: The checks at which no broken provisioner of the suite's own tests fails, and why; a test of the
#: suite sees to it that it still is so.
NOT_SHOWN_TO_FAIL = {
    "concurrency.steps": "what it allows depends on how busy the machine is",
}


_SCOREBOARD = """\
## Scoreboard

Other people's provisioners, with the claims that the suite makes for them. Next to what failed stands
what is not claimed and so was not asked for. On a busy machine `concurrency.steps` may fail for anybody.

| provisioner | MUST failed | SHOULD failed | not claimed |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Score:
    """What a provisioner of somebody else was seen to fail at."""

    version: str
    must: tuple[str, ...]
    should: tuple[str, ...]


#: By entry-point name; a test of the suite sees to it that it still is so.
SCOREBOARD = {
    "local-provisioner": Score(
        "jupyter_client 8.10",
        must=(),
        should=("cleanup.of_running", "failure.leaves_no_file", "persistence.json"),
    )
}


def page() -> str:
    """The whole page, as Markdown."""
    checks = select_checks()
    must = sum(check.level is Level.MUST for check in checks)
    counted = f"There are {len(checks)} checks: {must} MUST and {len(checks) - must} SHOULD."
    parts = [_INTRODUCTION, _capabilities(), f"## Checks\n\n{counted}\n"]
    for group, members in groupby(checks, key=lambda check: check.group):
        parts.append(_table(group, list(members)))
    parts.append(_SCOREBOARD + "".join(_score_row(name) for name in SCOREBOARD))
    return "\n".join(parts)


def _capabilities() -> str:
    rows = [f"| `{member.value}` | {_cell(member.description)} |\n" for member in Capability]
    return "## Capabilities\n\n| name | what it says |\n|---|---|\n" + "".join(rows)


def _table(group: str, checks: list[Check]) -> str:
    module = sys.modules[checks[0].function.__module__]
    title = (module.__doc__ or group).strip().splitlines()[0]
    rows = []
    for check in checks:
        needs = ", ".join(f"`{need.value}`" for need in check.needs)
        told = f"{_cell(check.contract)} *If it fails:* {_cell(check.look_at)}"
        why_not = NOT_SHOWN_TO_FAIL.get(check.id)
        shown = f"no: {_cell(why_not)}" if why_not else "yes"
        cells = [f"`{check.id}`", check.level.value, check.since, needs, shown, told]
        rows.append(f"| {' | '.join(cells)} |\n")
    head = "| id | level | since | needs | shown to fail | contract |\n|---|---|---|---|---|---|\n"
    return f"### {group}\n\n{title}\n\n{head}" + "".join(rows)


def _score_row(name: str) -> str:
    from kernel_provisioner_core.conformance.target import CLAIMS

    score = SCOREBOARD[name]
    unclaimed = [f"`{c.value}`" for c in Capability if c not in CLAIMS.get(name, ())]
    failed = [", ".join(f"`{id}`" for id in ids) or "none" for ids in (score.must, score.should)]
    title = f"`{name}` of {score.version}"
    return f"| {title} | {failed[0]} | {failed[1]} | {', '.join(unclaimed)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
