"""The end of a kernel: asked, terminated, killed, crashed; and what is known of it after."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from kernel_provisioner_core.conformance.bench import KILL_LIMIT, Bench, Kernel
from kernel_provisioner_core.conformance.check import Level, check, expect, silently, within
from kernel_provisioner_core.conformance.checks.talk import BUSY
from kernel_provisioner_core.conformance.target import Capability

_STUBBORN = (
    "import signal\n"
    "for name in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
) + BUSY


@check("end.shutdown")
async def shutdown(bench: Bench) -> None:
    """A kernel that obeys the `shutdown_request` ends by itself: the manager sees it in `poll` and
    neither terminates nor kills it, and nothing is left.

    If it fails: `shutdown_requested` ended the kernel, or `poll` notices an exit too late.
    """
    kernel = await bench.start()
    await kernel.shutdown()
    forced = [call for call in kernel.story if call.startswith(("terminate", "kill"))]
    expect(not forced, f"the manager had to call {', '.join(forced)}")
    await kernel.gone(5, "shutdown_kernel()")


@check("end.shutdown_requested")
async def shutdown_requested(bench: Bench) -> None:
    """`shutdown_requested` ends nothing: the kernel gets its grace.

    If it fails: the kernel's own cleaning up (exit handlers, open files) is cut off.
    """
    kernel = await bench.start()
    for restart in (True, False):
        await silently(
            kernel.provisioner.shutdown_requested(restart=restart), "shutdown_requested()"
        )
    await asyncio.sleep(0.5)
    expect(await kernel.running(), "shutdown_requested() ended the kernel")
    expect(await kernel.evaluate("6 * 7") == "42", "the kernel does not work any more")


@check("end.shutdown_stubborn")
async def shutdown_stubborn(bench: Bench) -> None:
    """A kernel that obeys neither the request nor SIGTERM is gone when `shutdown_kernel` returns,
    in time.

    If it fails: `kill` must not depend on the kernel's cooperation.
    """
    kernel = bench.kernel(shutdown_wait_time=1.0)
    await kernel.start()
    await kernel.ready()
    await kernel.client.printed(kernel.client.send(_STUBBORN), "busy")
    await kernel.shutdown()
    expect(not await kernel.running(), "the kernel runs after shutdown_kernel()")


@check("end.shutdown_twice")
async def shutdown_twice(bench: Bench) -> None:
    """A second `shutdown_kernel` does no harm.

    If it fails: a method raises when there is no kernel any more.
    """
    kernel = await bench.start()
    await kernel.shutdown()
    await silently(kernel.manager.shutdown_kernel(), "the second shutdown_kernel()")
    await silently(kernel.manager.shutdown_kernel(now=True), "the third shutdown_kernel()")


@check("end.has_process")
async def has_process(bench: Bench) -> None:
    """After a shutdown the manager has no kernel and says that it is not alive.

    If it fails: `has_process` stays true after `wait` and `cleanup`, or `poll` returns None.
    """
    kernel = await bench.start()
    await kernel.shutdown()
    expect(not await kernel.manager.is_alive(), "the manager says that the kernel is alive")
    expect(not kernel.manager.has_kernel, "has_process is true after the shutdown")


@check("end.terminate")
async def terminate(bench: Bench) -> None:
    """`terminate` ends a kernel that obeys SIGTERM, and `poll` shows it.

    If it fails: the manager waits half of the shutdown time and then kills.
    """
    kernel = await bench.start()
    await silently(kernel.provisioner.terminate(restart=False), "terminate()")
    await kernel.ended(KILL_LIMIT, "terminate()")
    await kernel.dead(KILL_LIMIT, "terminate()")


@check("end.kill")
async def kill(bench: Bench) -> None:
    """`kill` ends the kernel, also one that ignores SIGINT and SIGTERM.

    If it fails: send SIGKILL, or have the platform end it without grace.
    """
    kernel = await bench.start()
    await kernel.client.printed(kernel.client.send(_STUBBORN), "busy")
    await silently(kernel.provisioner.kill(restart=False), "kill()")
    await kernel.ended(KILL_LIMIT, "kill()")


@check("end.kill_in_poll")
async def kill_in_poll(bench: Bench) -> None:
    """What `kill` did shows in `poll` within 5 s, jupyter_client's fixed limit.

    If it fails: do not wait for the platform's watch; `kill` knows what it did.
    """
    kernel = await bench.start()
    await silently(kernel.provisioner.kill(restart=False), "kill()")
    await kernel.ended(KILL_LIMIT, "kill()")
    await kernel.dead(KILL_LIMIT, "kill()")


@check("end.kill_descendants", needs=[Capability.KILLS_DESCENDANTS])
async def kill_descendants(bench: Bench) -> None:
    """A killed kernel's child processes end with it, at the latest in `cleanup(restart=False)`.

    If it fails: signal the process group; it still exists when its leader is dead.
    """
    kernel = await bench.start()
    await _spawn(kernel)
    await kernel.shutdown(now=True)
    await kernel.gone(5, "shutdown_kernel(now=True)")


async def _spawn(kernel: Kernel) -> None:
    """Have the kernel start a child that the interrupt before every shutdown does not end."""
    code = (
        "import subprocess, sys\n"
        "code = 'import signal, time; signal.signal(2, signal.SIG_IGN); print(flush=True); '\n"
        "code += 'time.sleep(120)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()"
    )
    expect((await kernel.execute(code)).status == "ok", "the kernel could not start a child")


@check("end.kill_removes_nothing")
async def kill_removes_nothing(bench: Bench) -> None:
    """`terminate` and `kill` remove nothing: the connection file stays and the kernel can be
    launched again with the same ports, ip and key.

    If it fails: only `cleanup(restart=False)` may remove; a restart passes by here too.
    """
    kernel = await bench.start()
    address = kernel.address
    had_file = os.path.exists(kernel.identity.connection_file)
    await kernel.provisioner.terminate(restart=False)
    await kernel.dead(KILL_LIMIT, "terminate()")
    await kernel.provisioner.kill(restart=False)
    has_file = os.path.exists(kernel.identity.connection_file)
    expect(has_file or not had_file, "the connection file was removed")
    await within(10, kernel.provisioner.wait(), "wait() after the kernel's end")
    await kernel.provisioner.cleanup(restart=True)
    await kernel.start()
    expect(kernel.address == address, "the next launch has another address")
    await kernel.ready()


@check("end.exit_in_poll")
async def exit_in_poll(bench: Bench) -> None:
    """A kernel that ends by itself is seen in `poll` within 5 s, with no other call made.

    If it fails: nothing watches the kernel.
    """
    kernel = await bench.start()
    await kernel.exit(0)
    await kernel.ended(KILL_LIMIT, "os._exit(0)")
    await kernel.dead(KILL_LIMIT, "os._exit(0)")


@check("end.exit_code", needs=[Capability.EXIT_CODES])
async def exit_code(bench: Bench) -> None:
    """`poll` and `wait` give the kernel's own exit code.

    If it fails: report what the process ended with, not what the wrapper or the client did.
    """
    for code in (3, 0):
        kernel = await bench.start()
        await kernel.exit(code)
        polled = await kernel.dead(KILL_LIMIT, f"os._exit({code})")
        expect(polled == code, f"os._exit({code}) was reported as {polled!r} by poll()")
        waited = await within(5, kernel.provisioner.wait(), "wait() after the kernel's end")
        expect(waited == code, f"os._exit({code}) was reported as {waited!r} by wait()")


@check("end.exit_signal", needs=[Capability.EXIT_SIGNALS])
async def exit_signal(bench: Bench) -> None:
    """An end by a signal N is told as -N or 128+N.

    If it fails: an end by SIGKILL that looks like an ordinary exit hides that memory ran out.
    """
    kernel = await bench.start()
    await kernel.crash()
    polled = await kernel.dead(KILL_LIMIT, "SIGKILL")
    expect(polled in (-9, 137), f"SIGKILL was reported as {polled!r}")


@check("end.wait")
async def wait(bench: Bench) -> None:
    """`wait` returns when the kernel has ended, not before, and within a second, with what `poll`
    says.

    If it fails: it never wakes, or it does not wait.
    """
    kernel = await bench.start()
    waiting = asyncio.ensure_future(kernel.provisioner.wait())
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    expect(not done, "wait() returned while the kernel runs")
    await kernel.exit(0)
    await kernel.ended(KILL_LIMIT, "os._exit(0)")
    waited = await within(3, waiting, "wait() after the kernel's end")
    polled = await kernel.provisioner.poll()
    expect(polled is not None, "after wait(), poll() says that the kernel runs")
    if Capability.EXIT_CODES in bench.target.claims:
        expect(waited == 0, f"os._exit(0) was reported as {waited!r} by wait()")


@check("end.wait_again")
async def wait_again(bench: Bench) -> None:
    """`wait` after the end returns at once, also the second time.

    If it fails: what wakes it was used up by the first call.
    """
    kernel = await bench.start()
    await kernel.exit(0)
    await kernel.dead(KILL_LIMIT, "os._exit(0)")
    for which in ("first", "second"):
        await silently(kernel.provisioner.wait(), f"the {which} wait()", 3)


@check("end.wait_cancelled")
async def wait_cancelled(bench: Bench) -> None:
    """A `wait` that is cancelled leaves everything as it was: the kernel runs, and a later `wait`
    works. jupyter_client cancels it by its time limits.

    If it fails: the cancellation reaches the shared future behind it; shield that.
    """
    kernel = await bench.start()
    for _ in range(2):
        try:
            await asyncio.wait_for(kernel.provisioner.wait(), 0.2)
        except asyncio.TimeoutError:
            continue
        expect(False, "wait() returned while the kernel runs")
    expect(await kernel.running(), "a cancelled wait() ended the kernel")
    await kernel.exit(0)
    await silently(kernel.provisioner.wait(), "wait() after the kernel's end", 5)


@check("end.signal_to_dead")
async def signal_to_dead(bench: Bench) -> None:
    """`send_signal` to a kernel that is dead is silent, whether its end was noticed yet or not.

    If it fails: the exception stops jupyter_client's shutdown, and its auto-restart, for good.
    """
    kernel = await bench.start()
    await kernel.crash()
    await silently(kernel.provisioner.send_signal(signal.SIGINT), "send_signal() to a dead kernel")
    await kernel.dead(KILL_LIMIT, "a crash")
    await silently(kernel.provisioner.send_signal(signal.SIGINT), "send_signal() to a dead kernel")
    await silently(kernel.provisioner.wait(), "wait() after the kernel's end", 5)
    await silently(kernel.provisioner.send_signal(signal.SIGINT), "send_signal() to a dead kernel")


@check("end.kill_dead")
async def kill_dead(bench: Bench) -> None:
    """`terminate` and `kill` of a kernel that is dead are silent, and again.

    If it fails: treat "no such process" as done.
    """
    kernel = await bench.start()
    await kernel.crash()
    for _ in range(2):
        await silently(kernel.provisioner.terminate(restart=False), "terminate() of a dead kernel")
        await silently(kernel.provisioner.kill(restart=False), "kill() of a dead kernel")
        await kernel.dead(KILL_LIMIT, "a crash")
    await kernel.provisioner.wait()
    await silently(kernel.provisioner.kill(restart=False), "kill() of a dead kernel")


@check("end.poll_stays")
async def poll_stays(bench: Bench) -> None:
    """Once `poll` has told the end, it does not say again that the kernel runs: not after `wait`,
    and not after `cleanup`.

    If it fails: the manager waits for a kernel that is gone.
    """
    kernel = await bench.start()
    await kernel.provisioner.kill(restart=False)
    await kernel.dead(KILL_LIMIT, "kill()")
    await silently(kernel.provisioner.wait(), "wait() after the kernel's end", 5)
    expect(await kernel.provisioner.poll() is not None, "after wait(), poll() returned None")
    await silently(kernel.provisioner.cleanup(restart=False), "cleanup()")
    expect(await kernel.provisioner.poll() is not None, "after cleanup(), poll() returned None")


@check("end.poll_prompt", Level.SHOULD)
async def poll_prompt(bench: Bench) -> None:
    """`poll` shows an exit within half a second.

    If it fails: the manager's shutdown and its restart wait for this.
    """
    kernel = await bench.start()
    await kernel.exit(0)
    await kernel.ended(KILL_LIMIT, "os._exit(0)")
    begun = time.monotonic()
    await kernel.dead(KILL_LIMIT, "os._exit(0)")
    late = time.monotonic() - begun
    expect(late < 0.5, f"poll() showed the exit {late:.1f} s after it")
