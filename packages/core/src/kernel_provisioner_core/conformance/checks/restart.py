"""Restarts: by the manager, by its restarter after a crash, with clients that stay connected."""

from __future__ import annotations

import asyncio
import os
import signal

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager

from kernel_provisioner_core.conformance.bench import KILL_LIMIT, Bench, Kernel
from kernel_provisioner_core.conformance.check import check, expect, silently, until, within
from kernel_provisioner_core.conformance.checks.talk import beats


async def _came_back(kernel: Kernel) -> None:
    """The same client, still connected, gets replies and outputs of the new kernel."""
    limit = kernel.bench.target.launch_limit
    try:
        await kernel.client.ready(limit)
    except AssertionError as error:
        expect(False, f"a client that stayed connected does not reach the new kernel: {error}")
    expect(await kernel.evaluate("'old' in globals()") == "False", "it is the old kernel")


async def _marked(bench: Bench) -> Kernel:
    kernel = await bench.start()
    await kernel.execute("old = True")
    return kernel


@check("restart.clients_stay")
async def clients_stay(bench: Bench) -> None:
    """After a restart, clients that stayed connected get replies on shell and outputs on iopub, by
    the same sockets.

    If it fails: their websockets hang until the page is reloaded. Keep the ports, the ip and the
    key; see restart.same_address.
    """
    kernel = await _marked(bench)
    await kernel.restart()
    await _came_back(kernel)


@check("restart.same_address")
async def same_address(bench: Bench) -> None:
    """Ports, ip and key are the same after a restart, in the manager and in the launch info.

    If it fails: choose them in the first `pre_launch` only, and keep them until
    `cleanup(restart=False)`.
    """
    kernel = bench.kernel()
    await kernel.start()
    address = kernel.address
    for now in (False, True):
        await kernel.restart(now=now)
        changed = [name for name, value in address.items() if kernel.address[name] != value]
        changed += [name for name, value in address.items() if kernel.info.get(name) != value]
        expect(not changed, f"changed by a restart: {', '.join(dict.fromkeys(changed))}")


@check("restart.now")
async def now(bench: Bench) -> None:
    """`restart_kernel(now=True)` kills the kernel and brings up another one.

    If it fails: `kill(restart=False)`, which is what comes in a restart too, removed something.
    """
    kernel = await _marked(bench)
    await kernel.restart(now=True)
    await _came_back(kernel)


@check("restart.repeated")
async def repeated(bench: Bench) -> None:
    """A kernel can be restarted many times.

    If it fails: something of a former kernel is left in the way.
    """
    kernel = await bench.start()
    for _ in range(3):
        await kernel.execute("old = True")
        await kernel.restart()
        await _came_back(kernel)


@check("restart.heartbeat")
async def heartbeat(bench: Bench) -> None:
    """The heartbeat and the control channel answer after a restart.

    If it fails: not all of the five ports lead to the new kernel.
    """
    kernel = await bench.start()
    await kernel.restart(now=True)
    await _came_back(kernel)
    await beats(kernel)
    channels = kernel.client.channels
    channels.control_channel.send(channels.session.msg("kernel_info_request"))
    await within(10, channels.get_control_msg(timeout=10), "a reply on control after a restart")


@check("restart.grace")
async def grace(bench: Bench) -> None:
    """In an ordinary restart the provisioner gets `shutdown_requested(restart=True)` and
    `cleanup(restart=True)`, and an obedient kernel is not killed.

    If it fails: `poll` notices the exit too late, or `shutdown_requested` ends the kernel.
    """
    kernel = await bench.start()
    before = len(kernel.story)
    await kernel.restart()
    story = kernel.story[before:]
    forced = [call for call in story if call.startswith(("terminate", "kill"))]
    expect(not forced, f"the manager had to call {', '.join(forced)}")
    for call in ("shutdown_requested(restart=True)", "cleanup(restart=True)"):
        expect(call in story, f"the manager did not call {call}")


