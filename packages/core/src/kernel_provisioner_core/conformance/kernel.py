"""A tiny Jupyter kernel on pyzmq alone, for the conformance suite.

It executes plain Python and speaks as much of the messaging protocol as the checks need: all five
channels, signed messages, CurveZMQ, binary buffers, input, interrupt by signal and by message, and
a control channel that answers while code runs. It starts about five times as fast as ipykernel.

This file stands alone: copy it into an image or onto a host that has Python and pyzmq, and name it
in the kernelspec's ``argv``: ``["python3", "kernel.py", "-f", "{connection_file}"]``.

It ends itself after ``--lifetime`` seconds (600), and when the process that started it ends, if
``JPY_PARENT_PID`` is set.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import hmac
import json
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from datetime import datetime, timezone
from typing import Any

import zmq

_DELIMITER = b"<IDS|MSG>"
_PROTOCOL = "5.3"

Message = dict[str, Any]


class _Stream:
    """A ``sys.stdout`` that publishes what is written to it."""

    encoding = "utf-8"

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self._name = name

    def write(self, text: str) -> int:
        if text:
            self._kernel.publish("stream", {"name": self._name, "text": text})
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False


class _Comm:
    """The least of a comm that carries binary buffers both ways."""

    def __init__(self, kernel: Kernel, target_name: str, data: Any, buffers: Any) -> None:
        self.comm_id = uuid.uuid4().hex
        self._kernel = kernel
        self.handler: Any = None
        kernel.comms[self.comm_id] = self
        content = {"comm_id": self.comm_id, "target_name": target_name, "data": data or {}}
        kernel.publish("comm_open", content, buffers)

    def on_msg(self, handler: Any) -> None:
        self.handler = handler

    def send(self, data: Any = None, buffers: Any = None) -> None:
        self._kernel.publish("comm_msg", {"comm_id": self.comm_id, "data": data or {}}, buffers)


class Kernel:
    """One kernel, listening as its connection file says.

    The main thread serves the shell channel and executes, so that SIGINT interrupts what runs.
    The control channel and the heartbeat have a thread each.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self._key = info.get("key", "").encode()
        scheme = info.get("signature_scheme") or "hmac-sha256"
        self._digest = getattr(hashlib, scheme.partition("-")[2])
        self._session = uuid.uuid4().hex
        self._publishing = threading.RLock()
        self._shell_parent: Message = {}
        self._executing = False
        self._count = 0
        self._stopping = threading.Event()
        self.comms: dict[str, _Comm] = {}
        self._context = zmq.Context()
        self._shell = self._bind(info, "shell", zmq.ROUTER)
        self._control = self._bind(info, "control", zmq.ROUTER)
        self._stdin = self._bind(info, "stdin", zmq.ROUTER)
        self._iopub = self._bind(info, "iopub", zmq.PUB)
        self._heartbeat = self._bind(info, "hb", zmq.ROUTER)
        self._namespace: dict[str, Any] = {"__name__": "__main__", "create_comm": self._create_comm}

    def _bind(self, info: dict[str, Any], channel: str, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.linger = 1000
        if kind == zmq.ROUTER:
            socket.router_handover = 1
        if kind == zmq.PUB:
            socket.sndhwm = 0
        if info.get("curve_secretkey"):
            socket.curve_secretkey = info["curve_secretkey"].encode()
            socket.curve_publickey = info["curve_publickey"].encode()
            socket.curve_server = True
        transport, ip, port = info.get("transport", "tcp"), info["ip"], info[channel + "_port"]
        socket.bind(f"{transport}://{ip}{':' if transport == 'tcp' else '-'}{port}")
        return socket

    # -- messages ---------------------------------------------------------------------------------

    def _sign(self, parts: list[bytes]) -> bytes:
        if not self._key:
            return b""
        digest = hmac.new(self._key, digestmod=self._digest)
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()

    def _send(
        self,
        socket: zmq.Socket[bytes],
        kind: str,
        content: Message,
        parent: Message,
        identities: list[bytes],
        buffers: Any = None,
    ) -> None:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "session": self._session,
            "username": "kernel",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": _PROTOCOL,
        }
        parts = [json.dumps(p).encode() for p in (header, parent.get("header", {}), {}, content)]
        frames = [*identities, _DELIMITER, self._sign(parts), *parts, *(buffers or ())]
        socket.send_multipart(frames)

    def _receive(self, socket: zmq.Socket[bytes]) -> tuple[list[bytes], Message] | None:
        """The next message, or None if its signature is wrong."""
        frames = socket.recv_multipart()
        if _DELIMITER not in frames:
            return None
        where = frames.index(_DELIMITER)
        signature, parts = frames[where + 1], frames[where + 2 : where + 6]
        if len(parts) != 4 or not hmac.compare_digest(self._sign(parts), signature):
            return None
        header, parent, metadata, content = (json.loads(part) for part in parts)
        message = {
            "header": header,
            "parent_header": parent,
            "metadata": metadata,
            "content": content,
            "buffers": frames[where + 6 :],
        }
        return frames[:where], message

    def publish(
        self, kind: str, content: Message, buffers: Any = None, parent: Message | None = None
    ) -> None:
        """Send on iopub, as a consequence of the shell request being served unless told."""
        with self._publishing:
            parent = self._shell_parent if parent is None else parent
            self._send(self._iopub, kind, content, parent, [kind.encode()], buffers)

    # -- what is asked ----------------------------------------------------------------------------

    def _serve(self, socket: zmq.Socket[bytes], *, shell: bool) -> None:
        received = self._receive(socket)
        if received is None:
            return
        identities, request = received
        kind = request["header"]["msg_type"]
        if shell:
            self._shell_parent = request
        self.publish("status", {"execution_state": "busy"}, parent=request)
        answer = getattr(self, "_on_" + kind, None)
        if answer is not None:
            content = answer(request, identities)
            if content is not None:
                reply = kind.replace("_request", "_reply")
                self._send(socket, reply, content, request, identities)
        self.publish("status", {"execution_state": "idle"}, parent=request)

    def _on_kernel_info_request(self, request: Message, identities: list[bytes]) -> Message:
        return {
            "status": "ok",
            "protocol_version": _PROTOCOL,
            "implementation": "kernel-provisioner-conformance",
            "implementation_version": "1",
            "language_info": {
                "name": "python",
                "version": ".".join(map(str, sys.version_info[:3])),
                "mimetype": "text/x-python",
                "file_extension": ".py",
            },
            "banner": "The tiny kernel of the conformance suite",
            "help_links": [],
        }

    def _on_execute_request(self, request: Message, identities: list[bytes]) -> Message:
        content = request["content"]
        if not content.get("silent"):
            self._count += 1
        code = content["code"]
        self.publish("execute_input", {"code": code, "execution_count": self._count})

        def ask(prompt: str = "") -> str:
            return self._input(prompt, request, identities)

        builtins.input = ask  # type: ignore[assignment]
        try:
            try:
                self._executing = True
                exec(compile(code, "<cell>", "exec"), self._namespace)
            finally:
                self._executing = False
        except SystemExit:
            raise
        except BaseException as error:
            problem = {
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": traceback.format_exc().splitlines(),
            }
            self.publish("error", problem)
            return {"status": "error", "execution_count": self._count, **problem}
        return {
            "status": "ok",
            "execution_count": self._count,
            "payload": [],
            "user_expressions": {},
        }

    def _on_comm_info_request(self, request: Message, identities: list[bytes]) -> Message:
        return {"status": "ok", "comms": {}}

    def _on_comm_msg(self, request: Message, identities: list[bytes]) -> None:
        comm = self.comms.get(request["content"]["comm_id"])
        if comm is not None and comm.handler is not None:
            comm.handler(request)

    def _on_interrupt_request(self, request: Message, identities: list[bytes]) -> Message:
        # To the process alone: the group may be shared with whoever started it.
        os.kill(os.getpid(), signal.SIGINT)
        return {"status": "ok"}

    def _on_shutdown_request(self, request: Message, identities: list[bytes]) -> Message:
        # Obeyed when the cell that runs has ended, as ipykernel does.
        self._stopping.set()
        return {"status": "ok", "restart": request["content"].get("restart", False)}

    def _create_comm(self, target_name: str, data: Any = None, buffers: Any = None) -> _Comm:
        return _Comm(self, target_name, data, buffers)

    def _input(self, prompt: str, request: Message, identities: list[bytes]) -> str:
        content = {"prompt": prompt, "password": False}
        self._send(self._stdin, "input_request", content, request, identities)
        while True:
            received = self._receive(self._stdin)
            if received is not None and received[1]["header"]["msg_type"] == "input_reply":
                return str(received[1]["content"]["value"])

    # -- running ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        while True:
            try:
                self._heartbeat.send_multipart(self._heartbeat.recv_multipart())
            except zmq.ContextTerminated:
                return

    def _serve_control(self) -> None:
        while True:
            try:
                self._serve(self._control, shell=False)
            except zmq.ContextTerminated:
                return

    def _on_sigint(self, signum: int, frame: Any) -> None:
        if self._executing:
            raise KeyboardInterrupt

    def run(self) -> None:
        """Serve until a shutdown request has come and nothing runs any more."""
        signal.signal(signal.SIGINT, self._on_sigint)
        stdout, stderr = sys.stdout, sys.stderr
        for serve in (self._beat, self._serve_control):
            threading.Thread(target=serve, daemon=True).start()
        sys.stdout, sys.stderr = _Stream(self, "stdout"), _Stream(self, "stderr")
        self.publish("status", {"execution_state": "starting"}, parent={})
        try:
            while not self._stopping.is_set():
                if self._shell.poll(20):
                    self._serve(self._shell, shell=True)
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            self._shell.close(linger=200)


def _end_with(parent: int, lifetime: float) -> None:
    """End this process when its parent has changed, or after ``lifetime`` seconds."""
    end = time.monotonic() + lifetime
    while time.monotonic() < end and (not parent or os.getppid() == parent):
        time.sleep(1)
    os._exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the kernel of the connection file that ``-f`` names."""
    parser = argparse.ArgumentParser(prog="conformance-kernel")
    parser.add_argument("-f", dest="connection_file", required=True)
    parser.add_argument("--lifetime", type=float, default=600.0)
    options, _ = parser.parse_known_args(arguments)
    parent = os.getppid() if os.environ.get("JPY_PARENT_PID") else 0
    threading.Thread(target=_end_with, args=(parent, options.lifetime), daemon=True).start()
    with open(options.connection_file, encoding="utf-8") as file:
        info = json.load(file)
    Kernel(info).run()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
