"""One API server, as one user sees it: requests, streams, commands in pods, port-forwards.

This is the only module that imports `kubernetes`, `websocket` and `yaml`, and it takes a second to import: the
provisioner does so in a thread. The library reads the kubeconfig, gets and renews credentials, and has the types of
manifests. Requests go through its connection pool as JSON, since making objects of every answer costs more than the
request, and websockets through connections of their own, since the library's `stream` swaps the methods of the
client that it is given, under the feet of all other threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import kubernetes.client
import kubernetes.config
import urllib3
import websocket
import yaml  # type: ignore[import-untyped]
from kubernetes.client import models
from kubernetes.client.rest import RESTClientObject

from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    ConfigurationError,
    KernelNotFoundError,
    KernelProvisionerError,
    LaunchError,
    SignalError,
)
from kernel_provisioner_k8s.location import SERVICE_ACCOUNT, kubeconfig_path, runs_inside

__all__ = [
    "Cluster",
    "CommandUnavailableError",
    "CredentialsError",
    "RefusedError",
    "Stream",
    "models",
    "pod_path",
    "pods_path",
    "read_template",
    "serialize",
]

_CONNECT_LIMIT = 10.0  # seconds
_READ_LIMIT = 60.0  # seconds; for answers, not for streams
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0  # seconds between two tries of a request
_FIRST_PATIENCE = 2.0  # seconds, with a server that has not answered yet
_CHANNELS = "v4.channel.k8s.io"
_STDOUT, _STDERR, _STATUS = 1, 2, 3
# Statuses that say "not now".
_BUSY = (429, 502, 503, 504)
_config: Any = kubernetes.config  # its functions have no types


class RefusedError(LaunchError):
    """Raised when the API server answers and refuses; the message has its own words.

    Args:
        message: What was refused, and the server's words.
        status: The HTTP status.
        hint: What can be done.
    """

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        """Keep the status beside the message."""
        super().__init__(message, hint=hint)
        self.status = status


class CredentialsError(BackendUnavailableError):
    """Raised when the API server answers, but does not accept the credentials; trying again does not help."""


class CommandUnavailableError(SignalError):
    """Raised when a command cannot be run beside the kernel, since its image does not have it."""


class Stream:
    """The events of a watch, one JSON object each.

    Args:
        response: The answer that they come with.
    """

    def __init__(self, response: Any) -> None:
        self._response = response
        self._closed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the events as they come; end when the server ends them.

        Raises:
            BackendUnavailableError: The connection is lost, or `close` was called.
        """
        rest = b""
        try:
            for chunk in self._response.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            raise BackendUnavailableError(f"The watch has lost its connection: {error}") from error

    def close(self) -> None:
        """End it, also while another thread reads. May be called twice."""
        if self._closed:
            return
        self._closed = True
        sock = _socket_of(self._response)
        if sock is not None:
            # closing would not wake the reader
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            self._response.close()