@check("restart.file_stays")
async def file_stays(bench: Bench) -> None:
    """`cleanup(restart=True)` keeps what a restart needs: the connection file, the ports, the key.

    If it fails: look at `restart`, and remove nothing if it is true.
    """
    kernel = await bench.start()
    address = kernel.address
    had_file = os.path.exists(kernel.identity.connection_file)
    await kernel.shutdown(now=True, restart=True)
    has_file = os.path.exists(kernel.identity.connection_file)
    expect(has_file or not had_file, "the connection file was removed")
    expect(kernel.address == address, "the manager's address changed")
    await kernel.start()
    await _came_back(kernel)


@check("restart.new_ports")
async def new_ports(bench: Bench) -> None:
    """`restart_kernel(newports=True)` brings up a kernel that answers at the manager's address.
    Whether the ports are other ones is the provisioner's choice.

    If it fails: the manager has set its ports to 0; choose anew, or put the held ones back.
    """
    kernel = await _marked(bench)
    await kernel.restart(now=True, newports=True)
    kernel.new_client()
    await _came_back(kernel)


@check("restart.environment")
async def environment(bench: Bench) -> None:
    """A restart is made with the arguments of the start, of which `update_env` changes the `env`.

    If it fails: the launch does not use the `env` that it is given, or keeps the first one.
    """
    from kernel_provisioner_core.conformance.target import Capability

    name = "KERNEL_PROVISIONER_CONFORMANCE_UPDATE"
    kernel = bench.kernel()
    await kernel.start(env={**os.environ, name: "old"})
    await kernel.ready()
    kernel.manager.update_env(env={name: "new"})
    await kernel.restart()
    await _came_back(kernel)
    if Capability.INHERITS_ENVIRONMENT in bench.target.claims:
        value = await kernel.evaluate(f"__import__('os').environ.get({name!r})")
        expect(value == "new", f"the environment variable is {value}")


@check("restart.crash_calls")
async def crash_calls(bench: Bench) -> None:
    """What jupyter_client's auto-restart calls after a crash works: `send_signal(2)`,
    `kill(restart=False)`, `wait`, `cleanup(restart=True)`, and a launch; never
    `shutdown_requested`, and with no other word that this is a restart.

    If it fails: whichever of these raises ends the auto-restart for good.
    """
    kernel = await _marked(bench)
    address = kernel.address
    await kernel.crash()
    await kernel.dead(KILL_LIMIT, "a crash")
    provisioner = kernel.provisioner
    await silently(provisioner.send_signal(signal.SIGINT), "send_signal(2) after a crash")
    await silently(provisioner.kill(restart=False), "kill(restart=False) after a crash")
    await silently(provisioner.wait(), "wait() after a crash", 5)
    await silently(provisioner.cleanup(restart=True), "cleanup(restart=True) after a crash")
    await kernel.start()
    expect(kernel.address == address, "the kernel that came back has another address")
    await _came_back(kernel)


@check("restart.auto")
async def auto(bench: Bench) -> None:
    """After `kill -9` of the kernel jupyter_client's own restarter brings it back at the same
    address, and clients that stayed connected reach it.

    If it fails: see restart.crash_calls for the call that fails, and the log.
    """
    kernel = bench.kernel(manager=AsyncIOLoopKernelManager)
    await kernel.start()
    await kernel.ready()
    restarter = kernel.manager._restarter
    restarter.stop()
    # Not the restarter of a start that has not settled: that one takes new ports.
    restarter.random_ports_until_alive = False
    restarter.time_to_dead = 0.3
    restarter.start()
    await kernel.execute("old = True")
    address = kernel.address
    before = len(kernel.story)
    await kernel.crash()

    async def launched() -> bool:
        return any(call.startswith("post_launch") for call in kernel.story[before:])

    limit = bench.target.launch_limit
    try:
        await until(limit, launched, "the auto-restart")
    except AssertionError:
        done = ", ".join(kernel.story[before:]) or "nothing"
        expect(False, f"no auto-restart within {limit:g} s; the restarter had called {done}")
    expect(kernel.address == address, "the kernel that came back has another address")
    await _came_back(kernel)
    await asyncio.sleep(0)
    story = kernel.story[before:]
    asked = [call for call in story if call.startswith("shutdown_requested")]
    if asked:
        bench.notes.append("this jupyter_client calls shutdown_requested in an auto-restart")
