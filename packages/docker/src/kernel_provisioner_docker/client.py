"""The engine, as far as kernels need it; the only module that imports the Docker SDK.

Its exceptions end here: each becomes one of our tree, with what to do about it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import queue
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

import docker
import docker.errors
import urllib3
from docker.context import ContextAPI
from docker.tls import TLSConfig
from docker.utils import parse_repository_tag

from kernel_provisioner_core import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelExit,
    KernelNotFoundError,
    KernelProvisionerError,
    LaunchError,
)
from kernel_provisioner_core.threads import start_thread
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_docker.containers import LABEL

__all__ = ["Engine", "EngineAddress", "EngineWatch", "Image", "PortTakenError"]

# What the SDK and the libraries below it raise when nobody answers, or not in full; those of requests are OSErrors.
_UNREACHABLE = (docker.errors.DockerException, urllib3.exceptions.HTTPError, OSError)

_REMOVAL_TRIED = 3600  # seconds
_TIMEOUT = 60  # seconds for one answer; a pull and the events stream have none
_SIGNALS = (
    128  # an init's exit code for a child that a signal has ended is this and the signal's number
)


class PortTakenError(LaunchError):
    """Raised when a port was taken between its choice and the start of the container."""


@dataclass(frozen=True)
class EngineAddress:
    """Where an engine is.

    Args:
        url: `unix://`, `npipe://`, `tcp://`.
        tls_dir: A directory with ca.pem, cert.pem and key.pem; empty for a connection without TLS.
    """

    url: str
    tls_dir: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the engine's 127.0.0.1 is ours."""
        parsed = urlparse(self.url)
        return parsed.scheme in ("unix", "npipe") or self.host in ("127.0.0.1", "localhost", "::1")

    @property
    def host(self) -> str:
        """The engine's host, where the address names one."""
        return urlparse(self.url).hostname or ""

    @classmethod
    def find(
        cls, docker_host: str = "", docker_context: str = "", tls_dir: str = ""
    ) -> EngineAddress:
        """Return the address that the docker command would use, unless one is given.

        That is: DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH; else the current context; else the default socket.

        Raises:
            ConfigurationError: There is no such context, or the address is of a kind that cannot serve kernels.
        """
        url = docker_host or ("" if docker_context else os.environ.get("DOCKER_HOST", ""))
        if url and not tls_dir and os.environ.get("DOCKER_TLS_VERIFY"):
            tls_dir = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
        if not url:
            url, context_tls = _context_address(docker_context)
            tls_dir = tls_dir or context_tls
        if urlparse(url).scheme == "ssh":
            raise ConfigurationError(
                f"The engine {url} is reached over ssh, and the way to its kernels would have to be tunnelled.",
                hint="Use a TLS-protected tcp:// address and a kernel that encrypts, or kernel-provisioner-ssh.",
            )
        if urlparse(url).scheme == "http+unix":
            url = url.replace("http+unix", "unix", 1)
        return cls(url, tls_dir)


@dataclass(frozen=True)
class Image:
    """What is needed to know of an image.

    Args:
        id: Its id.
        user: Its USER.
        platform: `os/architecture`.
        working_dir: Its WORKDIR.
        env: Its ENV.
    """

    id: str
    user: str
    platform: str
    working_dir: str
    env: dict[str, str] = field(default_factory=dict)


class _Client(docker.APIClient):
    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Let the engine's own authority count, and not the one of REQUESTS_CA_BUNDLE."""
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