class Cluster:
    """An API server and the credentials for it. All methods may be called from any thread, and block.

    Args:
        configuration: The library's own.
        namespace: Where kernels run that name no namespace.
        inside: Whether the credentials are those of the pod that this process runs in.
    """

    _loaded: dict[tuple[str, str], tuple[tuple[Any, ...], Cluster]] = {}  # noqa: RUF012 - guarded by _lock
    _lock = threading.Lock()

    def __init__(self, configuration: Any, namespace: str, *, inside: bool) -> None:
        self.namespace = namespace
        self.inside = inside
        self.host: str = configuration.host.rstrip("/")
        self._configuration = configuration
        configuration.connection_pool_maxsize = 32
        configuration.retries = False
        configuration.socket_options = _socket_options()
        self._pool = RESTClientObject(configuration).pool_manager
        self._reached = False
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()

    @classmethod
    def load(cls, kubeconfig: str = "", context: str = "") -> Cluster:
        """Return the cluster that these options and the environment lead to; the same one while that has not changed.

        Args:
            kubeconfig: The path of the kubeconfig; by default KUBECONFIG's, else ~/.kube/config, else the service
                account of the pod that this process runs in.
            context: The context; by default the current one.

        Raises:
            ConfigurationError: There is no usable kubeconfig, or no such context.
        """
        path = kubeconfig_path(kubeconfig)
        key = (path, context)
        seen = tuple(_modified(part) for part in path.split(os.pathsep))
        with cls._lock:
            found = cls._loaded.get(key)
            if found is not None and found[0] == seen:
                return found[1]
            if runs_inside(kubeconfig, context):
                cluster = _load_service_account()
            else:
                cluster = _load_kubeconfig(path, context)
            cls._loaded[key] = (seen, cluster)
            return cluster

    def forget(self) -> None:
        """Have the credentials read anew by the next `load`: the server does not accept these any more."""
        with Cluster._lock:
            for key, (_, cluster) in list(Cluster._loaded.items()):
                if cluster is self:
                    del Cluster._loaded[key]

    # -- requests -------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        patience: float = 0.0,
        cancelled: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Make a request and return the answer.

        Args:
            method: The HTTP method.
            path: What it is about, from `/api` on.
            query: The parameters.
            body: What is sent, as JSON.
            patience: For how long it is tried again while the server is away or busy, in seconds. The request must be
                one that may arrive twice.
            cancelled: Ends the patience when it is set.

        Raises:
            BackendUnavailableError: The server cannot be reached, or does not accept the credentials.
            KernelNotFoundError: What it is about does not exist.
            RefusedError: The server refuses, for another reason.
        """
        text = self._request_text(method, path, query, body, patience, cancelled)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def read(self, path: str, query: Mapping[str, str]) -> str:
        """Return an answer that is text; raises as `request`."""
        return self._request_text("GET", path, query, None, 0.0, None).decode(errors="replace")

    def follow(self, path: str, query: Mapping[str, str], limit: float) -> Stream:
        """Return the events of a watch; raises as `request`.

        Args:
            path: What it is about.
            query: The parameters.
            limit: After how many seconds of silence the connection counts as lost.
        """
        response = self._send("GET", path, {**query, "watch": "1"}, None, limit)
        return Stream(response)

    def _request_text(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        patience: float,
        cancelled: threading.Event | None,
    ) -> bytes:
        if not self._reached:  # more likely a wrong address than a server that restarts
            patience = min(patience, _FIRST_PATIENCE)
        limit = time.monotonic() + patience
        pause = _FIRST_PAUSE
        tries = 0
        while True:
            tries += 1
            try:
                response = self._send(method, path, query, body, _READ_LIMIT)
                try:
                    return bytes(response.read())
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise self._away(error) from error
            except CredentialsError:
                raise
            except BackendUnavailableError:
                # a connection out of the pool may have died unseen: once more, at once
                if tries > 1 and time.monotonic() + pause > limit:
                    raise
            except RefusedError as error:
                if not _may_pass(error) or time.monotonic() + pause > limit:
                    raise
            if tries > 1:
                if cancelled is not None and cancelled.wait(pause):
                    raise LaunchError("The launch was cancelled.")
                if cancelled is None:
                    time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        limit: float,
    ) -> Any:
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*", **self._authorization()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=_CONNECT_LIMIT, read=limit),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._away(error) from error
        self._reached = True
        if response.status >= 300:
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                raise self._refusal(response.status, response.read(), f"{method} {path}")
            raise self._refusal(response.status, b"", f"{method} {path}")
        return response

    def _authorization(self) -> dict[str, str]:
        try:
            settings = self._configuration.auth_settings()  # renews a token that is about to expire
        except (kubernetes.config.ConfigException, OSError) as error:
            raise CredentialsError(
                f"The credentials for {self.host} cannot be renewed: {error}", hint=_LOGIN
            ) from error
        headers = {}
        for setting in settings.values():
            if setting.get("in") == "header" and setting.get("value"):
                headers[setting["key"]] = setting["value"]
        return headers

    def _away(self, error: Exception) -> BackendUnavailableError:
        reason = getattr(error, "reason", None) or error
        return BackendUnavailableError(
            f"The API server at {self.host} cannot be reached: {reason}",
            hint="Is the cluster up, and this the right context? `kubectl cluster-info` tries the same.",
        )

    def _refusal(self, status: int, body: bytes, what: str) -> KernelProvisionerError:
        words = _words(body) or f"HTTP status {status}"
        if status == 401:
            self.forget()
            return CredentialsError(
                f"The API server at {self.host} does not accept the credentials ({words}).",
                hint=_LOGIN,
            )
        if status == 404:
            return KernelNotFoundError(f"The API server says: {words}")
        hint = ""
        if "exceeded quota" in words:
            hint = "Ask for less in `resources`, or end other kernels of this namespace."
        elif status == 403 and "admission webhook" not in words and "cannot" in words:
            hint = "The role that is needed is printed by `python -m kernel_provisioner_k8s.rbac`."
        del what
        return RefusedError(f"The API server refuses: {words}", status, hint=hint)

    # -- websockets -----------------------------------------------------------------------------

    def dial_port(self, namespace: str, pod: str, port: int) -> socket.socket:
        """Return the socket of a new port-forward, with its handshake done; `portforward` knows what it speaks.

        Raises:
            BackendUnavailableError: The API server cannot be reached.
            KernelNotFoundError: The pod is gone.
            RefusedError: The server refuses.
        """
        path = f"{pod_path(namespace, pod)}/portforward"
        return self._dial(path, [("ports", str(port))])

    def execute(
        self, namespace: str, pod: str, container: str, command: Sequence[str], limit: float = 30.0
    ) -> tuple[int, str]:
        """Run a command in a container; return its exit code and its output.

        Raises:
            BackendUnavailableError: The API server cannot be reached, or went away meanwhile.
            CommandUnavailableError: The image does not have the command.
            KernelNotFoundError: The pod or its container is gone.
            SignalError: It cannot be run for another reason.
        """
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        try:
            sock = self._dial(f"{pod_path(namespace, pod)}/exec", query)
        except RefusedError as error:
            text = error.message
            if (
                "not found" in text
                or "not running" in text
                or "completed" in text
                or "stopped" in text
            ):
                raise KernelNotFoundError(f"The kernel's container does not run. {text}") from error
            raise SignalError(
                f"No command can be run in pod {pod}. {text}", hint=error.hint
            ) from error
        connection = websocket.WebSocket()
        connection.sock = sock
        connection.connected = True
        connection.settimeout(limit)
        output, status = bytearray(), b""
        try:
            while True:
                frame: Any = connection.recv_frame()  # type: ignore[no-untyped-call]
                if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                if frame.opcode not in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT):
                    continue
                data = frame.data if isinstance(frame.data, bytes) else frame.data.encode()
                if data[:1] and data[0] == _STATUS:
                    status += data[1:]
                elif data[:1] and data[0] in (_STDOUT, _STDERR):
                    output += data[1:]
        except (websocket.WebSocketException, OSError) as error:
            if not status:
                raise BackendUnavailableError(
                    f"The connection to pod {pod} was lost in the middle of a command: {error}"
                ) from error
        finally:
            sock.close()
        return _exit_code(pod, status), output.decode(errors="replace")

    def _dial(self, path: str, query: Sequence[tuple[str, str]]) -> socket.socket:
        scheme, rest = self.host.split("://", 1)
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}{path}?{urlencode(query)}"
        options: dict[str, Any] = {
            "header": [f"{name}: {value}" for name, value in self._authorization().items()],
            "subprotocols": [_CHANNELS],
            "timeout": _CONNECT_LIMIT,
            "suppress_origin": True,
            **self._proxy(url),
        }
        if scheme == "https":
            options["sslopt"] = self._tls_options()
        try:
            connection = websocket.create_connection(url, **options)
        except websocket.WebSocketBadStatusException as error:
            body = getattr(error, "resp_body", None) or b""
            raise self._refusal(error.status_code, bytes(body), f"GET {path}") from error
        except (websocket.WebSocketException, OSError) as error:
            raise self._away(error) from error
        assert connection.sock is not None
        return connection.sock

    def _tls_options(self) -> dict[str, Any]:
        """Return the TLS context that all websockets share; reading certificates for each costs a millisecond."""
        configuration = self._configuration
        with self._tls_lock:
            if self._tls is None:
                data = getattr(configuration, "ca_cert_data", None)
                context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=data)
                if not configuration.verify_ssl:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                elif configuration.assert_hostname is False:
                    context.check_hostname = False
                if configuration.cert_file:
                    context.load_cert_chain(configuration.cert_file, configuration.key_file)
                self._tls = context
        options: dict[str, Any] = {"context": self._tls}
        if getattr(configuration, "tls_server_name", None):
            options["server_hostname"] = configuration.tls_server_name
        return options

    def _proxy(self, url: str) -> dict[str, Any]:
        configuration = self._configuration
        if not configuration.proxy:
            # or it would take the proxy of the environment, which requests do not
            return {"http_no_proxy": [urlsplit(url).hostname]}
        proxy = urlsplit(configuration.proxy)
        options: dict[str, Any] = {
            "http_proxy_host": proxy.hostname,
            "http_proxy_port": proxy.port,
            "proxy_type": "http",
        }
        if configuration.no_proxy:
            options["http_no_proxy"] = configuration.no_proxy.split(",")
        if proxy.username:
            options["http_proxy_auth"] = (proxy.username, proxy.password or "")
        return options


_LOGIN = "Log in to the cluster again, or renew the kubeconfig."


def pods_path(namespace: str) -> str:
    """Return the path of a namespace's pods."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"


