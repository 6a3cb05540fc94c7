"""Talking to a kernel: jupyter_client's own client, with limits and with outputs kept by request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from kernel_provisioner_core.conformance.check import CheckFailed, expect, patient

Message = dict[str, Any]


@dataclass
class Reply:
    """What came back for one request: the reply, and what was published because of it."""

    content: Message = field(default_factory=dict)
    published: list[Message] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``ok`` or ``error``."""
        return str(self.content.get("status"))

    @property
    def text(self) -> str:
        """What the code printed, stripped."""
        streams = [m["content"]["text"] for m in self.published if m["msg_type"] == "stream"]
        return "".join(streams).strip()

    @property
    def error(self) -> str:
        """The exception's name, or an empty string."""
        return str(self.content.get("ename", ""))

    @property
    def idle(self) -> bool:
        """Whether the kernel has said that it is done with the request."""
        return any(
            m["msg_type"] == "status" and m["content"]["execution_state"] == "idle"
            for m in self.published
        )


class Client:
    """One client of one kernel, connected on shell, iopub, stdin and control.

    All waiting has a limit, in seconds; what does not come in time fails the check.
    """

    def __init__(self, channels: AsyncKernelClient) -> None:
        self.channels = channels
        self._replies: dict[str, Reply] = {}
        channels.start_channels(hb=False)
        # A socket whose peer refused it would block here for ever, and the event loop with it.
        for channel in (channels.shell_channel, channels.control_channel, channels.stdin_channel):
            channel.socket.sndtimeo = 5000

    @classmethod
    def of(cls, manager: Any, context: zmq.asyncio.Context) -> Client:
        """A client with the manager's own ports and key (of a blocking manager too)."""
        info: Any = dict(manager.get_connection_info())
        channels = AsyncKernelClient(context=context, log=manager.log)
        channels.load_connection_info(info)
        return cls(channels)

    def close(self) -> None:
        """Close the sockets."""
        self.channels.stop_channels()

    async def ready(self, limit: float) -> Message:
        """Wait until the kernel answers on shell and is heard on iopub; the kernel's info."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        asked = [self._ask()]
        content: Message = {}
        while True:
            expect(loop.time() < end, f"the kernel did not answer on shell within {limit:g} s")
            try:
                message = await self.channels.get_shell_msg(timeout=min(1.0, limit))
            except Empty:
                # A request may be lost when the kernel's side is not a kernel's yet (a forwarder).
                asked.append(self._ask())
                continue
            if message["parent_header"].get("msg_id") in asked:
                content = message["content"]
                break
        while True:
            expect(loop.time() < end, f"the kernel was not heard on iopub within {limit:g} s")
            try:
                while True:
                    message = await self.channels.get_iopub_msg(timeout=0.1)
                    if message["parent_header"].get("msg_id") in asked:
                        return content
            except Empty:
                asked.append(self._ask())

    def _ask(self) -> str:
        try:
            return str(self.channels.kernel_info())
        except zmq.Again as error:
            raise CheckFailed("the kernel's side refuses the connection on shell") from error

    def send(self, code: str, *, allow_stdin: bool = False) -> str:
        """Ask for execution and return the request's id, without waiting."""
        return str(self.channels.execute(code, allow_stdin=allow_stdin, store_history=True))

    async def printed(self, request: str, text: str, limit: float = 15.0) -> None:
        """Wait until the request has printed ``text``."""
        limit = patient(limit)
        reply = self._replies.setdefault(request, Reply())
        end = asyncio.get_running_loop().time() + limit
        while text not in reply.text:
            await self._read_iopub(end, f"the kernel did not print {text!r} within {limit:g} s")

    async def published(self, request: str, kind: str, limit: float = 15.0) -> Message:
        """Wait for a message of this type, published because of the request."""
        limit = patient(limit)
        reply = self._replies.setdefault(request, Reply())
        end = asyncio.get_running_loop().time() + limit
        while True:
            for message in reply.published:
                if message["msg_type"] == kind:
                    return message
            await self._read_iopub(end, f"no {kind} was published within {limit:g} s")

    async def reply(self, request: str, limit: float = 15.0) -> Reply:
        """Wait for the reply to the request and for all that it published."""
        limit = patient(limit)
        reply = self._replies.setdefault(request, Reply())
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        while not reply.content:
            try:
                message = await self.channels.get_shell_msg(timeout=max(0.0, end - loop.time()))
            except Empty:
                raise CheckFailed(f"no reply to a request within {limit:g} s") from None
            parent = message["parent_header"].get("msg_id")
            self._replies.setdefault(parent, Reply()).content = message["content"]
        while not reply.idle:
            await self._read_iopub(end, f"the outputs of a request did not end within {limit:g} s")
        return reply

    async def execute(self, code: str, limit: float = 15.0) -> Reply:
        """Execute the code and wait for its reply and its outputs."""
        return await self.reply(self.send(code), limit)

    async def evaluate(self, expression: str, limit: float = 15.0) -> str:
        """What ``print(expression)`` prints in the kernel."""
        reply = await self.execute(f"print({expression})", limit)
        expect(reply.status == "ok", f"{expression} raised {reply.error} in the kernel")
        return reply.text

    async def _read_iopub(self, end: float, failure: str) -> None:
        left = end - asyncio.get_running_loop().time()
        try:
            message = await self.channels.get_iopub_msg(timeout=max(0.0, left))
        except Empty:
            raise CheckFailed(failure) from None
        parent = message["parent_header"].get("msg_id", "")
        self._replies.setdefault(parent, Reply()).published.append(message)
