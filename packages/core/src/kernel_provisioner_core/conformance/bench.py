"""Where a check works: it makes kernels with jupyter_client's real managers and cleans up after."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager

from kernel_provisioner_core.conformance.calls import Call, Recorder
from kernel_provisioner_core.conformance.check import CheckSkipped, expect, until, within
from kernel_provisioner_core.conformance.client import Client, Message, Reply
from kernel_provisioner_core.conformance.probe import KernelIdentity
from kernel_provisioner_core.conformance.target import Target

T = TypeVar("T")

#: The environment variable of the kernelspec by which a probe recognises a kernel.
ID_VARIABLE = "KERNEL_PROVISIONER_CONFORMANCE_ID"

#: jupyter_client's fixed limit for a kill to show in ``poll``.
KILL_LIMIT = 5.0


#: Seconds that a provisioner has to shut a kernel down after a check; then the probe removes it.
CLOSE_LIMIT = 12.0


class _OneKernelspec(KernelSpecManager):
    """Knows one kernelspec, whatever the name."""

    spec: Any = None

    def get_kernel_spec(self, kernel_name: str) -> Any:
        return self.spec


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Bench:
    """What a check gets: makes provisioners, managers and kernels, and sees what they really do.

    Everything lives below ``directory``, which is private to the check and is the Jupyter runtime
    directory while it runs.
    """

    def __init__(self, target: Target, directory: Path) -> None:
        self.target = target
        self.directory = directory
        self.runtime = directory / "runtime"
        self.notes: list[str] = []
        self.kernels: list[Kernel] = []
        self.context = zmq.asyncio.Context()
        self.blocking_context: zmq.Context[Any] = zmq.Context.shadow(self.context.underlying)
        self._lines = _Lines()
        # Not a logger of the tree: its level and handlers are nobody else's.
        self.log = logging.Logger("conformance", logging.DEBUG)  # noqa: LOG001
        self.log.addHandler(self._lines)

    # -- making -----------------------------------------------------------------------------------

    def spec(
        self,
        argv: Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        interrupt_mode: str = "signal",
    ) -> Any:
        """A kernelspec as kernel.json would give it, with the target's provisioner stanza."""
        stanza = {
            "provisioner_name": self.target.name,
            "config": json.loads(json.dumps(dict(self.target.config))),
        }
        return KernelSpec(
            argv=list(argv or self.target.kernel_argv),
            display_name="Conformance",
            language="python",
            env=dict(env or {}),
            interrupt_mode=interrupt_mode,
            metadata={"kernel_provisioner": stanza, **(metadata or {})},
            resource_dir=str(self.directory),
        )

    def provisioner(self, **changes: Any) -> Any:
        """A new provisioner, made as jupyter_client's factory makes it, without a manager."""
        arguments: dict[str, Any] = {
            "kernel_id": str(uuid.uuid4()),
            "kernel_spec": self.spec(),
            "parent": None,
            **self.target.config,
            **changes,
        }
        return self.target.load()(**arguments)

    def kernel(
        self, spec: Any = None, *, manager: type[Any] = AsyncKernelManager, **traits: Any
    ) -> Kernel:
        """A manager with its provisioner, not started."""
        kernel = Kernel(self, spec or self.spec(), manager, traits)
        self.kernels.append(kernel)
        return kernel

    async def start(self, spec: Any = None, **arguments: Any) -> Kernel:
        """A kernel that is up and answers."""
        kernel = self.kernel(spec)
        await kernel.start(**arguments)
        await kernel.ready()
        return kernel

    def encrypted(self) -> dict[str, Any] | None:
        """What to change in a kernelspec that supports CurveZMQ; None if there is none here."""
        known = "transport_encryption" in AsyncKernelManager.class_traits()
        if not known or not zmq.has("curve"):
            return None
        return {"supported_encryption": ["curve"]}

    def python(self, code: str) -> list[str]:
        """An argv that runs Python code in the kernel's world, and ignores the connection file."""
        return [self.target.kernel_argv[0], "-c", code, "{connection_file}"]

    # -- seeing -----------------------------------------------------------------------------------

    async def see(self, look: Callable[..., T | None], *arguments: Any) -> T:
        """What a method of the probe sees; skips the check if it cannot see that."""
        seen = await in_thread(look, *arguments)
        if seen is None:
            raise CheckSkipped("the probe cannot see this")
        return seen

    @property
    def log_text(self) -> str:
        """All that the manager, the provisioner and (see `all_logs`) everybody logged."""
        return "\n".join(self._lines.lines)

    @contextmanager
    def all_logs(self) -> Iterator[None]:
        """While this lasts, keep what any logger of this process says, at every level."""
        root = logging.getLogger()
        level = root.level
        root.addHandler(self._lines)
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.setLevel(level)
            root.removeHandler(self._lines)

    # -- cleaning up ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Shut everything down and remove what is left, however the check ended."""
        await asyncio.gather(*(kernel.close() for kernel in self.kernels))
        self.context.destroy(linger=0)

    def remove(self) -> None:
        """Remove what is left, by the probe alone. Never raises for a kernel that is gone."""
        for kernel in self.kernels:
            self.target.probe.remove(kernel.identity)