def pod_path(namespace: str, pod: str) -> str:
    """Return the path of a pod."""
    return f"{pods_path(namespace)}/{quote(pod, safe='')}"


def serialize(typed: Any) -> Any:
    """Return one of the library's typed objects as JSON values."""
    client: Any = kubernetes.client.ApiClient()
    return client.sanitize_for_serialization(typed)


def read_template(path: str) -> dict[str, Any]:
    """Return what a file with one pod in YAML or JSON holds.

    Raises:
        ConfigurationError: It cannot be read, or is no pod.
    """
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"pod_template {path!r} cannot be read: {error}",
            hint="It has to be one pod in YAML or JSON, on the machine of the server.",
        ) from error
    if isinstance(found, dict) and found.get("kind") == "PodTemplate":
        found = found.get("template")
    if not isinstance(found, dict) or found.get("kind", "Pod") != "Pod":
        raise ConfigurationError(f"pod_template {path!r} is no pod.")
    return found


def _load_service_account() -> Cluster:
    configuration = _new_configuration()
    try:
        _config.load_incluster_config(client_configuration=configuration)
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except (kubernetes.config.ConfigException, OSError) as error:
        raise ConfigurationError(
            f"The service account of this pod cannot be used: {error}",
            hint="Mount its token, or set `kubeconfig`.",
        ) from error
    return Cluster(configuration, namespace, inside=True)


