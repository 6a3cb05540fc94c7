"""Before a first launch: making a provisioner, and calling it while there is no kernel."""

from __future__ import annotations

import inspect
import signal
from difflib import get_close_matches
from typing import Any

from kernel_provisioner_core.conformance.bench import Bench, in_thread
from kernel_provisioner_core.conformance.calls import COROUTINES
from kernel_provisioner_core.conformance.check import CheckSkipped, Level, check, expect, silently
from kernel_provisioner_core.conformance.target import Capability

_PLAIN = ("get_shutdown_wait_time", "get_stable_start_time", "resolve_path")


@check("before.methods")
async def methods(bench: Bench) -> None:
    """A provisioner has all the methods that jupyter_client calls: 12 coroutines, 3 plain ones and
    the property `has_process`.

    If it fails: derive the class from a base class of provisioners, or add what is missing.
    """
    provisioner = bench.provisioner()
    wrong = [name for name in COROUTINES if not _is_coroutine(provisioner, name)]
    wrong += [name for name in _PLAIN if not callable(getattr(provisioner, name, None))]
    expect(not wrong, f"missing, or not of the right kind: {', '.join(wrong)}")
    expect(isinstance(provisioner.has_process, bool), "has_process is not a bool")


def _is_coroutine(provisioner: Any, name: str) -> bool:
    return inspect.iscoroutinefunction(inspect.unwrap(getattr(provisioner, name, len)))


@check("before.no_kernelspec_no_parent")
async def no_kernelspec_no_parent(bench: Bench) -> None:
    """A provisioner can be made with `kernel_spec=None` and `parent=None`.

    If it fails: the constructor uses the kernelspec or the manager; do that in `pre_launch`.
    """
    provisioner = bench.provisioner(kernel_spec=None, parent=None)
    expect(not provisioner.has_process, "has_process is true without a kernel")
    await silently(provisioner.cleanup(restart=False), "cleanup() without a kernelspec")


@check("before.no_event_loop")
async def no_event_loop(bench: Bench) -> None:
    """A provisioner can be made in a thread that has no event loop.

    If it fails: the constructor makes an asyncio object, which belongs to one loop; the blocking
    manager uses several.
    """
    await in_thread(bench.provisioner)


@check("before.options")
async def options(bench: Bench) -> None:
    """The `config` of kernel.json arrives as keyword arguments of the constructor, and is kept.

    If it fails: the option is no trait of the class, or `__init__` drops keyword arguments.
    """
    if not bench.target.config:
        raise CheckSkipped("the target has no config")
    provisioner = bench.provisioner()
    lost = [name for name in bench.target.config if not hasattr(provisioner, name)]
    expect(not lost, f"not an attribute of the provisioner: {', '.join(lost)}")


@check("before.unknown_option", needs=[Capability.REJECTS_UNKNOWN_OPTIONS])
async def unknown_option(bench: Bench) -> None:
    """An unknown key in kernel.json's `config` is rejected when the provisioner is made, and the
    error names the key and the nearest option.

    If it fails: traitlets takes unknown keyword arguments with no more than a warning; compare them
    with the class's traits, and suggest one by `difflib.get_close_matches`.
    """
    names = sorted(bench.target.load().class_traits(config=True))
    # Mutilated so that it is near to one option and is no option itself.
    known = next((n for n in names if len(n) > 4 and n[:-1] not in names), "launch_timeout")
    unknown = known[:-1]
    nearest = get_close_matches(unknown, names, 1)
    spec = bench.spec()
    spec.metadata["kernel_provisioner"]["config"][unknown] = "1"
    try:
        bench.provisioner(kernel_spec=spec, **{unknown: "1"})
    except Exception as error:
        expect(unknown in str(error), f"the error does not name the key {unknown!r}: {error}")
        for name in nearest:
            expect(name in str(error), f"the error does not name the nearest option {name!r}")
        return
    expect(False, f"the unknown option {unknown!r} was swallowed")


@check("before.has_no_process")
async def has_no_process(bench: Bench) -> None:
    """`has_process` is false before the first launch.

    If it fails: the manager takes this for a running kernel and signals it.
    """
    expect(bench.provisioner().has_process is False, "has_process is true before a launch")


@check("before.poll")
async def poll(bench: Bench) -> None:
    """`poll` before the first launch returns a number and raises nothing.

    If it fails: None means that a kernel runs.
    """
    provisioner = bench.provisioner()
    polled = await silently(provisioner.poll(), "poll() before a launch")
    expect(polled is not None, "poll() says that a kernel runs")


@check("before.wait", Level.SHOULD)
async def wait(bench: Bench) -> None:
    """`wait` before the first launch returns at once.

    If it fails: there is nothing to wait for, and nothing that would end the waiting.
    """
    await silently(bench.provisioner().wait(), "wait() before a launch", 2)


@check("before.cleanup")
async def cleanup(bench: Bench) -> None:
    """`cleanup` may come before the first launch, and again.

    If it fails: the manager calls it after a `pre_launch` that failed; what was never made has
    nothing to be removed.
    """
    provisioner = bench.provisioner()
    for restart in (False, False, True):
        await silently(provisioner.cleanup(restart=restart), "cleanup() before a launch")


@check("before.signals", Level.SHOULD)
async def signals(bench: Bench) -> None:
    """`send_signal`, `terminate`, `kill` and `shutdown_requested` before a launch are silent.

    If it fails: guard them by `has_process`.
    """
    provisioner = bench.provisioner()
    await silently(provisioner.send_signal(signal.SIGINT), "send_signal() before a launch")
    await silently(provisioner.shutdown_requested(restart=False), "shutdown_requested()")
    await silently(provisioner.terminate(restart=False), "terminate() before a launch")
    await silently(provisioner.kill(restart=False), "kill() before a launch")


@check("before.times")
async def times(bench: Bench) -> None:
    """`get_shutdown_wait_time` and `get_stable_start_time` return seconds as numbers.

    If it fails: return `recommended`, or a number of your own; jupyter_client computes with it.
    """
    provisioner = bench.provisioner()
    for name, recommended in (("get_shutdown_wait_time", 5.0), ("get_stable_start_time", 10.0)):
        seconds: Any = getattr(provisioner, name)(recommended=recommended)
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        expect(number and seconds >= 0, f"{name}() returned {seconds!r}")
