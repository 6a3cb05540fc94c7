"""Running checks: each in a thread and a directory of its own, with a time limit, cleaned up after.

A thread, because a provisioner may block its event loop for ever: then the thread is left behind
(it is a daemon), what it made is removed, and the run goes on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

import kernel_provisioner_core.conformance.checks  # noqa: F401 - registers them
from kernel_provisioner_core.conformance.bench import Bench
from kernel_provisioner_core.conformance.check import (
    CHECKS,
    Check,
    CheckFailed,
    CheckSkipped,
    Level,
)
from kernel_provisioner_core.conformance.report import Report, Result, Verdict
from kernel_provisioner_core.conformance.target import Target
from kernel_provisioner_core.errors import ConfigurationError

#: Seconds that a check that was stopped has for its own cleaning up.
GRACE = 20.0

#: Jupyter's directories are process-wide, so one check runs at a time.
_one_at_a_time = threading.Lock()


def select_checks(
    select: Iterable[str] | None = None, level: Level | str | None = None
) -> list[Check]:
    """The checks that these words choose, in the order in which they run.

    Args:
        select: ids (``restart.same_address``), groups (``restart``) or patterns (``*.exit*``).
            None chooses all.
        level: ``MUST`` for these only; ``SHOULD`` or None for both.

    Raises:
        ConfigurationError: a word matches nothing, or there is no such level.
    """
    chosen = list(CHECKS.values())
    if select is not None:
        words = list(select)
        for word in words:
            if not any(_matches(check, word) for check in CHECKS.values()):
                raise _unknown(word)
        chosen = [check for check in chosen if any(_matches(check, word) for word in words)]
    if level is not None:
        try:
            wanted = Level(str(getattr(level, "value", level)).upper())
        except ValueError as error:
            raise ConfigurationError(
                f"there is no level {level!r}", hint="There are MUST and SHOULD."
            ) from error
        if wanted is Level.MUST:
            chosen = [check for check in chosen if check.level is Level.MUST]
    return chosen


def run(
    target: Target,
    *,
    select: Iterable[str] | None = None,
    level: Level | str | None = None,
    on_start: Callable[[Check], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Run the chosen checks on the target, one after the other, to the end.

    Blocks; call it from the main thread of a script or from a thread of a server, not from a
    coroutine. While it runs, the Jupyter directories of this process are private ones.

    Args:
        target: what to check.
        select: which checks, as `select_checks` reads it.
        level: which level, as `select_checks` reads it.
        on_start: called before each check.
        on_result: called after each check.

    Raises:
        ConfigurationError: the target makes no sense; no check was run.
    """
    validate(target)
    results = []
    for check in select_checks(select, level):
        if on_start is not None:
            on_start(check)
        result = run_check(check, target)
        results.append(result)
        if on_result is not None:
            on_result(result)
    return Report(target.name, [claim.value for claim in target.claims], results)


def validate(target: Target) -> None:
    """Raise ConfigurationError if the target makes no sense, before anything is launched."""
    target.load()
    _ = target.claims, target.kernel_argv
    for id, reason in target.expected_failures.items():
        if id not in CHECKS:
            raise _unknown(id)
        if not reason.strip():
            raise ConfigurationError(
                f"Target: the expected failure of {id} has no reason",
                hint="Say why, and where it is tracked.",
            )


def run_check(check: Check, target: Target) -> Result:
    """Run one check on the target. Never raises for what the provisioner does."""
    missing = [claim.value for claim in check.needs if claim not in target.claims]
    if missing:
        reason = f"the provisioner does not claim {', '.join(missing)}"
        return Result(check, Verdict.SKIPPED, 0.0, reason)
    begun = time.perf_counter()
    with _one_at_a_time, _private_directory() as directory:
        run = _Run(check, target, directory)
        verdict, message = run.outcome()
        seconds = time.perf_counter() - begun
    reason = target.expected_failures.get(check.id, "")
    if reason and verdict is Verdict.FAILED:
        verdict, message = Verdict.EXPECTED_FAILURE, f"{reason} ({message})"
    elif reason and verdict is Verdict.PASSED:
        message = f"it passed, but was expected to fail: {reason}"
        verdict = Verdict.UNEXPECTED_PASS
    return Result(check, verdict, seconds, message, run.notes)


