"""jupyter_client's blocking manager, which runs every call in an event-loop run of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from jupyter_client.manager import KernelManager

from kernel_provisioner_core.conformance.bench import KILL_LIMIT, Bench, in_thread
from kernel_provisioner_core.conformance.check import Level, check, expect, within
from kernel_provisioner_core.conformance.checks.talk import BUSY
from kernel_provisioner_core.conformance.target import Capability

_LIMIT = 30.0


@check("manager.blocking")
async def blocking(bench: Bench) -> None:
    """A kernel lives its life with the blocking `KernelManager`: start, restart, restart now, stop.

    If it fails: see manager.threads; the blocking manager runs a loop only during a call.
    """
    kernel = bench.kernel(manager=KernelManager)

    def start() -> None:
        kernel.manager.start_kernel()
        kernel.manager.restart_kernel()
        kernel.manager.restart_kernel(now=True)

    await within(_LIMIT, in_thread(start), "start and restarts by the blocking manager")
    await kernel.ready()
    expect(await kernel.evaluate("6 * 7") == "42", "print(6 * 7) did not print 42")
    await within(_LIMIT, in_thread(kernel.manager.shutdown_kernel), "shutdown_kernel")
    await kernel.gone(5, "shutdown_kernel()")


@check("manager.threads")
async def threads(bench: Bench) -> None:
    """With the blocking manager each call may come in another thread, and so in another event
    loop, that ends with the call.

    If it fails: an asyncio object (Event, Lock, Future, Task, a client session) is kept on the
    provisioner; it belongs to the loop of the call that made it. Use threads of your own.
    """
    kernel = bench.kernel(manager=KernelManager)

    async def call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        what = f"{function.__name__}() in another thread"
        return await within(_LIMIT, in_thread(function, *arguments, **named), what)

    await call(kernel.manager.start_kernel)
    await kernel.ready()
    expect(await call(kernel.manager.is_alive), "is_alive() is false for a running kernel")
    if Capability.INTERRUPT in bench.target.claims:
        request = kernel.client.send(BUSY)
        await kernel.client.printed(request, "busy")
        await call(kernel.manager.interrupt_kernel)
        reply = await kernel.client.reply(request)
        expect(reply.error == "KeyboardInterrupt", "the interrupt did not arrive")
    await call(kernel.manager.restart_kernel)
    await kernel.ready()
    await kernel.crash()
    await call(asyncio.run, _dies(kernel.manager))
    await call(kernel.manager.restart_kernel, now=True)
    await kernel.ready()
    await call(kernel.manager.shutdown_kernel)
    await kernel.gone(5, "shutdown_kernel()")


async def _dies(manager: Any) -> None:
    """Until the manager sees that its kernel has died."""
    await asyncio.wait_for(manager._async_wait(), KILL_LIMIT)


@check("manager.in_loop")
async def in_loop(bench: Bench) -> None:
    """The blocking manager works inside a running event loop too, as in a notebook cell.

    If it fails: jupyter_client runs the calls in a loop of another thread then.
    """
    kernel = bench.kernel(manager=KernelManager)

    async def life() -> None:
        kernel.manager.start_kernel()
        kernel.manager.restart_kernel(now=True)

    await within(_LIMIT, in_thread(lambda: asyncio.run(life())), "start and restart in a loop")
    await kernel.ready()
    await within(
        _LIMIT, in_thread(lambda: asyncio.run(_shut_down(kernel.manager))), "shutdown in a loop"
    )
    await kernel.gone(5, "shutdown_kernel()")


async def _shut_down(manager: Any) -> None:
    manager.shutdown_kernel()


@check("manager.wait_elsewhere", Level.SHOULD)
async def wait_elsewhere(bench: Bench) -> None:
    """A `wait` in one thread and loop ends although the kernel is killed from another.

    If it fails: what wakes the waiting belongs to the loop that killed.
    """
    kernel = await bench.start()
    waiting = asyncio.ensure_future(in_thread(lambda: asyncio.run(kernel.provisioner.wait())))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    expect(not done, "wait() returned while the kernel runs")
    await kernel.provisioner.kill(restart=False)
    with contextlib.suppress(asyncio.CancelledError):
        await within(5, waiting, "wait() in another thread after kill()")
