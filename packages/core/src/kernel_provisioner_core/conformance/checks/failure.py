"""Launches that fail or are cancelled: clear errors, nothing left, and the next one works."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import (
    CheckSkipped,
    Level,
    check,
    expect,
    silently,
    within,
)
from kernel_provisioner_core.conformance.checks.cleanup import files_with
from kernel_provisioner_core.conformance.target import Capability

_WORDS = "these were its last words"
# Not as they stand: the command itself may be in an error or a log.
_DYING = (
    f"import sys; print(*{' '.join(reversed(_WORDS.split()))!r}.split()[::-1], "
    "file=sys.stderr, flush=True); sys.exit(7)"
)


def _missing(kernel: Kernel) -> str:
    return f"/nonexistent/{kernel.id[:8]}/python"


async def _fail_to_start(bench: Bench) -> tuple[Kernel, BaseException | None]:
    """Start a kernel whose command does not exist."""
    kernel = bench.kernel()
    kernel.spec.argv = [_missing(kernel), *kernel.spec.argv[1:]]
    return kernel, await _error_of(kernel)


async def _error_of(kernel: Kernel) -> BaseException | None:
    try:
        await kernel.start()
    except Exception as error:
        return error
    return None


def chain(error: BaseException | None) -> str:
    """The text of an exception and of what caused it."""
    texts = []
    while error is not None:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@check("failure.missing_command")
async def missing_command(bench: Bench) -> None:
    """A kernel whose command does not exist is no running kernel: the launch raises, or `poll`
    says within 10 s that it has ended.

    If it fails: the notebook shows a kernel that starts for ever.
    """
    kernel, error = await _fail_to_start(bench)
    if error is None:
        await kernel.dead(10, "the launch of a command that does not exist")
    else:
        alive = kernel.manager.has_kernel and await kernel.provisioner.poll() is None
        expect(not alive, f"the launch raised, but poll() says that the kernel runs ({error})")


@check("failure.missing_command_named", Level.SHOULD)
async def missing_command_named(bench: Bench) -> None:
    """The launch of a command that does not exist raises an error that names the command.

    If it fails: the user sees only that the kernel died.
    """
    kernel, error = await _fail_to_start(bench)
    expect(error is not None, "the launch did not raise")
    expect(_missing(kernel) in chain(error), f"the error does not name the command: {error}")


@check("failure.leaves_nothing")
async def leaves_nothing(bench: Bench) -> None:
    """A failed launch leaves nothing: when the error has left the manager, no process, container
    or tunnel exists, and `cleanup` after it is silent.

    If it fails: undo what was made before the error leaves `launch_kernel`.
    """
    kernel, error = await _fail_to_start(bench)
    if error is None:
        await kernel.shutdown(now=True)
    await kernel.gone(2, "a failed launch")
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup() after a failed launch")


@check("failure.late")
async def late(bench: Bench) -> None:
    """A launch that fails at its very end, in the manager, leaves nothing once `cleanup` was
    called.

    If it fails: what `launch_kernel` made is not known to `cleanup` until `post_launch`.
    """
    kernel = bench.kernel()

    def refuse(info: Any) -> None:
        raise RuntimeError("refused by the check")

    kernel.manager._reconcile_connection_info = refuse
    error = await _error_of(kernel)
    del kernel.manager._reconcile_connection_info
    expect("refused" in str(error), f"the launch ended with {error!r}")
    await kernel.shutdown(now=True)
    await kernel.gone(5, "a launch that the manager refused, and its shutdown")


@check("failure.leaves_no_file", Level.SHOULD)
async def leaves_no_file(bench: Bench) -> None:
    """A failed launch leaves no file with the key.

    If it fails: `pre_launch` wrote the connection file; remove it before the error leaves
    `launch_kernel`.
    """
    kernel, error = await _fail_to_start(bench)
    if error is None:
        raise CheckSkipped("the launch did not raise")
    files = files_with(bench.directory, kernel.secrets)
    expect(not files, f"the key is still in {', '.join(path.name for path in files)}")


@check("failure.recovers")
async def recovers(bench: Bench) -> None:
    """After a failed launch the same manager and provisioner start a kernel, once the cause is
    mended.

    If it fails: something of the failed launch is left in the provisioner.
    """
    kernel, error = await _fail_to_start(bench)
    if error is None:
        await kernel.shutdown(now=True)
    kernel.spec.argv = bench.target.kernel_argv
    await kernel.start()
    await kernel.ready()


@check("failure.unwritable")
async def unwritable(bench: Bench) -> None:
    """If the connection file cannot be written, the launch raises and leaves nothing.

    If it fails: the error is swallowed, and the kernel waits for a file that never comes.
    """
    blocker = bench.runtime / "no-directory"
    blocker.write_text("")
    kernel = bench.kernel()
    kernel.manager.connection_file = str(blocker / "kernel.json")
    expect(await _error_of(kernel) is not None, "the launch did not raise")
    await kernel.gone(2, "a failed launch")


@check("failure.exits_at_once")
async def exits_at_once(bench: Bench) -> None:
    """A kernel that exits at once is seen: the launch raises, or `poll` tells within 10 s, and
    after the shutdown nothing is left.

    If it fails: the restarter waits for a kernel that will not come.
    """
    kernel = bench.kernel(bench.spec(bench.python(_DYING)))
    error = await _error_of(kernel)
    if error is None:
        code = await kernel.dead(10, "a kernel that exits at once")
        if Capability.EXIT_CODES in bench.target.claims:
            expect(code == 7, f"sys.exit(7) was reported as {code!r}")
    await kernel.shutdown(now=True)
    await kernel.gone(5, "shutdown_kernel(now=True)")


@check("failure.last_words", needs=[Capability.CAPTURES_OUTPUT])
async def last_words(bench: Bench) -> None:
    """The last output of a kernel that exits at once is in an error, or in the log when the next
    call has come.

    If it fails: nobody but the server's terminal knows why the kernel died.
    """
    kernel = bench.kernel(bench.spec(bench.python(_DYING)))
    told = chain(await _error_of(kernel))
    if not told:
        await kernel.dead(10, "a kernel that exits at once")
        told = chain(await _error_of_awaiting(kernel.provisioner.wait()))
    expect(_WORDS in told + bench.log_text, "its last words are neither in an error nor in the log")


async def _error_of_awaiting(awaitable: Any) -> BaseException | None:
    try:
        await within(5, awaitable, "wait() after the kernel's end")
    except Exception as error:
        return error
    return None


@check("failure.readiness", needs=[Capability.AWAITS_READINESS])
async def readiness(bench: Bench) -> None:
    """`start_kernel` raises if the kernel dies before it listens.

    If it fails: `post_launch` does not wait for the kernel.
    """
    kernel = bench.kernel(bench.spec(bench.python(_DYING)))
    expect(await _error_of(kernel) is not None, "start_kernel did not raise")


#: When to cancel: after so many rounds of the event loop, or after so many seconds.
_ROUNDS = (0, 1, 2, 3, 5, 8)
_SECONDS = (0.002, 0.01, 0.05, 0.2)


async def _cancelled(launch: Any, when: float) -> bool:
    """Cancel the launch then; whether it was cancelled (and not already done)."""
    task = asyncio.ensure_future(launch)
    if isinstance(when, int):
        for _ in range(when):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(when)
    task.cancel()
    try:
        await asyncio.wait_for(asyncio.shield(asyncio.wait([task])), 20)
    except asyncio.TimeoutError:
        expect(False, f"a launch cancelled after {_moment(when)} did not end within 20 s")
    if task.cancelled():
        return True
    problem = task.exception()
    expect(problem is None, f"a launch cancelled after {_moment(when)} raised {problem!r}")
    return False


def _moment(when: float) -> str:
    return f"{when} rounds of the loop" if isinstance(when, int) else f"{when:g} s"


@check("failure.cancelled")
async def cancelled(bench: Bench) -> None:
    """A `launch_kernel` that is cancelled, at whatever moment, leaves nothing; or it had been done
    and returns.

    If it fails: a thread or a task goes on making what nobody will remove. Wait for it, then undo.
    """
    caught = 0
    for when in (*_ROUNDS, *_SECONDS):
        kernel = bench.kernel()
        arguments = await kernel.manager._async_pre_start_kernel()
        launch = kernel.provisioner.launch_kernel(arguments[0], **arguments[1])
        if await _cancelled(launch, when):
            caught += 1
            # Something that was under way may come up after the cancelled call has returned.
            await asyncio.sleep(0.1)
            await kernel.gone(2, f"a launch cancelled after {_moment(when)}")
        await silently(kernel.provisioner.kill(restart=False), "kill() after a cancelled launch")
        await silently(kernel.provisioner.cleanup(restart=False), "cleanup() after it")
        await kernel.gone(5, f"a launch cancelled after {_moment(when)}, kill() and cleanup()")
    if caught <= 1:
        bench.notes.append("launch_kernel does not wait for anything that could be cancelled")


@check("failure.cancelled_start")
async def cancelled_start(bench: Bench) -> None:
    """A `start_kernel` that is cancelled, at whatever moment, leaves nothing after
    `shutdown_kernel(now=True)`, and no file with the key.

    If it fails: `cleanup(restart=False)` must remove what a cut-off `pre_launch`, `launch_kernel`
    or `post_launch` left.
    """
    for when in (*_ROUNDS, *_SECONDS):
        kernel = bench.kernel()
        await _cancelled(kernel.manager.start_kernel(), when)
        await silently(kernel.manager.shutdown_kernel(now=True), "shutdown_kernel(now=True)")
        await kernel.gone(5, f"a start cancelled after {_moment(when)}, and its shutdown")
        left = os.path.exists(kernel.identity.connection_file)
        expect(not left, f"a start cancelled after {_moment(when)} left the connection file")


@check("failure.cancelled_recovers")
async def cancelled_recovers(bench: Bench) -> None:
    """After a cancelled launch and a `cleanup`, the same manager and provisioner start a kernel.

    If it fails: a future or a flag of the cancelled launch is still set.
    """
    kernel = bench.kernel()
    arguments = await kernel.manager._async_pre_start_kernel()
    await _cancelled(kernel.provisioner.launch_kernel(arguments[0], **arguments[1]), 1)
    await silently(kernel.provisioner.kill(restart=False), "kill() after a cancelled launch")
    await silently(kernel.provisioner.wait(), "wait() after a cancelled launch", 5)
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup() after it")
    await kernel.start()
    await kernel.ready()
