"""Persistence: another process takes over a running kernel by its info."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kernel_provisioner_core.conformance.bench import KILL_LIMIT, Bench, Kernel
from kernel_provisioner_core.conformance.check import (
    CheckFailed,
    Level,
    check,
    expect,
    silently,
    until,
    within,
)
from kernel_provisioner_core.conformance.checks.interrupt import LIMIT
from kernel_provisioner_core.conformance.checks.talk import BUSY
from kernel_provisioner_core.conformance.probe import OBSERVER
from kernel_provisioner_core.conformance.target import Capability

_SCRIPT = Path(__file__).parents[1] / "adopt.py"


@check("persistence.json", Level.SHOULD)
async def as_json(bench: Bench) -> None:
    """`get_provisioner_info` of a running kernel can be written as JSON.

    If it fails: bytes, such as the key in the connection info, must be text in it. (A SHOULD,
    since jupyter_client's own base class gives bytes; who claims persistence needs it.)
    """
    kernel = await bench.start()
    await _info(kernel)


async def _info(kernel: Kernel) -> Any:
    """The info, through JSON and back."""
    info = await silently(kernel.provisioner.get_provisioner_info(), "get_provisioner_info()")
    expect(isinstance(info, dict), "get_provisioner_info() did not return a dict")
    try:
        return json.loads(json.dumps(info))
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"the info is not JSON: {error}") from error


@check("persistence.load")
async def load(bench: Bench) -> None:
    """What `get_provisioner_info` gave can be loaded by a new provisioner, through JSON or not.

    If it fails: `load_provisioner_info` must take what the other one gives.
    """
    kernel = await bench.start()
    info = await kernel.provisioner.get_provisioner_info()
    other = bench.provisioner(kernel_id=kernel.id)
    await silently(other.load_provisioner_info(info), "load_provisioner_info()")
    if Capability.PERSISTENCE in bench.target.claims:
        another = bench.provisioner(kernel_id=kernel.id)
        await silently(another.load_provisioner_info(await _info(kernel)), "load_provisioner_info")


class _Adopter:
    """The fresh process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, *call: Any) -> Any:
        """Call a method of the provisioner over there; its result."""
        answer = await self.try_(*call)
        expect(
            "error" not in answer, f"in a fresh process {call[0]}() raised {answer.get('error')}"
        )
        return answer["result"]

    async def try_(self, *call: Any) -> dict[str, Any]:
        """Call a method of the provisioner over there; ``result`` or ``error``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        line = await within(20, self._process.stdout.readline(), f"{call[0]}() in a fresh process")
        expect(line, f"the fresh process ended at {call[0]}()")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _source(found: type[Any]) -> str | None:
    try:
        return inspect.getsourcefile(found)
    except (OSError, TypeError):
        return None


@asynccontextmanager
async def _fresh_process(kernel: Kernel) -> AsyncIterator[_Adopter]:
    """A fresh process with a provisioner of the same class, into which nothing is loaded yet."""
    found = kernel.bench.target.load()
    task = {
        "module": found.__module__,
        "qualname": found.__qualname__,
        "file": _source(found),
        "path": sys.path,
        "kernel_id": kernel.id,
        "kernel_spec": kernel.spec.to_dict(),
        "config": dict(kernel.bench.target.config),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(_SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
        env={**os.environ, OBSERVER: "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(task).encode() + b"\n")
        what = "making the provisioner in a fresh process"
        line = await within(20, process.stdout.readline(), what, whole=True)
        expect(line, f"{what} failed; its error is on stderr")
        yield _Adopter(process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _adopted(bench: Bench) -> AsyncIterator[tuple[Kernel, _Adopter]]:
    """A running kernel, and a fresh process that has loaded its info."""
    kernel = await bench.start(independent=True)
    async with _fresh_process(kernel) as adopter:
        await adopter.ask("load_provisioner_info", await _info(kernel))
        yield kernel, adopter


@check("persistence.fresh_poll", needs=[Capability.PERSISTENCE])
async def fresh_poll(bench: Bench) -> None:
    """In a fresh process that has loaded the info, `has_process` is true, `poll` says that the
    kernel runs, and tells its end within 5 s of it.

    If it fails: the info must say where the kernel is, not only which ports it has.
    """
    async with _adopted(bench) as (kernel, adopter):
        expect(await adopter.ask("has_process"), "in a fresh process has_process is not true")
        polled = await adopter.ask("poll")
        expect(polled is None, f"the kernel runs, but in a fresh process poll() says {polled!r}")
        await kernel.exit(0)
        await kernel.ended(KILL_LIMIT, "os._exit(0)")

        async def told() -> bool:
            return await adopter.ask("poll") is not None

        await until(KILL_LIMIT, told, "the kernel's end in poll() of a fresh process")


@check("persistence.fresh_signal", needs=[Capability.PERSISTENCE, Capability.INTERRUPT])
async def fresh_signal(bench: Bench) -> None:
    """A fresh process that has loaded the info can interrupt the kernel.

    If it fails: the info must hold what is signalled: the pid and the group, the container, ...
    """
    async with _adopted(bench) as (kernel, adopter):
        request = kernel.client.send(BUSY)
        await kernel.client.printed(request, "busy")
        await adopter.ask("send_signal", 2)
        reply = await kernel.client.reply(request, LIMIT)
        expect(reply.error == "KeyboardInterrupt", f"it ended as {reply.status} {reply.error}")


@check("persistence.fresh_kill", needs=[Capability.PERSISTENCE])
async def fresh_kill(bench: Bench) -> None:
    """A fresh process that has loaded the info can end the kernel and clean up after it.

    If it fails: the info must hold all that `kill`, `wait` and `cleanup` need.
    """
    async with _adopted(bench) as (kernel, adopter):
        await adopter.ask("kill", False)
        await kernel.ended(KILL_LIMIT, "kill() in a fresh process")
        await adopter.ask("wait")
        await adopter.ask("cleanup", False)
        expect(await adopter.ask("poll") is not None, "after cleanup(), poll() returned None")


@check("persistence.fresh_address", needs=[Capability.PERSISTENCE])
async def fresh_address(bench: Bench) -> None:
    """After the info is loaded in a fresh process, `connection_info` there has the ports, the ip
    and the key, as bytes, of the kernel.

    If it fails: the key is text in JSON; make it bytes again in `load_provisioner_info`.
    """
    async with _adopted(bench) as (kernel, adopter):
        address = await adopter.ask("address")
        expected = {**kernel.address, "key": kernel.address["key"].decode()}
        wrong = [name for name, value in expected.items() if address.get(name) != value]
        expect(not wrong, f"in a fresh process these are others: {', '.join(wrong)}")


@check("persistence.untouched", needs=[Capability.PERSISTENCE])
async def untouched(bench: Bench) -> None:
    """A fresh process that loads the info and ends without a call does the kernel no harm.

    If it fails: something that ends with the process, or its `__del__`, ends the kernel.
    """
    async with _adopted(bench) as (kernel, adopter):
        await adopter.ask("poll")
    expect(await kernel.running(), "the kernel ended with the fresh process")
    expect(await kernel.evaluate("6 * 7") == "42", "the kernel does not work any more")


@check("persistence.ended", needs=[Capability.PERSISTENCE])
async def ended(bench: Bench) -> None:
    """The info of a kernel that has ended meanwhile is refused by `load_provisioner_info`, or
    `poll` says then that it has ended.

    If it fails: another process may have got the pid; compare its start time as well.
    """
    kernel = await bench.start(independent=True)
    info = await _info(kernel)
    await kernel.shutdown(now=True)
    async with _fresh_process(kernel) as adopter:
        loaded = await adopter.try_("load_provisioner_info", info)
        if "error" not in loaded:
            expect(await adopter.ask("poll") is not None, "poll() says that an ended kernel runs")
            await adopter.ask("cleanup", False)