class _Run:
    """One check, running in its thread."""

    def __init__(self, check: Check, target: Target, directory: Path) -> None:
        self._check = check
        self._target = target
        self._bench: Bench | None = None
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._done = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._outcome: tuple[Verdict, str] = (Verdict.FAILED, "the check did not end")
        self.notes: list[str] = []

    def outcome(self) -> tuple[Verdict, str]:
        limit = self._target.time_limit
        thread = threading.Thread(
            target=self._run_loop, name=f"conformance {self._check.id}", daemon=True
        )
        thread.start()
        try:
            ended = self._done.wait(limit)
        except KeyboardInterrupt:
            self._break_off()
            raise
        if ended:
            thread.join()
            return self._outcome
        where = _position(thread)
        self._break_off()
        return Verdict.FAILED, f"it did not end within {limit:g} s; it was {where}"

    def _break_off(self) -> None:
        """Have the check stop and clean up; if it cannot, remove by the probe what it made."""
        try:
            self._loop.call_soon_threadsafe(self._stop)
        except RuntimeError:
            return  # it has just ended, and closed its loop
        if not self._done.wait(GRACE):
            self.notes.append("the check's thread hangs and was left behind")
            if self._bench is not None:
                self._bench.remove()

    def _run_loop(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            task = self._loop.create_task(self._perform())
            self._stop = task.cancel
            self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            _end_tasks(self._loop)
            asyncio.set_event_loop(None)
            self._loop.close()
            self._done.set()

    async def _perform(self) -> None:
        bench = self._bench = Bench(self._target, self._directory)
        try:
            await self._check.function(bench)
            self._outcome = Verdict.PASSED, ""
        except CheckSkipped as skipped:
            self._outcome = Verdict.SKIPPED, str(skipped)
        except CheckFailed as failed:
            self._outcome = Verdict.FAILED, str(failed)
        except Exception as error:
            self._outcome = Verdict.FAILED, _describe(error)
        finally:
            await bench.close()
            self.notes += bench.notes


def _describe(error: BaseException) -> str:
    """An exception that no check expected: its text, and where it came from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (from {Path(last.filename).name}:{last.lineno})"


def _position(thread: threading.Thread) -> str:
    """Where a thread stands, outside the standard library if possible."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = traceback.extract_stack(frame) if frame is not None else []
    waiting = [f for f in stack if f.name == "select" and "selectors" in f.filename]
    if waiting or not stack:
        return "waiting for something in its event loop"
    last = stack[-1]
    return f"blocking in {last.name} ({Path(last.filename).name}:{last.lineno})"


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the provisioner left running in the loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=2))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _matches(check: Check, word: str) -> bool:
    return word in (check.id, check.group) or fnmatchcase(check.id, word)


def _unknown(word: str) -> ConfigurationError:
    known = [*CHECKS, *dict.fromkeys(check.group for check in CHECKS.values())]
    nearest = get_close_matches(word, known, 1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "--list shows them all."
    return ConfigurationError(f"no check is called {word!r}", hint=hint)


@contextmanager
def _private_directory() -> Iterator[Path]:
    """A new private directory that is this process's Jupyter directory as long as it lasts."""
    # Short, since a Unix socket's path (transport ipc) has about a hundred characters.
    directory = Path(tempfile.mkdtemp(prefix="kp-")).resolve()
    names = {
        "JUPYTER_RUNTIME_DIR": directory / "runtime",
        "JUPYTER_DATA_DIR": directory / "data",
        "JUPYTER_CONFIG_DIR": directory / "config",
    }
    for path in names.values():
        path.mkdir(mode=0o700)
    with _environment({name: str(path) for name, path in names.items()}):
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
