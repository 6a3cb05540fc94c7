"""CurveZMQ, as the manager's `transport_encryption` and the kernelspec ask for it."""

from __future__ import annotations

import asyncio
from typing import Any

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import CheckFailed, CheckSkipped, check, expect
from kernel_provisioner_core.conformance.client import Client
from kernel_provisioner_core.conformance.target import Capability

_CURVE = ("curve_publickey", "curve_secretkey")


def _curve_spec(bench: Bench) -> Any:
    return bench.spec(metadata=_supported(bench))


def _supported(bench: Bench) -> dict[str, Any]:
    metadata = bench.encrypted()
    if metadata is None:
        raise CheckSkipped("this pyzmq or this jupyter_client has no encryption")
    return metadata


def _keys(kernel: Kernel) -> list[Any]:
    return [kernel.info.get(name) for name in _CURVE]


@check("encryption.required")
async def required(bench: Bench) -> None:
    """With `transport_encryption="required"` the kernel is encrypted, or the launch is refused.

    If it fails: the user believes that the connection is encrypted, and it is not.
    """
    kernel = bench.kernel(_curve_spec(bench))
    try:
        await kernel.start(transport_encryption="required")
    except CheckFailed:
        raise
    except Exception:
        expect(Capability.ENCRYPTION not in bench.target.claims, "the launch was refused")
        return
    expect(all(_keys(kernel)), "the kernel was launched without encryption")
    await kernel.ready()


@check("encryption.required_unsupported")
async def required_unsupported(bench: Bench) -> None:
    """With `transport_encryption="required"` and a kernelspec that does not claim `curve`, the launch
    is refused, and nothing is left.

    If it fails: jupyter_client refuses it before `pre_launch`; see what was made before that.
    """
    _supported(bench)
    kernel = bench.kernel()
    try:
        await kernel.start(transport_encryption="required")
    except CheckFailed:
        raise
    except Exception:
        await kernel.gone(2, "a refused launch")
        return
    expect(False, "the kernel was launched")


@check("encryption.disabled")
async def disabled(bench: Bench) -> None:
    """With `transport_encryption="disabled"`, the default, there are no Curve keys.

    If it fails: kernels and clients that know nothing of CurveZMQ cannot connect.
    """
    kernel = await bench.start(_curve_spec(bench))
    expect(not any(_keys(kernel)), "there are Curve keys though nobody asked for encryption")


@check("encryption.auto", needs=[Capability.ENCRYPTION])
async def auto(bench: Bench) -> None:
    """With `auto` and a kernelspec whose `supported_encryption` has `curve`, the launch info has
    Curve keys and the kernel answers encrypted.

    If it fails: see whether the keys are in the file that the kernel reads, as text.
    """
    kernel = await bench.start(_curve_spec(bench), transport_encryption="auto")
    expect(all(isinstance(key, str) and len(key) == 40 for key in _keys(kernel)), "no Curve keys")
    expect(await kernel.evaluate("6 * 7") == "42", "print(6 * 7) did not print 42")


@check("encryption.unsupported", needs=[Capability.ENCRYPTION])
async def unsupported(bench: Bench) -> None:
    """With `auto` and a kernelspec that does not claim `curve`, the kernel is not encrypted.

    If it fails: the kernel does not read the keys, and nobody can connect.
    """
    _supported(bench)
    kernel = await bench.start(transport_encryption="auto")
    expect(not any(_keys(kernel)), "there are Curve keys though the kernel does not support them")


@check("encryption.refuses_plain", needs=[Capability.ENCRYPTION])
async def refuses_plain(bench: Bench) -> None:
    """An encrypted kernel does not answer a client without the Curve keys.

    If it fails: the keys are in the info, but the kernel was not given them.
    """
    kernel = bench.kernel(_curve_spec(bench))
    await kernel.start(transport_encryption="auto")
    info = dict(kernel.manager.get_connection_info())
    for name in _CURVE:
        info.pop(name, None)

    class Plain:
        log = bench.log

        def get_connection_info(self) -> Any:
            return info

    client = Client.of(Plain(), bench.context)
    client.channels.kernel_info()
    answer = asyncio.ensure_future(_answers(client, bench.target.launch_limit + 1))
    ready = asyncio.ensure_future(kernel.ready())
    try:
        await asyncio.wait([answer, ready], return_when=asyncio.FIRST_COMPLETED)
        expect(not answer.done(), "the kernel answered a client that does not encrypt")
        # It is up now, so it could answer both.
        await ready
        await asyncio.wait([answer], timeout=1)
        expect(not answer.done(), "the kernel answered a client that does not encrypt")
    finally:
        for task in (answer, ready):
            task.cancel()
        await asyncio.gather(answer, ready, return_exceptions=True)
        client.close()


async def _answers(client: Client, limit: float) -> None:
    """Until the kernel answers; or this fails, after the limit."""
    await client.channels.get_shell_msg(timeout=limit)


@check("encryption.restart", needs=[Capability.ENCRYPTION])
async def restart(bench: Bench) -> None:
    """The Curve keys are the same after a restart, and clients that stayed connected reach the new
    kernel.

    If it fails: make keys only if the manager has none.
    """
    kernel = await bench.start(_curve_spec(bench), transport_encryption="auto")
    keys = _keys(kernel)
    for now in (False, True):
        await kernel.restart(now=now)
        expect(_keys(kernel) == keys, "the restart changed the Curve keys")
        await kernel.client.ready(bench.target.launch_limit)


@check("encryption.keys_differ", needs=[Capability.ENCRYPTION])
async def keys_differ(bench: Bench) -> None:
    """Two kernels have different Curve keys.

    If it fails: the keys are fixed, or belong to the process.
    """
    first = await bench.start(_curve_spec(bench), transport_encryption="auto")
    second = await bench.start(_curve_spec(bench), transport_encryption="auto")
    expect(_keys(first) != _keys(second), "two kernels have the same Curve keys")
