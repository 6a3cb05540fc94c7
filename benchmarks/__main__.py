"""`python benchmarks`: measure the claims of speed, as ratios in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

# each registers its measurements
import crowd  # noqa: F401
import exit_notice  # noqa: F401
import footprint  # noqa: F401
import imports  # noqa: F401
import launch  # noqa: F401
import leaks  # noqa: F401
import preparation  # noqa: F401
from contender import LOCAL, REFERENCE, world
from measurement import MEASUREMENTS, Plan, Row

_VERSIONS = (
    "kernel-provisioner-core",
    "kernel-provisioner-local",
    "jupyter_client",
    "ipykernel",
    "pyzmq",
    "traitlets",
)


def main() -> int:
    options = _options()
    if options.list:
        for one in MEASUREMENTS.values():
            print(f"{one.name:12} {one.about} ({one.rounds} rounds, {one.quick_rounds} quick)")
        return 0
    report: dict[str, Any] = {"machine": _machine(), "versions": _versions(), "measurements": {}}
    missed = []
    print(_heading(report))
    with world(LOCAL, REFERENCE):
        for name in options.only or MEASUREMENTS:
            one = MEASUREMENTS[name]
            rounds = options.rounds or (one.quick_rounds if options.quick else one.rounds)
            begin = time.monotonic()
            print(f"\n{name}: {one.about} ({rounds} rounds)")
            rows = []
            for row in one.run(Plan(rounds, options.quick)):
                rows.append(row.as_json())
                print(_text(row), flush=True)
                if row.holds is False:
                    missed.append(f"{name}: {row.name}")
            report["measurements"][name] = {
                "about": one.about,
                "rounds": rounds,
                "seconds": time.monotonic() - begin,
                "load_average": os.getloadavg(),
                "rows": rows,
            }
            if options.json:  # after each, so that what was measured is not lost with a later one
                Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    print("\nEvery limit holds." if not missed else "\nMissed: " + "; ".join(missed))
    # a missed limit is a finding, not a failure of the run: the machine may be busy
    return 1 if missed and options.strict else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(MEASUREMENTS), metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured there")
    parser.add_argument("--rounds", type=int, help="instead of each measurement's own number")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work?")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a limit is missed")
    parser.add_argument("--list", action="store_true", help="list the measurements")
    return parser.parse_args()


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": sys.version.split()[0],
        "load_average": os.getloadavg(),
        "time": datetime.now(timezone.utc).isoformat("T", "seconds"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _VERSIONS}


def _heading(report: dict[str, Any]) -> str:
    machine = report["machine"]
    load = " ".join(f"{load:.1f}" for load in machine["load_average"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"{machine['system']}, {machine['processor']}, {machine['cpus']} CPUs, Python "
        f"{machine['python']}, load {load}\n{versions}"
    )


def _text(row: Row) -> str:
    lines = [f"  {row.name}"]
    for contender, samples in row.samples.items():
        low, middle, high = (
            _number(v, row.unit) for v in (samples.low, samples.median, samples.high)
        )
        many = len(samples.values)
        what = middle if many == 1 else f"{middle}   ({low} to {high}, n={many})"
        lines.append(f"    {contender:26} {what}")
    if row.value is not None:
        value = f"{row.value_is}: {_number(row.value, row.value_unit)}"
        if "interval_95" in row.more:
            low, high = row.more["interval_95"]
            value += f" (95 %: {low:.2f} to {high:.2f}), of the minima {row.more['ratio_of_minima']:.2f}x"
        if "paired_ratios_median" in row.more:
            value += f", median of the pairs' {row.more['paired_ratios_median']:.2f}x"
        if row.limit is not None:
            verdict = "holds" if row.holds else "MISSED"
            value += f", at most {_number(row.limit, row.value_unit)}: {verdict}"
        lines.append(f"    {value}")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:.2f} ms"
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB"
    if unit == "x":
        return f"{value:.2f}x"
    return f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
