"""A kernel for the length of one command, launched through jupyter_client and shut down in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import IO, Any, cast

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory as JupyterFactory
from traitlets.config import Configurable

from kernel_provisioner_core.cli.kernelspec import FoundKernelspec
from kernel_provisioner_core.cli.output import JUPYTER_LOGGER
from kernel_provisioner_core.connection import jupyter_runtime_dir
from kernel_provisioner_core.errors import (
    KernelProvisionerError,
    LaunchError,
    LaunchTimeoutError,
)
from kernel_provisioner_core.exits import KernelExit

__all__ = ["InputHandler", "KernelDiedError", "KernelSession", "Message", "OutputHandler"]

Message = dict[str, Any]
OutputHandler = Callable[[Message], None]
InputHandler = Callable[[str, bool], Awaitable[str]]
"""Called with the prompt and whether what is typed is secret; returns what was typed."""

_POLL_INTERVAL = 0.2  # seconds; poll() is free, and the end of a kernel should show soon
_LATE_OUTPUT = 0.1  # seconds of silence after which nothing more is expected
_LAST_MESSAGES = 0.5  # seconds to wait for what a kernel sent before it died
_TAIL = 4096  # bytes of output to quote


class KernelDiedError(LaunchError):
    """Raised when the kernel ends on its own."""


class KernelSession:
    """One kernel, its manager and its client.

    Args:
        found: The kernelspec.
        provisioner_class: Its provisioner. Where it has the option `capture_output`, that is switched on.
        printed: What our child processes print; see `output.children_apart`.
    """

    def __init__(
        self, found: FoundKernelspec, provisioner_class: type[Configurable], printed: IO[bytes]
    ) -> None:
        """Make the manager; nothing is launched."""
        self.kernel_id = str(uuid.uuid4())
        self.connection_file = os.path.join(jupyter_runtime_dir(), f"kernel-{self.kernel_id}.json")
        self.manager = AsyncKernelManager(
            kernel_name=found.name,
            connection_file=self.connection_file,
            log=logging.getLogger(JUPYTER_LOGGER),
        )
        self._client: Any = None
        self._printed = printed
        if "capture_output" in provisioner_class.class_traits() and self.manager.kernel_spec:
            # in the manager's own copy of the kernelspec
            self.manager.kernel_spec.metadata["kernel_provisioner"] = {
                "provisioner_name": found.provisioner_name,
                "config": {**found.config, "capture_output": True},
            }

    @property
    def provisioner(self) -> Any:
        """The provisioner; None before `launch`."""
        return self.manager.provisioner

    async def launch(self, on_progress: Callable[[str], None]) -> None:
        """Start the kernel, as any front end does.

        Args:
            on_progress: Called, perhaps from a thread, with what a long launch is doing, where the provisioner
                has an attribute `progress` for such a function.

        Raises:
            KernelProvisionerError: It could not be launched.
        """
        with _foreign_errors("The kernel could not be launched"):
            os.makedirs(jupyter_runtime_dir(), mode=0o700, exist_ok=True)
            # made here, as the manager would, so that its progress shows from the beginning
            provisioner: Any = JupyterFactory.instance().create_provisioner_instance(
                self.kernel_id, self.manager.kernel_spec, parent=self.manager
            )
            if hasattr(provisioner, "progress"):
                provisioner.progress = on_progress
            self.manager.provisioner = provisioner
            await self.manager.start_kernel(kernel_id=self.kernel_id)

    async def wait_until_ready(self, time_limit: float) -> None:
        """Connect, and wait for the kernel's first answer.

        Raises:
            KernelDiedError: It has died before.
            LaunchTimeoutError: It did not answer in time.
        """
        self._client = self.manager.client()
        self._client.start_channels(hb=False, control=False)
        try:
            await self._client.wait_for_ready(timeout=time_limit)
        except RuntimeError as error:
            if not await self.manager.is_alive():
                raise await self.death("before it answered") from error
            raise LaunchTimeoutError(
                f"The kernel runs, but did not answer within {time_limit:g} seconds.",
                hint="Its ports may be out of reach, or it needs longer to start: --startup-timeout.",
                kernel_id=self.kernel_id,
                output=self.last_output(),
            ) from error

    async def kernel_info(self, time_limit: float) -> Message:
        """Return the content of the kernel's `kernel_info_reply`.

        Raises:
            KernelDiedError: The kernel died meanwhile.
            LaunchTimeoutError: It did not answer in time.
        """
        try:
            reply = await self._client.kernel_info(reply=True, timeout=time_limit)
        except TimeoutError as error:
            if not await self.manager.is_alive():
                raise await self.death("before it answered") from error
            raise LaunchTimeoutError(
                f"The kernel did not answer a kernel_info_request within {time_limit:g} seconds.",
                kernel_id=self.kernel_id,
                output=self.last_output(),
            ) from error
        return cast("Message", reply["content"])

    async def execute(
        self,
        code: str,
        on_output: OutputHandler,
        on_input: InputHandler | None = None,
    ) -> Message:
        """Execute a cell and return the content of its reply.

        Cancelling this does not stop the kernel.

        Args:
            code: The cell.
            on_output: Called with each message of the iopub channel.
            on_input: Answers the kernel's requests for input; None refuses them.

        Raises:
            KernelDiedError: The kernel died meanwhile.
        """
        request = self._client.execute(code, allow_stdin=on_input is not None)
        output = asyncio.ensure_future(self._show_output(request, on_output))
        reply = asyncio.ensure_future(self._reply_to(request))
        death = asyncio.ensure_future(self._await_death())
        inputs = asyncio.ensure_future(self._answer_inputs(on_input))
        answered = asyncio.ensure_future(_all(output, reply))
        tasks = (answered, output, reply, death, inputs)
        try:
            await asyncio.wait({answered, death, inputs}, return_when=asyncio.FIRST_COMPLETED)
            if inputs.done():
                inputs.result()  # it ends only by an exception
            if death.done() and not answered.done():
                await asyncio.wait({answered}, timeout=_LAST_MESSAGES)
            if not answered.done():
                raise await self.death("while it ran the code")
            return cast("Message", (await answered)[1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def show_late_output(self, on_output: OutputHandler) -> None:
        """Take what comes after the last cell: what its threads and child processes had still to print."""
        with contextlib.suppress(queue.Empty):
            while True:
                on_output(await self._client.get_iopub_msg(timeout=_LATE_OUTPUT))

    async def interrupt(self) -> None:
        """Interrupt what the kernel runs.

        Raises:
            KernelProvisionerError: It cannot be interrupted.
        """
        with _foreign_errors("The kernel could not be interrupted"):
            await self.manager.interrupt_kernel()

    async def shutdown(self, *, now: bool = False) -> None:
        """Shut the kernel down and remove what was made for it; also after a failed launch, and twice."""
        if self._client is not None:
            self._client.stop_channels()
            self._client = None
        with _foreign_errors("The kernel could not be shut down"):
            await self.manager.shutdown_kernel(now=now)
        with contextlib.suppress(OSError):
            os.unlink(self.connection_file)  # jupyter_client leaves it after a failed launch

    async def death(self, when: str) -> KernelDiedError:
        """Return the error that tells how the kernel died.

        Args:
            when: When it did, as the end of a sentence.
        """
        code = await self.provisioner.poll()
        ended = getattr(self.provisioner, "last_exit", None)
        if not isinstance(ended, KernelExit):
            ended = KernelExit(code)
        output = ended.output or self.last_output()
        return KernelDiedError(
            f"The kernel died {when}: {ended.reason}.",
            kernel_id=self.kernel_id,
            output=output,
        )

    def last_output(self) -> str:
        """Return what the kernel printed last, where the provisioner or we have captured it."""
        get_logs = getattr(self.provisioner, "get_logs", None)
        text = ""
        if get_logs is not None:
            with contextlib.suppress(KernelProvisionerError):
                text = str(get_logs(_TAIL))
        if not text:
            end = self._printed.seek(0, os.SEEK_END)
            self._printed.seek(max(0, end - _TAIL))
            text = self._printed.read().decode(errors="replace")
        return text

    async def _show_output(self, request: str, on_output: OutputHandler) -> None:
        while True:
            message = await self._client.get_iopub_msg(timeout=None)
            # Output of threads and of earlier cells counts too: nobody else uses this kernel.
            on_output(message)
            if (
                message["header"]["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
                and message["parent_header"].get("msg_id") == request
            ):
                return

    async def _reply_to(self, request: str) -> Message:
        while True:
            message = await self._client.get_shell_msg(timeout=None)
            if message["parent_header"].get("msg_id") == request:
                return cast("Message", message["content"])

    async def _answer_inputs(self, on_input: InputHandler | None) -> None:
        while True:
            message = await self._client.get_stdin_msg(timeout=None)
            if on_input is not None and message["header"]["msg_type"] == "input_request":
                content = message["content"]
                self._client.input(await on_input(content["prompt"], bool(content.get("password"))))

    async def _await_death(self) -> None:
        while await self.manager.is_alive():  # noqa: ASYNC110 - a manager has no event for it
            await asyncio.sleep(_POLL_INTERVAL)


async def _all(first: Awaitable[Any], second: Awaitable[Any]) -> tuple[Any, Any]:
    return await first, await second


@contextlib.contextmanager
def _foreign_errors(what: str) -> Iterator[None]:
    """Turn what a provisioner raises, which may be anything, into an error of the tree."""
    try:
        yield
    except KernelProvisionerError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise LaunchError(f"{what}: {said}") from error
