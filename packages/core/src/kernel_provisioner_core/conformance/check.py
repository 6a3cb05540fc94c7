"""A check: one sentence of the contract, and the function that tries it.

A check is an async function that takes a `Bench`. Its docstring is its documentation: the first
paragraph is the sentence of the contract, and the paragraph that begins with ``If it fails:`` says
what to look at.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from kernel_provisioner_core.conformance.target import Capability

if TYPE_CHECKING:
    from kernel_provisioner_core.conformance.bench import Bench

T = TypeVar("T")
CheckFunction = Callable[["Bench"], Awaitable[None]]

_IF_IT_FAILS = "If it fails:"

#: Seconds after which no step of a check is waited for any longer, whatever its own limit. The
#: suite's own tests set it: what their provisioners never do need not be waited for as long as what
#: an honest one does late.
PATIENCE = float("inf")


class Level(str, Enum):
    """How binding a check is."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class CheckFailed(AssertionError):
    """The provisioner does not do what the check asks for."""


class CheckSkipped(Exception):
    """The check says nothing about this target, for the reason given."""


@dataclass(frozen=True)
class Check:
    """One check, as the registry holds it.

    ``time_limit`` is how many seconds of its own a check may take on a local kernel, or None for
    the target's; ``needs`` are the capabilities without which it is skipped.
    """

    id: str
    level: Level
    since: str
    contract: str
    look_at: str
    needs: tuple[Capability, ...]
    function: CheckFunction

    @property
    def group(self) -> str:
        """The phase of life that the check belongs to: the first part of its id."""
        return self.id.partition(".")[0]


#: Every check, by id, in the order in which they run.
CHECKS: dict[str, Check] = {}


def check(
    id: str,
    level: Level = Level.MUST,
    *,
    needs: Iterable[Capability] = (),
    since: str = "0.1",
) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated async function as the check ``id``."""

    def register(function: CheckFunction) -> CheckFunction:
        if id in CHECKS:
            raise ValueError(f"two checks claim the id {id!r}")
        contract, _, look_at = inspect.cleandoc(function.__doc__ or "").partition(_IF_IT_FAILS)
        CHECKS[id] = Check(
            id=id,
            level=level,
            since=since,
            contract=" ".join(contract.split()),
            look_at=" ".join(look_at.split()),
            needs=tuple(needs),
            function=function,
        )
        return function

    return register


def expect(condition: object, message: str) -> None:
    """Fail the check with ``message`` unless ``condition`` is true (also under ``python -O``)."""
    if not condition:
        raise CheckFailed(message)


def patient(seconds: float) -> float:
    """``seconds``, or less if there is no such patience."""
    return min(seconds, PATIENCE)


async def within(seconds: float, awaitable: Awaitable[T], what: str, *, whole: bool = False) -> T:
    """The result of ``awaitable``, or a failed check if it takes longer than ``seconds``.

    With ``whole`` that is the limit whatever `PATIENCE` says, as for what only leads up to a check.
    """
    seconds = seconds if whole else patient(seconds)
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError as error:
        raise CheckFailed(f"{what}: not within {seconds:g} s") from error


async def until(
    seconds: float, condition: Callable[[], Awaitable[object]], what: str, interval: float = 0.05
) -> None:
    """Wait until ``condition`` holds, or fail the check after ``seconds``."""
    seconds = patient(seconds)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await condition():
        if loop.time() > end:
            raise CheckFailed(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(interval)


async def silently(awaitable: Awaitable[T], what: str, seconds: float = 15.0) -> T:
    """The result of ``awaitable``, which must neither raise nor hang."""
    try:
        return await within(seconds, awaitable, what)
    except (CheckFailed, CheckSkipped):
        raise
    except Exception as error:
        raise CheckFailed(f"{what} raised {type(error).__name__}: {error}") from error