@dataclass
class Engine:
    """An engine; its methods block and may be called from any thread.

    Every method raises BackendUnavailableError if the engine cannot be reached, and KernelNotFoundError
    if it names a container that is gone.

    Args:
        address: Where it is.
    """

    address: EngineAddress
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _api: Any = field(default=None, repr=False)

    @property
    def api(self) -> Any:
        """The SDK's client, connected with the first use."""
        with self._lock:
            if self._api is None:
                with self._translated():
                    self._api = _Client(
                        base_url=self.address.url,
                        version="auto",
                        timeout=_TIMEOUT,
                        tls=self._tls() or False,
                    )
            return self._api

    @functools.cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman behind Docker's interface."""
        with self._translated():
            components = self.api.version().get("Components") or ()
        return any("podman" in str(component.get("Name", "")).lower() for component in components)

    def image(self, name: str) -> Image | None:
        """Return an image that the engine has, or None."""
        try:
            with self._translated():
                found = self.api.inspect_image(name)
        except KernelNotFoundError:
            return None
        config = found.get("Config") or {}
        return Image(
            id=found["Id"],
            user=config.get("User") or "",
            platform=f"{found.get('Os', '')}/{found.get('Architecture', '')}",
            working_dir=config.get("WorkingDir") or "",
            env=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        )

    def pull(
        self,
        name: str,
        *,
        platform: str,
        auth: dict[str, str] | None,
        progress: Callable[[str], None],
        cancelled: threading.Event,
    ) -> None:
        """Pull an image.

        Args:
            name: The image, with tag or digest; `latest` otherwise.
            platform: As `linux/arm64`; empty for the engine's own.
            auth: User name and password; None for what ~/.docker/config.json has.
            progress: Told how many bytes have come, of how many.
            cancelled: Ends the pull when it is set.

        Raises:
            LaunchError: The registry refuses, has no such image, or the engine's disk is full; or it was cancelled.
        """
        repository, tag = parse_repository_tag(name)
        lines: queue.Queue[Any] = queue.Queue()

        def read() -> None:
            try:
                with self._translated(image=name):
                    for line in self.api.pull(
                        repository,
                        tag or "latest",
                        stream=True,
                        decode=True,
                        platform=platform or None,
                        auth_config=auth,
                    ):
                        lines.put(line)
                        if cancelled.is_set():
                            return
                lines.put(None)
            except KernelProvisionerError as error:
                lines.put(error)

        threading.Thread(target=read, name="kernel-pull", daemon=True).start()
        layers: dict[str, tuple[int, int]] = {}
        while True:
            if cancelled.is_set():
                raise LaunchError(f"The pull of {name!r} was given up.")
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line is None:
                return
            if isinstance(line, KernelProvisionerError):
                raise line
            if "error" in line:
                raise _pull_error(name, str(line["error"]))
            detail = line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and detail.get("total"):
                layers[line["id"]] = detail["current"], detail["total"]
                done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                progress(f"pulling {name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    def create(self, body: dict[str, Any], name: str, platform: str) -> str:
        """Create a container and return its id; an empty name lets the engine choose one.

        Raises:
            LaunchError: The engine refuses.
        """
        with self._translated(image=body["Image"]):
            created = self.api.create_container_from_config(
                body, name=name or None, platform=platform or None
            )
        return str(created["Id"])

    def put(self, container: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive into a directory of a container, started or not."""
        with self._translated():
            self.api.put_archive(container, path, archive)

    def files(self, container: str, path: str) -> dict[str, bytes]:
        """Return the regular files at or below a path of a container: their paths there to what they hold."""
        found: dict[str, bytes] = {}
        try:
            with self._translated():
                chunks, _ = self.api.get_archive(container, path)
                buffer = io.BytesIO(b"".join(chunks))
        except KernelNotFoundError:
            return found
        parent = os.path.dirname(path.rstrip("/"))
        with tarfile.open(fileobj=buffer) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    found[os.path.join(parent, member.name)] = file.read()
        return found

    def start(self, container: str) -> None:
        """Start a container, anew if it has ended.

        Raises:
            PortTakenError: Another process has one of the published ports.
            CommandNotFoundError: The image does not have the command.
            LaunchError: The engine refuses for another reason.
        """
        with self._translated():
            self.api.start(container)

    def kill(self, container: str, signum: int) -> None:
        """Send a signal to PID 1 of a container, which runs."""
        with self._translated():
            self.api.kill(container, signal=signum)

    def run(self, container: str, command: list[str]) -> tuple[int, str]:
        """Run a command beside the kernel; return its exit code and what it printed."""
        with self._translated():
            made = self.api.exec_create(container, command, user="0")
            output = self.api.exec_start(made["Id"])
            return self.api.exec_inspect(made["Id"])["ExitCode"], output.decode(errors="replace")

    def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, killing what runs; silent if it is gone."""
        with contextlib.suppress(KernelNotFoundError), self._translated():
            self.api.remove_container(container, v=True, force=True)

    def remove_later(self, container: str) -> None:
        """Remove a container, given by its id or name, as soon as the engine answers again; returns at once.

        What has not been removed after an hour is left.
        """

        def remove() -> None:
            pause, until = 0.2, time.monotonic() + _REMOVAL_TRIED
            while time.monotonic() < until:
                try:
                    self.remove(container)
                except BackendUnavailableError:
                    time.sleep(pause)
                    pause = min(pause * 2, 5.0)
                except KernelProvisionerError:
                    return
                else:
                    return

        start_thread(remove)

    def logs(self, container: str, tail: int) -> str:
        """Return the last `tail` bytes that a container printed."""
        lines = max(20, tail // 40)  # the engine counts in lines
        with self._translated():
            printed = self.api.logs(container, tail=lines)
        return str(printed[-tail:].decode(errors="replace"))

    def ended(self, container: str) -> KernelExit | None:
        """Return how a container has ended; None if it runs, or has not been started yet."""
        with self._translated():
            state = self.api.inspect_container(container)["State"]
        return _exit_of_state(state)

    def containers(self, label: str) -> list[dict[str, Any]]:
        """Return the containers that have a label (`name` or `name=value`), as the engine lists them."""
        with self._translated():
            return list(self.api.containers(all=True, filters={"label": [label]}))

    def events(self) -> Any:
        """Return the stream of events of kernels' containers; it has `close`."""
        with self._translated():
            return self.api.events(decode=True, filters={"type": "container", "label": [LABEL]})

    def _tls(self) -> TLSConfig | None:
        if not self.address.tls_dir:
            return None
        files = [
            os.path.join(self.address.tls_dir, name) for name in ("ca.pem", "cert.pem", "key.pem")
        ]
        for file in files:
            if not os.path.exists(file):
                raise ConfigurationError(
                    f"The engine {self.address.url} wants TLS, and {file!r} does not exist.",
                    hint="tls_dir (or DOCKER_CERT_PATH) has to hold ca.pem, cert.pem and key.pem.",
                )
        return TLSConfig(ca_cert=files[0], client_cert=(files[1], files[2]), verify=True)

    @contextlib.contextmanager
    def _translated(self, image: str = "") -> Iterator[None]:
        """Turn the SDK's exceptions into ours."""
        try:
            yield
        except docker.errors.APIError as error:
            raise _api_error(error, image) from error
        except _UNREACHABLE as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> BackendUnavailableError:
        text = str(error)
        path = urlparse(self.address.url).path
        if "Permission denied" in text or "PermissionError" in text:
            return BackendUnavailableError(
                f"The Docker engine's socket {path} does not let this user in.",
                hint="Have the user added to the group docker (`sudo usermod -aG docker $USER`, then log in anew).",
            )
        if "FileNotFoundError" in text or "No such file" in text:
            return BackendUnavailableError(
                f"No Docker engine listens at {self.address.url}.",
                hint="Start it (`sudo systemctl start docker`), or say where it is by DOCKER_HOST or docker_host.",
            )
        reason = re.sub(
            r"^.*?(Connection refused|timed out|SSL\w*|certificate[\w ]*).*$",
            r"\1",
            text,
            flags=re.S,
        )
        return BackendUnavailableError(
            f"The Docker engine at {self.address.url} cannot be reached: {reason[:200]}.",
            hint="`docker version` tells whether it answers; DOCKER_HOST or docker_host says where it is.",
        )


class EngineWatch(Watch):
    """Learns of the ends of containers from the one stream of events of an engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        """Connect to nothing yet."""
        super().__init__()
        self._engine = engine
        self._stream: Any = None

    def follow(self) -> Iterator[tuple[str, KernelExit | None]]:
        """Yield the ends and removals of containers."""
        self._stream = stream = self._engine.events()
        yield "", None
        try:
            for event in stream:
                container = event.get("id") or event.get("Actor", {}).get("ID", "")
                action = event.get("status") or event.get("Action", "")
                attributes = event.get("Actor", {}).get("Attributes", {})
                if action in ("die", "died"):  # Docker's word and Podman's, as for the attribute
                    code = int(
                        attributes.get("exitCode") or attributes.get("containerExitCode") or 0
                    )
                    yield container, self._ended(container, code)
                elif action in ("destroy", "remove"):
                    yield container, KernelExit(None, "its container was removed by somebody else")
        except (*_UNREACHABLE, ValueError) as error:
            raise BackendUnavailableError(
                f"The stream of events of {self._engine.address.url} broke."
            ) from error
        finally:
            _close(stream)

    def list(self) -> dict[str, KernelExit | None]:
        """Return the kernels' containers."""
        found: dict[str, KernelExit | None] = {}
        for container in self._engine.containers(LABEL):
            ended = None
            if container.get("State") in ("exited", "dead", "stopped"):
                with contextlib.suppress(KernelNotFoundError):
                    ended = self._engine.ended(container["Id"])
            found[container["Id"]] = ended
        return found

    def interrupt(self) -> None:
        """Close the stream."""
        stream = self._stream
        if stream is not None:
            _close(stream)

    def _ended(self, container: str, code: int) -> KernelExit:
        if (
            code == _SIGNALS + 9
        ):  # only then does the engine's mark say that the kernel itself was meant
            with contextlib.suppress(KernelProvisionerError):
                return self._engine.ended(container) or _exit(code)
        return _exit(code)


def _close(stream: Any) -> None:
    # the SDK looks for the socket where there is none any more
    with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
        stream.close()


def _exit(code: int, *, out_of_memory: bool = False) -> KernelExit:
    if _SIGNALS < code < _SIGNALS + 65:
        return KernelExit(
            _SIGNALS - code, "out of memory" if out_of_memory and code == _SIGNALS + 9 else ""
        )
    return KernelExit(code)


def _exit_of_state(state: dict[str, Any]) -> KernelExit | None:
    if state.get("Status") not in ("exited", "dead", "stopped"):
        return None
    return _exit(int(state.get("ExitCode") or 0), out_of_memory=bool(state.get("OOMKilled")))


def _context_address(name: str) -> tuple[str, str]:
    try:
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except docker.errors.DockerException as error:
        raise ConfigurationError(
            f"The docker context {name!r} cannot be read: {error}.",
            hint="`docker context ls` lists them.",
        ) from error
    if context is None:
        raise ConfigurationError(
            f"There is no docker context {name!r}.", hint="`docker context ls` lists them."
        )
    host = str(context.Host)
    authority = getattr(context.TLSConfig, "ca_cert", None)
    return host, os.path.dirname(authority) if authority else ""


# The engines' words, Docker's and Podman's, in lower case.
_GONE = (
    "no such container",
    "no container with",
    "could not find the file",
    "no such image",
    "no such file",
    "image not known",
)
_NOT_RUNNING = (
    "is not running",
    "is paused",
    "can only kill running",
    "can only create exec sessions",
)


def _disk_full(text: str) -> LaunchError:
    return LaunchError(
        f"The engine's disk is full: {text}.",
        hint="`docker system df` shows what takes it, `docker system prune` frees it.",
    )


def _api_error(error: docker.errors.APIError, image: str) -> KernelProvisionerError:
    text = str(error.explanation or error)
    low = text.lower()
    if image and error.status_code == 404 and "network" not in low:
        return _pull_error(image, text)
    if error.status_code == 404 and any(word in low for word in _GONE):
        return KernelNotFoundError(f"The engine does not have it: {text}.")
    if "port is already allocated" in low or "address already in use" in low:
        return PortTakenError(
            f"A port of the kernel was taken while it was started: {text}.",
            hint="Start the kernel again.",
        )
    if "no space left on device" in low:
        return _disk_full(text)
    if "executable file not found" in low or ("no such file or directory" in low and "exec" in low):
        return CommandNotFoundError(
            f"The image does not have the kernel's command: {text}.",
            hint="Correct `argv` in kernel.json, or take an image that has the kernel.",
        )
    if "exec format error" in low:
        return LaunchError(
            f"The image is for another architecture: {text}.",
            hint="Take an image for this engine's architecture, or set `platform`.",
        )
    if any(word in low for word in _NOT_RUNNING):
        if "paused" in low:
            return KernelProvisionerError(
                f"The kernel's container is paused: {text}.", hint="`docker unpause` lets it go on."
            )
        return KernelNotFoundError(f"The kernel's container does not run: {text}.")
    if any(
        word in low
        for word in ("pull access denied", "unauthorized", "authentication required", "denied")
    ):
        return _pull_error(image, text)
    if image and (error.status_code or 0) >= 500:
        return _pull_error(image, text)
    return LaunchError(
        f"The engine refuses: {text}.", hint="The engine's words say what it does not like."
    )


def _pull_error(image: str, text: str) -> LaunchError:
    low = text.lower()
    if "no space left" in low:
        return _disk_full(text)
    if any(word in low for word in ("unauthorized", "authentication", "denied", "no basic auth")):
        return LaunchError(
            f"The registry does not let the image {image!r} be pulled: {text}.",
            hint="If it exists: `docker login` to its registry, or give registry_auth.",
        )
    if "does not match the specified platform" in low or "no matching manifest" in low:
        return LaunchError(
            f"The image {image!r} does not exist for this platform: {text}.",
            hint="Set `platform` to one that it exists for.",
        )
    if any(word in low for word in ("not found", "manifest unknown", "no such image", "unknown")):
        return LaunchError(
            f"The image {image!r} does not exist: {text}.",
            hint="Correct `image`; `docker pull` with the same name tells the same.",
        )
    return LaunchError(
        f"The image {image!r} cannot be pulled: {text}.",
        hint="Is its registry reachable from the engine? `docker pull` with the same name tells the same.",
    )
