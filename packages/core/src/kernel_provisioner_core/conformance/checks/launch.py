"""The launch, and what it returns."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.calls import Call
from kernel_provisioner_core.conformance.check import CheckSkipped, Level, check, expect, until
from kernel_provisioner_core.conformance.target import Capability

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@check("launch.answers")
async def answers(bench: Bench) -> None:
    """A kernel that the manager starts answers a `kernel_info_request` on shell and is heard on
    iopub.

    If it fails: see which of the five ports nothing listens on, and whether the kernel and the
    manager have the same key.
    """
    content = await (await bench.start()).ready()
    expect(content.get("status") == "ok", "the kernel's info is not ok")


@check("launch.has_process")
async def has_process(bench: Bench) -> None:
    """`has_process` is true as soon as `launch_kernel` has returned.

    If it fails: jupyter_client asserts this, and gives up the launch.
    """
    kernel = bench.kernel()
    seen: list[bool] = []

    def look(call: Call) -> None:
        if call.name == "launch_kernel":
            seen.append(kernel.provisioner.has_process)

    kernel.on_call(look)
    try:
        await kernel.start()
    except Exception:
        # jupyter_client refuses such a launch, or this one for another reason.
        if not seen:
            raise
    expect(seen == [True], "has_process is not true after launch_kernel")


@check("launch.pre_launch")
async def pre_launch(bench: Bench) -> None:
    """`pre_launch` returns the keyword arguments for the launch, with `cmd`, a list of strings, and
    `env`, a mapping.

    If it fails: return the `kwargs` that came in, with these two set.
    """
    kernel = bench.kernel()
    await kernel.start()
    kwargs = next(call.result for call in kernel.calls if call.name == "pre_launch")
    expect(isinstance(kwargs, dict), "pre_launch() did not return a dict")
    command = next(call.args for call in kernel.calls if call.name == "launch_kernel")[0]
    strings = isinstance(command, list) and all(isinstance(part, str) for part in command)
    expect(strings and command, "cmd is not a list of strings")
    expect(hasattr(kwargs.get("env"), "items"), "there is no env in what pre_launch() returned")


@check("launch.info_types")
async def info_types(bench: Bench) -> None:
    """The launch info has five ports as int, `ip`, `transport` and `signature_scheme` as str, the
    `key` as bytes, and Curve keys, if any, as str.

    If it fails: jupyter_client compares these values with its own by `==`; the wrong type makes it
    rewrite the connection file under the kernel's feet, or refuse the launch.
    """
    info = await _launched(bench)
    wrong = [name for name in PORTS if type(info.get(name)) is not int]
    wrong += [n for n in ("ip", "transport", "signature_scheme") if type(info.get(n)) is not str]
    wrong += ["key"] if type(info.get("key")) is not bytes else []
    curve = ("curve_publickey", "curve_secretkey")
    wrong += [name for name in curve if not isinstance(info.get(name), (str, type(None)))]
    types = [f"{name} is {type(info.get(name)).__name__}" for name in wrong]
    expect(not wrong, "; ".join(types))


async def _launched(bench: Bench) -> dict[str, Any]:
    kernel = bench.kernel()
    try:
        await kernel.start()
    except Exception as error:
        # jupyter_client refuses wrong info: the check says what is wrong in it.
        if not any(call.name == "launch_kernel" and call.result for call in kernel.calls):
            raise
        bench.notes.append(f"the manager refused the launch: {type(error).__name__}")
    return kernel.info


@check("launch.ports")
async def ports(bench: Bench) -> None:
    """The five ports are different from each other and can be dialled.

    If it fails: two channels share a port, or a port is 0.
    """
    info = await _launched(bench)
    numbers = [info.get(name) for name in PORTS]
    expect(len(set(numbers)) == 5, "two channels have the same port")
    expect(all(isinstance(n, int) and 0 < n < 65536 for n in numbers), f"ports are {numbers}")


@check("launch.key")
async def key(bench: Bench) -> None:
    """Messages are signed: the key has at least 128 bits' worth of characters.

    If it fails: an empty key switches the signatures off, and whoever reaches a port runs code.
    """
    info = await _launched(bench)
    expect(len(info.get("key") or "") >= 16, "the key is empty or short")


@check("launch.key_differs")
async def key_differs(bench: Bench) -> None:
    """Two kernels have different keys.

    If it fails: the key is fixed, or belongs to a pool.
    """
    first, second = bench.kernel(), bench.kernel()
    await first.start()
    await second.start()
    expect(first.info["key"] != second.info["key"], "two kernels have the same key")


@check("launch.reconciled")
async def reconciled(bench: Bench) -> None:
    """The launch info is what the manager already has: jupyter_client does not rewrite the
    connection file after the launch, and ports, ip and key stay as they were before it.

    If it fails: set the manager's ports, ip and key in `pre_launch`, and return the same from
    `launch_kernel`. The kernel may read the file just while it is rewritten.
    """
    kernel = bench.kernel()
    before: dict[str, Any] = {}

    def look(call: Call) -> None:
        if call.name == "pre_launch":
            before["address"] = kernel.address
        if call.name == "launch_kernel":
            before["file"] = _stamp(kernel)

    kernel.on_call(look)
    await kernel.start()
    changed = [k for k, v in kernel.address.items() if before["address"].get(k) != v]
    expect(not changed, f"the launch changed the manager's {', '.join(changed)}")
    if before["file"] is not None:
        expect(before["file"] == _stamp(kernel), "the connection file was written again")


def _stamp(kernel: Kernel) -> tuple[int, int] | None:
    path = Path(kernel.identity.connection_file)
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


@check("launch.poll")
async def poll(bench: Bench) -> None:
    """`poll` returns None while the kernel runs, and the probe sees the kernel running.

    If it fails: the manager takes anything else for the kernel's exit code and restarts it.
    """
    kernel = await bench.start()
    expect(await kernel.running(), "the probe does not see the kernel's process running")
    for _ in range(3):
        polled = await kernel.provisioner.poll()
        expect(polled is None, f"the kernel runs, but poll() returned {polled!r}")


@check("launch.poll_is_free")
async def poll_is_free(bench: Bench) -> None:
    """`poll` makes no request and does not wait: a thousand take less than a second.

    If it fails: it is called every 0.1 s during a shutdown and every 3 s by the restarter; answer
    from what a watch has learnt.
    """
    kernel = await bench.start()
    most = 0
    for _ in range(3):
        end, done = time.perf_counter() + 1, 0
        while done < 1000 and time.perf_counter() < end:
            await kernel.provisioner.poll()
            done += 1
        if done == 1000:
            return
        most = max(most, done)
    expect(False, f"only {most} calls of poll() in a second")


@check("launch.kernel_id")
async def kernel_id(bench: Bench) -> None:
    """The provisioner's `kernel_id` is the manager's.

    If it fails: the constructor drops the keyword argument.
    """
    kernel = bench.kernel()
    expect(kernel.provisioner.kernel_id == kernel.id, "kernel_id is another one")


@check("launch.factory")
async def factory(bench: Bench) -> None:
    """jupyter_client's own factory makes the provisioner from a kernelspec that names it, and
    launches a kernel.

    If it fails: look at the entry point in the group `jupyter_client.kernel_provisioners`.
    """
    if bench.target.entry_point is None:
        raise CheckSkipped("the target is a class, not an entry point")
    kernel = bench.kernel()
    kernel.manager.provisioner = None
    try:
        await kernel.start()
        made = kernel.manager.provisioner
        expect(type(made) is bench.target.load(), f"it made a {type(made).__name__}")
        await kernel.ready()
    finally:
        kernel.provisioner = kernel.manager.provisioner or kernel.provisioner


@check("launch.extra_arguments", Level.SHOULD)
async def extra_arguments(bench: Bench) -> None:
    """`start_kernel(extra_arguments=[...])` adds these to the kernel's argv.

    If it fails: take `extra_arguments` from the keyword arguments in `pre_launch`.
    """
    word = "--conformance-extra=1"
    kernel = await bench.start(extra_arguments=[word])
    expect(await kernel.evaluate(f"{word!r} in __import__('sys').argv") == "True", "not in argv")


@check("launch.again")
async def again(bench: Bench) -> None:
    """The same manager and provisioner can start a kernel again after a shutdown.

    If it fails: something that `cleanup(restart=False)` removed or set is not made anew by
    `pre_launch`.
    """
    kernel = await bench.start()
    await kernel.shutdown()
    await kernel.start()
    kernel.new_client()
    await kernel.ready()


@check("launch.descriptors", Level.SHOULD)
async def descriptors(bench: Bench) -> None:
    """Starting and shutting down does not use up file descriptors.

    If it fails: a pipe, a socket or a pidfd is not closed in `cleanup(restart=False)`.
    """
    if not Path("/proc/self/fd").exists():
        raise CheckSkipped("there is no /proc/self/fd")
    counts = []
    for _ in range(4):
        kernel = bench.kernel()
        await kernel.start()
        await kernel.shutdown(now=True)
        counts.append(len(os.listdir("/proc/self/fd")))
    # The first round may open what the process keeps.
    expect(counts[-1] - counts[1] < 2, f"open descriptors after each of four rounds: {counts}")


@check("launch.ports_held", needs=[Capability.HOLDS_PORTS])
async def ports_held(bench: Bench) -> None:
    """From `pre_launch` until `cleanup(restart=False)`, also while no kernel listens, no other
    process can take one of the kernel's ports.

    If it fails: keep a socket bound to each port with SO_REUSEADDR, not listening.
    """
    kernel = bench.kernel()
    free: list[str] = []

    def look(call: Call) -> None:
        if call.name == "pre_launch":
            free.extend(f"{name} before the launch" for name in _takeable(kernel.address))

    kernel.on_call(look)
    await kernel.start()
    address = kernel.address
    expect(not free, f"another process could take: {', '.join(free)}")
    await kernel.crash()
    await kernel.dead(5, "a crash")
    free = _takeable(address)
    expect(not free, f"after a crash another process could take: {', '.join(free)}")
    await kernel.provisioner.cleanup(restart=True)
    free = _takeable(address)
    expect(not free, f"after cleanup(restart=True) another process could take: {', '.join(free)}")
    await kernel.shutdown(now=True)

    async def released() -> bool:
        return not _kept(address)

    try:
        await until(2, released, "released")
    except AssertionError:
        kept = ", ".join(_kept(address))
        expect(False, f"after cleanup(restart=False) nobody can take: {kept}")


def _takeable(address: dict[str, Any]) -> list[str]:
    """Which ports a stranger, who does not set SO_REUSEADDR, can bind."""
    return [name for name in PORTS if _binds(address["ip"], address[name])]


def _kept(address: dict[str, Any]) -> list[str]:
    """Which ports somebody holds, not counting the system, after connections that were closed."""
    return [
        name
        for name in set(PORTS) - set(_takeable(address))
        if not _only_waits(address["ip"], address[name])
    ]


def _binds(ip: str, port: int, *, reuse: bool = False) -> bool:
    """Whether the port can be bound; with ``reuse``, whether it can be listened on as well."""
    with socket.socket() as stranger:
        try:
            if reuse:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind((ip, port))
            if reuse:
                stranger.listen(1)
        except OSError:
            return False
    return True


def _only_waits(ip: str, port: int) -> bool:
    """Whether nothing but connections in TIME_WAIT keeps the port, as Linux tells.

    A socket that holds the port is in no table, and lets it be listened on too: it is looked for
    among those of this process, where a provisioner's are.
    """
    return _in_time_wait(port) and port not in _own_ports() and _binds(ip, port, reuse=True)


def _in_time_wait(port: int) -> bool:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            local, state = line.split()[1:4:2]
            if int(local.rpartition(":")[2], 16) == port and state == "06":
                return True
    return False


def _own_ports() -> set[int]:
    """The ports to which sockets of this process are bound."""
    ports = set()
    for number in (int(name) for name in os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            # Of a duplicate: what belongs to another is not closed here.
            with socket.socket(fileno=os.dup(number)) as own:
                if own.family in (socket.AF_INET, socket.AF_INET6):
                    ports.add(own.getsockname()[1])
        except OSError:  # closed meanwhile
            continue
    return ports
