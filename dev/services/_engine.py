"""As much of a client of the Docker Engine API as services need, by nothing but the standard library."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import ssl
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

DEFAULT = "unix:///var/run/docker.sock"


class EngineError(Exception):
    """The engine did not do what it was asked to; the message is the engine's."""


class Engine:
    """A container engine that speaks Docker's API.

    Args:
        host: Where it listens, as DOCKER_HOST says it: `unix://` or `tcp://`.
        certificates: The folder with ca.pem, cert.pem and key.pem for a connection with TLS, or None.
    """

    def __init__(self, host: str, certificates: Path | None = None) -> None:
        self.host = host
        self._certificates = certificates

    @classmethod
    def given(cls) -> Engine:
        """Return the engine that this environment describes, as a Docker client reads it."""
        tls = os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_CERT_PATH")
        folder = os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker"
        host = os.environ.get("DOCKER_HOST") or DEFAULT
        return cls(host, Path(folder) if tls and host.startswith("tcp:") else None)

    def answers(self) -> bool:
        """Return whether the engine answers within two seconds."""
        try:
            return b"".join(self._request("GET", "/_ping", seconds=2)) == b"OK"
        except (OSError, EngineError, http.client.HTTPException):
            return False

    def get(self, path: str, **query: str) -> Any:
        """Return what the engine says about something; None if it does not have it."""
        try:
            return json.loads(b"".join(self._request("GET", path, query)))
        except FileNotFoundError:
            return None

    def post(self, path: str, **query: str) -> None:
        """Make the engine do something."""
        self._do("POST", path, query)

    def label(self, image: str, name: str) -> str | None:
        """Return a label of an image; None if there is no such image, or no such label on it."""
        described = self.get(f"/images/{image}/json") or {}
        labels = described.get("Config", {}).get("Labels") or {}
        return None if name not in labels else str(labels[name])

    def import_image(
        self, image: str, content: IO[bytes], changes: list[str], **query: str
    ) -> None:
        """Make an image of one layer out of a tar."""
        # Podman takes no notice of the tag where it is named apart.
        query = {**query, "fromSrc": "-", "repo": image, "tag": image.rpartition(":")[2]}
        pairs = [*query.items(), *(("changes", change) for change in changes)]
        self._do("POST", "/images/create", pairs, content)

    def build(self, image: str, dockerfile: str, files: dict[str, bytes] | None = None) -> None:
        """Build an image out of the text of a Dockerfile and the files that it adds."""
        context = tar({"Dockerfile": dockerfile.encode(), **(files or {})})
        self._do("POST", "/build", {"t": image, "forcerm": "1", "pull": "0"}, context)

    def push(self, image: str) -> None:
        """Push an image, under its own name, to the registry that the name starts with."""
        name, _, tag = image.rpartition(":")
        headers = {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()}
        self._do("POST", f"/images/{name}/push", {"tag": tag}, headers=headers)

    def remove_image(self, image: str) -> None:
        """Remove an image, or one of its names if it has several; silent if there is none."""
        try:
            self._do("DELETE", f"/images/{image}", {"force": "1"})
        except FileNotFoundError:
            pass

    def remove_container(self, container: str) -> None:
        """End a container and remove it with its volumes; silent if there is none."""
        try:
            self._do("DELETE", f"/containers/{container}", {"force": "1", "v": "1"})
        except FileNotFoundError:
            pass

    def _do(
        self,
        method: str,
        path: str,
        query: Any = (),
        body: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Make a request and read its messages to their end; a failure may come as the last of many."""
        answer = b"".join(self._request(method, path, query, body, headers))
        for line in answer.splitlines():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict) and "error" in message:
                tail = answer.decode(errors="replace")[-2000:]
                raise EngineError(f"{path}: {message['error']}\n{tail}")

    def _request(
        self,
        method: str,
        path: str,
        query: Any = (),
        body: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = 600,
    ) -> Iterator[bytes]:
        headers = dict(headers or {})
        if body is not None:
            headers |= {"Content-Type": "application/x-tar", "Content-Length": str(_size(body))}
        connection = self._connect(seconds)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body, headers)
            response = connection.getresponse()
            if response.status >= 400:
                said = response.read().decode(errors="replace").strip()
                error = FileNotFoundError if response.status == 404 else EngineError
                raise error(f"{method} {path}: {response.status} {said}")
            while block := response.read1(1 << 20):
                yield block
        finally:
            connection.close()

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        where = urlsplit(self.host)
        if where.scheme == "unix":
            return _UnixConnection(where.path, seconds)
        if where.scheme not in ("tcp", "http", "https") or where.hostname is None:
            raise EngineError(f"{self.host}: no way to reach that from here")
        if self._certificates is None:
            return http.client.HTTPConnection(where.hostname, where.port or 2375, timeout=seconds)
        trust = ssl.create_default_context(cafile=str(self._certificates / "ca.pem"))
        trust.load_cert_chain(self._certificates / "cert.pem", self._certificates / "key.pem")
        return http.client.HTTPSConnection(
            where.hostname, where.port or 2376, timeout=seconds, context=trust
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise EngineError(f"{self._path}: no way to reach that from here")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def tar(files: dict[str, bytes], mode: int = 0o644) -> IO[bytes]:
    """Return a tar of these files, ready to be read."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    made.seek(0)
    return made


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size
