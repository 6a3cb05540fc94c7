"""Interrupting what the kernel runs."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from typing import Any

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import CheckSkipped, check, expect
from kernel_provisioner_core.conformance.checks.talk import BUSY
from kernel_provisioner_core.conformance.target import Capability

#: Seconds within which an interrupt must have ended what runs.
LIMIT = 8.0

_SYSTEM = "print('busy', flush=True); import os; os.system('sleep 60')"
_SUBPROCESS = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('busy', flush=True)\n"
    "child.wait()"
)


async def _interrupted(kernel: Kernel, code: str, what: str) -> None:
    """Interrupt the code by the manager, and see the kernel answer the next request."""
    request = kernel.client.send(code)
    await kernel.client.printed(request, "busy")
    # What was printed says that the line was reached, not that the sleep or the child in it has begun:
    # ipykernel sends it before its print returns, and nothing tells from outside when code sleeps.
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    await kernel.manager.interrupt_kernel()
    try:
        await kernel.client.reply(request, LIMIT)
    except AssertionError:
        expect(False, f"{what} was not interrupted within {LIMIT:g} s")
    expect(time.monotonic() - begun < LIMIT, f"{what} was interrupted too late")
    expect(await kernel.evaluate("6 * 7") == "42", "the kernel does not work after the interrupt")


@check("interrupt.sleep", needs=[Capability.INTERRUPT])
async def sleep(bench: Bench) -> None:
    """An interrupt ends Python code that the kernel runs, as KeyboardInterrupt.

    If it fails: SIGINT must reach the kernel's process; a shell between may have it ignored.
    """
    kernel = await bench.start()
    request = kernel.client.send(BUSY)
    await kernel.client.printed(request, "busy")
    await kernel.manager.interrupt_kernel()
    reply = await kernel.client.reply(request, LIMIT)
    expect(reply.error == "KeyboardInterrupt", f"it ended as {reply.status} {reply.error}")


@check("interrupt.message")
async def message(bench: Bench) -> None:
    """A kernel whose kernelspec says `interrupt_mode: message` is interrupted by the manager's
    message, past the provisioner.

    If it fails: the control port does not lead to the kernel while it is busy.
    """
    kernel = await bench.start(bench.spec(interrupt_mode="message"))
    await _interrupted(kernel, BUSY, "time.sleep, by message,")
    signals = [str(call) for call in kernel.calls if call.name == "send_signal"]
    expect(not signals, f"the manager called {signals} though it should not need to")


@check("interrupt.idle", needs=[Capability.INTERRUPT])
async def idle(bench: Bench) -> None:
    """An interrupt of a kernel that does nothing does it no harm.

    If it fails: the signal ends the kernel; it was sent to a wrapper, or before the kernel was up.
    """
    kernel = await bench.start()
    for _ in range(3):
        await kernel.manager.interrupt_kernel()
    expect(await kernel.evaluate("6 * 7") == "42", "the kernel does not work after the interrupt")


@check("interrupt.again", needs=[Capability.INTERRUPT])
async def again(bench: Bench) -> None:
    """A kernel can be interrupted many times.

    If it fails: the way of the signal is used up by the first one.
    """
    kernel = await bench.start()
    for _ in range(3):
        await _interrupted(kernel, BUSY, "time.sleep, again,")


@check("interrupt.subprocess", needs=[Capability.INTERRUPT_CHILDREN])
async def subprocess(bench: Bench) -> None:
    """An interrupt ends a child process for which the kernel waits.

    If it fails: signal the kernel's process group, not the kernel alone.
    """
    kernel = await bench.start()
    await _interrupted(kernel, _SUBPROCESS, "waiting for a child")
    reply = await kernel.execute("print(child.wait(5))")
    expect(reply.status == "ok", "the child did not end by the interrupt of its parent")


@check("interrupt.system", needs=[Capability.INTERRUPT_CHILDREN])
async def system(bench: Bench) -> None:
    """An interrupt ends what the kernel runs by `os.system`.

    If it fails: while `os.system` runs the kernel ignores SIGINT, so it must reach the child too:
    signal the process group.
    """
    await _interrupted(await bench.start(), _SYSTEM, "os.system('sleep 60')")


def _wrapped(bench: Bench) -> Any:
    # The kernel is a child of the shell: with a command after it the shell does not exec it.
    return bench.spec(["/bin/sh", "-c", f"{shlex.join(bench.target.kernel_argv)}; exit $?"])


@check("interrupt.wrapped", needs=[Capability.INTERRUPT_WRAPPED])
async def wrapped(bench: Bench) -> None:
    """An interrupt reaches the kernel also when argv is wrapped in `sh -c`, and the shell and the
    kernel survive it.

    If it fails: the signal went to the shell alone, or the shell died of it.
    """
    kernel = await bench.start(_wrapped(bench))
    await _interrupted(kernel, BUSY, "time.sleep in a kernel under a shell")
    polled = await kernel.provisioner.poll()
    expect(polled is None, f"the kernel runs, but poll() returned {polled!r}")


@check(
    "interrupt.wrapped_system",
    needs=[Capability.INTERRUPT_WRAPPED, Capability.INTERRUPT_CHILDREN],
)
async def wrapped_system(bench: Bench) -> None:
    """An interrupt ends `os.system` also when argv is wrapped in `sh -c`.

    If it fails: signal the process group of the whole, or all descendants.
    """
    await _interrupted(await bench.start(_wrapped(bench)), _SYSTEM, "os.system under a shell")


@check("interrupt.any_signal", needs=[Capability.SIGNALS])
async def any_signal(bench: Bench) -> None:
    """`send_signal` delivers the signal that it is given.

    If it fails: all signals are taken for SIGINT.
    """
    kernel = await bench.start()
    code = "import signal; got = []; signal.signal(signal.SIGUSR1, lambda *a: got.append(1))"
    await kernel.execute(code)
    await kernel.manager.signal_kernel(signal.SIGUSR1)
    request = "import time\nfor _ in range(100):\n    if got: break\n    time.sleep(0.05)"
    await kernel.execute(request)
    expect(await kernel.evaluate("len(got)") == "1", "SIGUSR1 did not arrive, or not once")


async def _ipykernel(bench: Bench) -> Kernel:
    argv = bench.target.ipykernel_argv
    if argv is None:
        raise CheckSkipped("the target has no ipykernel")
    return await bench.start(bench.spec(argv))


@check("interrupt.ipykernel", needs=[Capability.INTERRUPT])
async def ipykernel(bench: Bench) -> None:
    """An interrupt ends `time.sleep` in ipykernel.

    If it fails: see whether the same works with the suite's tiny kernel (interrupt.sleep).
    """
    await _interrupted(await _ipykernel(bench), BUSY, "time.sleep in ipykernel")


@check("interrupt.ipykernel_shell", needs=[Capability.INTERRUPT_CHILDREN])
async def ipykernel_shell(bench: Bench) -> None:
    """An interrupt ends `!sleep 60` and `os.system('sleep 60')` in ipykernel.

    If it fails: signal the process group; see interrupt.system.
    """
    kernel = await _ipykernel(bench)
    await _interrupted(kernel, "print('busy', flush=True)\n!sleep 60", "!sleep 60 in ipykernel")
    await _interrupted(kernel, _SYSTEM, "os.system('sleep 60') in ipykernel")
