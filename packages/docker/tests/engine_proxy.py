"""A door in front of an engine: it counts requests, holds them up, and can be cut, while the engine goes on."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"^(GET|POST|PUT|DELETE|HEAD) (?:/v[\d.]+)?(/\S*) HTTP/1\.1\r\n")


class EngineProxy:
    """Listens on a Unix socket of its own and passes all bytes on to the engine, both ways."""

    def __init__(self, engine, path):
        self.url = f"unix://{path}"
        self.requests = []
        self._engine, self._path = engine, str(path)
        self._lock = threading.Lock()
        self._connections = set()
        self._held = {}
        self._listener = None
        self.mend()

    def cut(self):
        """Be gone, as a daemon that was killed: no connection, nobody listens."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        os.unlink(self._path)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self):
        """Be there again."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def hold(self, pattern):
        """Hold up the next request whose "METHOD /path" matches; return what tells that it has come, and lets it go."""
        held = threading.Event(), threading.Event()
        self._held[re.compile(pattern)] = held
        return held

    def release(self):
        """Let everything go that is held."""
        held, self._held = self._held, {}
        for _, go in held.values():
            go.set()

    def close(self):
        self.release()
        self.cut()

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, _connect(self._engine) as engine:
            with self._lock:
                self._connections |= {client, engine}
            with contextlib.suppress(OSError):
                self._pass_on(client, engine)
            with self._lock:
                self._connections -= {client, engine}

    def _pass_on(self, client, engine):
        others = {client: engine, engine: client}
        while others:
            for source in select.select(list(others), [], [])[0]:
                data = source.recv(1 << 16)
                if not data and source is engine:
                    return
                if not data:  # it may still wait for an answer
                    with contextlib.suppress(OSError):
                        engine.shutdown(socket.SHUT_WR)
                    del others[client]
                    continue
                if source is client:
                    self._look_at(data)
                (engine if source is client else client).sendall(data)

    def _look_at(self, data):
        found = _REQUEST.match(data)
        if found is None:
            return
        request = f"{found[1].decode()} {found[2].decode()}"
        self.requests.append(request)
        for pattern, (came, go) in list(self._held.items()):
            if pattern.search(request):
                came.set()
                go.wait(60)


def _connect(url):
    where = urlsplit(url)
    if where.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(where.path)
        return connection
    return socket.create_connection((where.hostname, where.port))