class Kernel:
    """One kernel: a real manager, the provisioner under test, the record of calls, and a client."""

    def __init__(
        self, bench: Bench, spec: Any, manager: type[Any], traits: Mapping[str, Any]
    ) -> None:
        self.bench = bench
        self.spec = spec
        self.id = str(uuid.uuid4())
        spec.env = {**spec.env, ID_VARIABLE: self.id}
        connection_file = str(bench.runtime / f"kernel-{self.id}.json")
        self.identity = KernelIdentity(self.id, connection_file)
        kernelspecs = _OneKernelspec()
        kernelspecs.spec = spec
        # A context of ours, as a server's manager of many kernels gives: one that the manager made
        # itself it destroys at a shutdown, and then cannot start again.
        blocking = not issubclass(manager, AsyncKernelManager)
        traits = {"context": bench.blocking_context if blocking else bench.context, **traits}
        self.manager: Any = manager(
            kernel_name="conformance",
            kernel_spec_manager=kernelspecs,
            connection_file=connection_file,
            log=bench.log,
            **traits,
        )
        self.manager.kernel_id = self.id
        self.provisioner: Any = bench.provisioner(
            kernel_id=self.id, kernel_spec=spec, parent=self.manager
        )
        self._recorder = Recorder(self.provisioner)
        self.manager.provisioner = self._recorder
        self._client: Client | None = None

    # -- life, as the manager leads it ------------------------------------------------------------

    async def start(self, **arguments: Any) -> None:
        """Have the manager start the kernel."""
        await within(
            self.bench.target.launch_limit,
            self.manager.start_kernel(**arguments),
            "start_kernel",
            whole=True,
        )

    async def restart(self, **arguments: Any) -> None:
        """Have the manager restart the kernel."""
        limit = self.bench.target.launch_limit + 10
        restarted = self.manager.restart_kernel(**arguments)
        await within(limit, restarted, "restart_kernel", whole=True)

    async def shutdown(self, **arguments: Any) -> None:
        """Have the manager shut the kernel down."""
        stopped = self.manager.shutdown_kernel(**arguments)
        await within(25, stopped, "shutdown_kernel", whole=True)

    async def launch(self, **arguments: Any) -> Message:
        """Call the provisioner's `pre_launch`, `launch_kernel` and `post_launch` directly."""
        arguments = await self._recorder.pre_launch(**arguments)
        command = arguments.pop("cmd")
        info: Message = await self._recorder.launch_kernel(command, **arguments)
        await self._recorder.post_launch(**arguments)
        return info

    # -- talking ----------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The first client, connected when first asked for; it stays connected through restarts."""
        if self._client is None:
            self._client = Client.of(self.manager, self.bench.context)
        return self._client

    def new_client(self) -> Client:
        """Forget the first client and connect another, with what the manager now says."""
        if self._client is not None:
            self._client.close()
            self._client = None
        return self.client

    async def ready(self) -> Message:
        """Wait until the kernel answers."""
        return await self.client.ready(self.bench.target.launch_limit)

    async def execute(self, code: str, limit: float = 15.0) -> Reply:
        """Execute code in the kernel."""
        return await self.client.execute(code, limit)

    async def evaluate(self, expression: str) -> str:
        """What ``print(expression)`` prints in the kernel."""
        return await self.client.evaluate(expression)

    # -- seeing -----------------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """What the provisioner was called for, in order."""
        calls: list[Call] = self._recorder._recorder_calls
        return calls

    @property
    def story(self) -> list[str]:
        """The calls that change something, as text: all but poll and wait."""
        return [str(call) for call in self.calls if call.name not in ("poll", "wait")]

    def on_call(self, hook: Callable[[Call], None]) -> None:
        """Have ``hook`` called with each call to the provisioner when it has ended."""
        self._recorder._recorder_hook = hook

    @property
    def info(self) -> Message:
        """What the last `launch_kernel` returned."""
        return next(c.result for c in reversed(self.calls) if c.name == "launch_kernel")

    @property
    def address(self) -> dict[str, Any]:
        """The manager's ports, ip and key."""
        info = self.manager.get_connection_info()
        return {k: v for k, v in info.items() if k.endswith("_port") or k in ("ip", "key")}

    @property
    def secrets(self) -> list[str]:
        """The key, and the secret Curve key if there is one, as text."""
        info = self.manager.get_connection_info()
        secrets = [info["key"].decode(), info.get("curve_secretkey", "")]
        return [secret for secret in secrets if secret]

    async def running(self) -> bool:
        """Whether the kernel's process runs, as the probe sees it."""
        return await self.bench.see(self.bench.target.probe.is_running, self.identity)

    async def left(self) -> list[str]:
        """What exists because of the kernel, as the probe sees it."""
        return await self.bench.see(self.bench.target.probe.left, self.identity)

    async def gone(self, seconds: float, after: str) -> None:
        """Wait until the probe sees nothing of the kernel any more."""

        async def nothing() -> bool:
            return not await self.left()

        try:
            await until(seconds, nothing, "gone")
        except AssertionError:
            expect(False, f"{after}, this was left: {'; '.join(await self.left())}")

    async def ended(self, seconds: float, after: str) -> None:
        """Wait until the probe no longer sees the kernel's process running."""

        async def stopped() -> bool:
            return not await self.running()

        await until(seconds, stopped, f"{after}: the end of the kernel's process")

    async def dead(self, seconds: float, after: str) -> int:
        """Wait until `poll` says that the kernel has ended; the code that it gives."""

        async def polled() -> bool:
            return await self.provisioner.poll() is not None

        await until(seconds, polled, f"{after}: poll() that is not None")
        code: int = await self.provisioner.poll()
        return code

    async def crash(self) -> None:
        """Kill the kernel behind the provisioner's back, and wait until it is gone."""
        if not await self.bench.see(self.bench.target.probe.kill, self.identity):
            raise CheckSkipped("the probe found no kernel to kill")
        await self.ended(KILL_LIMIT, "SIGKILL by the probe")

    async def exit(self, code: int) -> None:
        """Have the kernel's own code end its process with this exit code."""
        self.client.send(f"import os; os._exit({code})")

    # -- cleaning up ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Shut down as well as the provisioner can, then have the probe remove what is left."""
        if self._client is not None:
            self._client.close()
        # The original, so that a check's hook or record does not see this.
        self.manager.provisioner = self.provisioner
        try:
            if isinstance(self.manager, AsyncKernelManager):
                # Nobody measures this one, so the manager need not wait 0.1 s between its polls.
                wait = partial(self.manager._async_wait, pollinterval=0.01)
                self.manager._async_wait = wait  # type: ignore[method-assign]
                stopped = self.manager.shutdown_kernel(now=True)
            else:
                stopped = in_thread(self.manager.shutdown_kernel, now=True)
            await asyncio.wait_for(stopped, CLOSE_LIMIT)
        except (Exception, asyncio.CancelledError) as error:
            self.bench.log.debug("the check's cleaning up met %r", error)
            self.manager.provisioner = None
            await self._clean_manager()
        probe = self.bench.target.probe
        left = await in_thread(probe.left, self.identity)
        if left:
            self.bench.notes.append(f"removed after the check: {'; '.join(left)}")
            await in_thread(probe.remove, self.identity)
        if os.path.exists(self.identity.connection_file):
            os.unlink(self.identity.connection_file)

    async def _clean_manager(self) -> None:
        self.manager.stop_restarter()
        cleaned = KernelManager._async_cleanup_resources(self.manager)
        await asyncio.gather(cleaned, return_exceptions=True)


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call ``function`` in a thread of its own, which nothing waits for if it hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, problem = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            problem = error
        finally:
            _close_loop_of_thread()
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            return  # the check is over and its loop closed

    name = f"conformance-{uuid.uuid4().hex[:8]}"
    threading.Thread(target=work, name=name, daemon=True).start()
    return await future


def _close_loop_of_thread() -> None:
    """Close the event loop that jupyter_client's blocking API leaves behind in this thread."""
    from jupyter_core.utils import _loop

    loop = _loop.get()
    if loop is not None and not loop.is_running() and not loop.is_closed():
        loop.close()
