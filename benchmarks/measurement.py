"""What a measurement is, what it yields, and the list of all measurements.

A measurement is a function that is given a `Plan` and yields rows. A module registers its own with
`@measurement`, and `__main__` imports the modules: a new comparison is a new module and one import.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "MEASUREMENTS",
    "Measurement",
    "Plan",
    "Row",
    "Samples",
    "at_most",
    "measurement",
    "ratio_row",
    "told",
]


@dataclass(frozen=True)
class Plan:
    """How much is to be measured.

    Args:
        rounds: How often; each measurement has its own idea of a round and its own default.
        quick: Whether this run only shows that everything works.
    """

    rounds: int
    quick: bool = False


@dataclass(frozen=True)
class Samples:
    """What was measured of one contender, in the order of measuring."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def summary(self) -> dict[str, float | int]:
        return {
            "n": len(self.values),
            "median": self.median,
            "min": self.low,
            "max": self.high,
            "p95": self.percentile(95),
        }


@dataclass(frozen=True)
class Row:
    """One figure of a measurement, and what it is held against.

    Args:
        name: What was measured, in a few words.
        unit: Of the samples: `s`, `bytes`, or empty for a count.
        samples: By contender.
        value: The figure that the limit is for; None where the row only tells something.
        limit: What `value` may be at most; None likewise.
        value_is: How `value` came from the samples.
        value_unit: Of `value` and `limit`: `x` for a ratio.
        more: What else is worth keeping, as JSON values.
    """

    name: str
    unit: str
    samples: dict[str, Samples]
    value: float | None = None
    limit: float | None = None
    value_is: str = ""
    value_unit: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.value is None or self.limit is None:
            return None
        return self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        entries = asdict(self)
        entries["holds"] = self.holds
        for name, samples in self.samples.items():
            entries["samples"][name] = {**samples.summary(), "values": list(samples.values)}
        return entries


@dataclass(frozen=True)
class Measurement:
    name: str
    about: str
    rounds: int
    quick_rounds: int
    run: Callable[[Plan], Iterable[Row]]


MEASUREMENTS: dict[str, Measurement] = {}


def measurement(
    name: str, *, rounds: int, quick_rounds: int
) -> Callable[[Callable[[Plan], Iterable[Row]]], Callable[[Plan], Iterable[Row]]]:
    """Register a measurement; the first line of its docstring tells what it is."""

    def register(run: Callable[[Plan], Iterable[Row]]) -> Callable[[Plan], Iterable[Row]]:
        about = (run.__doc__ or "").strip().splitlines()[0]
        MEASUREMENTS[name] = Measurement(name, about, rounds, quick_rounds, run)
        return run

    return register


def told(name: str, unit: str, samples: dict[str, Sequence[float]], **more: Any) -> Row:
    """A row without a limit."""
    return Row(name, unit, {k: Samples(v) for k, v in samples.items()}, more=more)


def at_most(
    name: str,
    unit: str,
    samples: dict[str, Sequence[float]],
    value: float,
    limit: float,
    value_is: str,
    **more: Any,
) -> Row:
    """A row whose value, in the unit of its samples, has a limit."""
    return Row(
        name,
        unit,
        {k: Samples(v) for k, v in samples.items()},
        value,
        limit,
        value_is,
        unit,
        more,
    )


def ratio_row(
    name: str,
    unit: str,
    ours: tuple[str, Sequence[float]],
    theirs: tuple[str, Sequence[float]],
    limit: float | None,
    *,
    by: Callable[[Sequence[float]], float] = statistics.median,
    paired: bool = True,
) -> Row:
    """A row whose value is ours divided by theirs.

    Args:
        name: What was measured.
        unit: Of the samples.
        ours: The contender that is judged, and its samples.
        theirs: The one it is held against.
        limit: For the ratio.
        by: What makes one number of the samples: the median, or `min` where only noise adds to a time.
        paired: Whether the two sequences were measured in turn, so that the ratios of neighbours mean something.
    """
    more: dict[str, Any] = {"interval_95": _interval(ours[1], theirs[1], by)}
    if paired:
        more["paired_ratios_median"] = statistics.median(
            a / b for a, b in zip(ours[1], theirs[1], strict=True)
        )
    more["ratio_of_minima"] = min(ours[1]) / min(theirs[1]) if min(theirs[1]) else None
    how = "minima" if by is min else "medians"
    return Row(
        name,
        unit,
        {ours[0]: Samples(ours[1]), theirs[0]: Samples(theirs[1])},
        by(ours[1]) / by(theirs[1]),
        limit,
        f"ratio of the {how}",
        "x",
        more,
    )


def _interval(
    ours: Sequence[float], theirs: Sequence[float], by: Callable[[Sequence[float]], float]
) -> list[float]:
    """Return where the ratio lies in 95 of 100 resamplings of what was measured (bootstrap)."""
    dice = random.Random(0)
    ratios = sorted(
        by(dice.choices(ours, k=len(ours))) / by(dice.choices(theirs, k=len(theirs)))
        for _ in range(500)
    )
    return [ratios[12], ratios[487]]