def _load_kubeconfig(path: str, context: str) -> Cluster:
    configuration = _new_configuration()
    try:
        _config.load_kube_config(
            config_file=path,
            context=context or None,
            client_configuration=configuration,
            persist_config=False,
        )
        contexts, current = _config.list_kube_config_contexts(path)
    except (
        kubernetes.config.ConfigException,
        OSError,
        yaml.YAMLError,
        KeyError,
        TypeError,
    ) as error:
        missing = not any(os.path.exists(part) for part in path.split(os.pathsep))
        raise ConfigurationError(
            f"There is no kubeconfig {path!r}."
            if missing
            else f"The kubeconfig {path!r} cannot be used{f' with context {context!r}' if context else ''}: {error}",
            hint="Set KUBECONFIG or the options `kubeconfig` and `context`; `kubectl config get-contexts` lists what "
            "there is.",
        ) from error
    named = {entry["name"]: entry for entry in contexts}
    chosen = named[context] if context else current
    namespace = (chosen.get("context") or {}).get("namespace") or "default"
    return Cluster(configuration, namespace, inside=False)


def _new_configuration() -> Any:
    # the class's own call would return the library's default, which others may have set
    return type.__call__(kubernetes.client.Configuration)


def _modified(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _socket_options() -> list[tuple[int, int, int]]:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # a server that vanished without a word is noticed within half a minute
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _socket_of(response: Any) -> Any:
    """Return the socket that an answer is read from, to end the reading from another thread."""
    connection = getattr(response, "_connection", None) or getattr(response, "connection", None)
    sock = getattr(connection, "sock", None)
    if sock is None:
        sock = getattr(getattr(getattr(response, "_fp", None), "fp", None), "raw", None)
        sock = getattr(sock, "_sock", None)
    return sock


def _words(body: bytes) -> str:
    """Return what the server says in an answer that refuses."""
    text = body.decode(errors="replace").strip()
    with contextlib.suppress(ValueError):
        status = json.loads(text)
        if isinstance(status, dict) and status.get("message"):
            return str(status["message"])
    return text[:500]


def _may_pass(error: RefusedError) -> bool:
    """Return whether the same request may succeed in a moment."""
    if error.status in _BUSY:
        return True
    # a namespace that is a second old has no service account yet
    return error.status in (403, 500) and (
        "No API token found for service account" in error.message
        or "error looking up service account" in error.message
    )


def _exit_code(pod: str, status: bytes) -> int:
    try:
        told = json.loads(status)
    except ValueError as error:
        raise BackendUnavailableError(
            f"The connection to pod {pod} ended without the result of a command."
        ) from error
    if told.get("status") == "Success":
        return 0
    words = str(told.get("message", ""))
    for cause in (told.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    if "executable file not found" in words or "no such file or directory" in words:
        raise CommandUnavailableError(f"The image of pod {pod} does not have the command. {words}")
    if "not running" in words or "not found" in words or "stopped" in words or "paused" in words:
        raise KernelNotFoundError(f"The kernel's container does not run. {words}")
    raise SignalError(f"A command in pod {pod} failed. {words}")
