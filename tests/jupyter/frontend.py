"""What a Jupyter front end does: the server's REST API, and the websocket of a kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from server_process import LIMIT, Server
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

Message = dict[str, Any]


@dataclass
class Answer:
    """A response of the server."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Result:
    """What came of executing code."""

    reply: Message
    outputs: list[Message] = field(default_factory=list)

    @property
    def status(self) -> str:
        return str(self.reply["content"]["status"])

    @property
    def stdout(self) -> str:
        return "".join(
            m["content"]["text"] for m in self.outputs if m["header"]["msg_type"] == "stream"
        )

    @property
    def error(self) -> str:
        return str(self.reply["content"].get("ename", ""))


class Frontend:
    """A client of one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._http = AsyncHTTPClient(force_instance=True)

    def close(self) -> None:
        self._http.close()

    async def request(self, method: str, path: str, /, body: Any = None, **query: str) -> Answer:
        response = await self._http.fetch(
            HTTPRequest(
                f"http://127.0.0.1:{self.server.port}/api/{path}?{urlencode(query)}",
                method=method,
                headers={"Authorization": f"token {self.server.token}"},
                body=None if body is None else json.dumps(body),
                allow_nonstandard_methods=True,
                request_timeout=LIMIT,
                connect_timeout=LIMIT,
            ),
            raise_error=False,
        )
        return Answer(response.code, response.body.decode())

    async def start(self, name: str, **body: str) -> str:
        """Start a kernel and return its id."""
        answer = await self.request("POST", "kernels", {"name": name, **body})
        assert answer.status == 201, f"{answer.text}\n{self.server.log.text}"
        return str(answer.json["id"])

    async def shut_down(self, kernel_id: str) -> None:
        answer = await self.request("DELETE", f"kernels/{kernel_id}")
        assert answer.status == 204, f"{answer.text}\n{self.server.log.text}"

    async def interrupt(self, kernel_id: str) -> None:
        answer = await self.request("POST", f"kernels/{kernel_id}/interrupt")
        assert answer.status == 204, f"{answer.text}\n{self.server.log.text}"

    async def restart(self, kernel_id: str) -> None:
        answer = await self.request("POST", f"kernels/{kernel_id}/restart")
        assert answer.status == 200, f"{answer.text}\n{self.server.log.text}"

    async def kernels(self) -> dict[str, Message]:
        """Return the server's kernel list, by id."""
        return {model["id"]: model for model in (await self.request("GET", "kernels")).json}

    async def disappeared(self, kernel_id: str) -> None:
        """Wait until the kernel is not in the list any more; no message tells of it."""
        while kernel_id in await self.kernels():
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def kernel(self, name: str, **body: str) -> AsyncIterator[str]:
        """Give the id of a started kernel; it is shut down at the end, if the test has not done so."""
        kernel_id = await self.start(name, **body)
        try:
            yield kernel_id
        finally:
            # jupyter_server answers 500 while it restarts a kernel that has died
            while (await self.request("DELETE", f"kernels/{kernel_id}")).status == 500:
                await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def channels(self, kernel_id: str) -> AsyncIterator[Channels]:
        """Give the kernel's websocket, open."""
        socket = await websocket_connect(
            HTTPRequest(
                f"ws://127.0.0.1:{self.server.port}/api/kernels/{kernel_id}/channels",
                headers={"Authorization": f"token {self.server.token}"},
                connect_timeout=LIMIT,
                request_timeout=LIMIT,
            )
        )
        try:
            yield Channels(socket)
        finally:
            socket.close()
            while await asyncio.wait_for(socket.read_message(), LIMIT) is not None:
                pass  # it is closed when the server has said so too

    async def execute(self, kernel_id: str, code: str) -> Result:
        """Execute code over a websocket of its own."""
        async with self.channels(kernel_id) as channels:
            return await channels.execute(code)


class Channels:
    """The websocket of a kernel."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket
        self._session = uuid.uuid4().hex

    async def send(self, channel: str, msg_type: str, content: Message) -> str:
        """Send a message and return its id."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": msg_type,
            "session": self._session,
            "username": "",
            "version": "5.3",
            "date": "2000-01-01T00:00:00Z",
        }
        await self._socket.write_message(
            json.dumps(
                {
                    "channel": channel,
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                }
            )
        )
        return header["msg_id"]

    async def receive(
        self, wanted: Callable[[Message], bool] = lambda _: True, limit: float = LIMIT
    ) -> Message:
        """Return the next message that is wanted; those before it are dropped."""

        async def next_one() -> Message:
            while True:
                text = await self._socket.read_message()
                assert text is not None, "the server has closed the websocket"
                message: Message = json.loads(text)
                if wanted(message):
                    return message

        return await asyncio.wait_for(next_one(), limit)

    async def begin(self, code: str, *, allow_stdin: bool = False) -> str:
        """Send code to execute and return the message's id; `finish` waits for it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": False,
        }
        return await self.send("shell", "execute_request", content)

    async def finish(self, msg_id: str, answer: str | None = None) -> Result:
        """Wait for the end of an execution; a question of the kernel's gets the answer."""
        reply, outputs, idle = None, [], False
        while reply is None or not idle:
            message = await self.receive(lambda m: m["parent_header"].get("msg_id") == msg_id)
            msg_type = message["header"]["msg_type"]
            if msg_type == "execute_reply":
                reply = message
            elif msg_type == "status":
                idle = message["content"]["execution_state"] == "idle"
            elif msg_type == "input_request":
                await self.send("stdin", "input_reply", {"value": answer})
            else:
                outputs.append(message)
        return Result(reply, outputs)

    async def execute(self, code: str, answer: str | None = None) -> Result:
        return await self.finish(await self.begin(code, allow_stdin=answer is not None), answer)

    async def printed(self, text: str) -> None:
        """Wait until the kernel has printed the text."""
        seen = ""

        def is_there(message: Message) -> bool:
            nonlocal seen
            if message["header"]["msg_type"] == "stream":
                seen += message["content"]["text"]
            return text in seen

        await self.receive(is_there)

    async def state(self, wanted: str) -> None:
        """Wait until the kernel, or the server about it, announces a state."""
        await self.receive(
            lambda m: (
                m["header"]["msg_type"] == "status" and m["content"]["execution_state"] == wanted
            )
        )

    async def reconnected(self) -> None:
        """Wait until a restarted kernel's output comes through.

        Only then has the server subscribed to it again: what a kernel publishes before is lost, as with
        every Jupyter front end.
        """
        sent: set[str] = set()

        def is_idle_after_one(message: Message) -> bool:
            return (
                message["channel"] == "iopub"
                and message["parent_header"].get("msg_id") in sent
                and message["content"].get("execution_state") == "idle"
            )

        while len(sent) < LIMIT:
            sent.add(await self.send("shell", "kernel_info_request", {}))
            with contextlib.suppress(asyncio.TimeoutError):
                await self.receive(is_idle_after_one, limit=1.0)
                return
        raise AssertionError("the restarted kernel is not heard")
