"""The suite's tiny kernel with one fault, named in argv: what stands between it and its clients.

Run as a script in place of ``kernel.py``: ``broken_kernel.py FAULT -f CONNECTION_FILE``.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import zmq

from kernel_provisioner_core.conformance import kernel

FAULT = sys.argv.pop(1)


class BrokenKernel(kernel.Kernel):
    first: Any = None

    def _bind(self, info: dict[str, Any], channel: str, kind: int) -> Any:
        if channel == FAULT:  # "stdin", "control", "hb": it listens, but nobody knows where
            socket = self._context.socket(kind)
            socket.bind_to_random_port("tcp://127.0.0.1")
            return socket
        if FAULT == "plain":
            info = {name: value for name, value in info.items() if "curve" not in name}
        return super()._bind(info, channel, kind)

    def _send(
        self,
        socket: Any,
        kind: str,
        content: Any,
        parent: Any,
        identities: Any,
        buffers: Any = None,
    ) -> None:
        if FAULT == "silent" and kind == "stream":
            return
        if FAULT == "nameless" and kind == "execute_reply":
            content = {name: value for name, value in content.items() if name != "ename"}
        if FAULT == "short" and kind == "stream":
            content = {**content, "text": content["text"][:100_000]}
        if FAULT == "text-only":
            buffers = None
        if FAULT == "one-client" and socket is self._shell:
            identities = self.first = self.first or identities
        super()._send(socket, kind, content, parent, identities, buffers)

    def _receive(self, socket: Any) -> Any:
        if FAULT != "obeys-all":
            return super()._receive(socket)
        frames = socket.recv_multipart()
        where = frames.index(kernel._DELIMITER)
        parts = [kernel.json.loads(part) for part in frames[where + 2 : where + 6]]
        names = ("header", "parent_header", "metadata", "content")
        message = dict(zip(names, parts, strict=True))
        return frames[:where], {**message, "buffers": frames[where + 6 :]}

    def _serve_control(self) -> None:
        while FAULT == "one-at-a-time":
            if self._control.poll(20) and not self._executing:
                try:
                    self._serve(self._control, shell=False)
                except zmq.ContextTerminated:
                    return
            time.sleep(0.02)
        super()._serve_control()

    def _on_interrupt_request(self, request: Any, identities: Any) -> Any:
        if FAULT == "no-message":
            return {"status": "ok"}
        return super()._on_interrupt_request(request, identities)

    def _on_sigint(self, signum: int, frame: Any) -> None:
        if FAULT == "frail" and not self._executing:
            os._exit(1)
        super()._on_sigint(signum, frame)


if __name__ == "__main__":
    kernel.Kernel = BrokenKernel  # type: ignore[misc]
    kernel.main()
