"""One watch for all kernels of this process in one namespace of one cluster."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from kernel_provisioner_core.errors import BackendUnavailableError, KernelProvisionerError
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.threads import start_thread
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_k8s.client import Cluster, RefusedError, Stream, pods_path
from kernel_provisioner_k8s.naming import MANAGED_BY
from kernel_provisioner_k8s.status import is_unreachable, kernel_exit

__all__ = ["EventFeed", "PodWatch"]

_SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
_LENGTH = 290  # seconds until the server ends a watch and it is continued
_SILENCE = 150.0  # seconds; bookmarks come each minute
_GONE = 410
# What is left of a container whose pod was deleted without grace; kubelets take two seconds.
_FORCED_END = 3.0
_DELETED = KernelExit(None, "its pod was deleted by somebody else")

_log = logging.getLogger(__name__)

News = tuple[str, Any]
"""What a launch is told: ("pod", pod), ("deleted", pod), ("event", event) or ("refused", error)."""


class PodWatch(Watch):
    """Follows the pods of a namespace that this package has made; a list, and then a watch from there.

    Args:
        load: Returns the cluster; called with each connection, so that renewed credentials are found.
        namespace: The namespace.
    """

    def __init__(self, load: Callable[[], Cluster], namespace: str) -> None:
        """Connect to nothing yet."""
        super().__init__()
        self._load = load
        self._namespace = namespace
        self._version = ""
        self._pods: dict[str, dict[str, Any]] = {}
        self._readers: dict[str, SimpleQueue[News]] = {}
        self._stream: Stream | None = None
        self._refused: KernelProvisionerError | None = None
        self._pods_lock = threading.Lock()

    # -- for launches ---------------------------------------------------------------------------

    def subscribe(self, name: str) -> SimpleQueue[News]:
        """Return a queue with what happens to a pod from now on, and how it is now."""
        news: SimpleQueue[News] = SimpleQueue()
        with self._pods_lock:
            self._readers[name] = news
            pod = self._pods.get(name)
            if pod is not None:
                news.put(("pod", pod))
            if self._refused is not None:
                news.put(("refused", self._refused))
        return news

    def unsubscribe(self, name: str) -> None:
        """End what `subscribe` began. May be called twice."""
        with self._pods_lock:
            self._readers.pop(name, None)

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod as it was last seen; empty if it has not been seen yet, or is gone."""
        return self._pods.get(name, {})

    def started(self, name: str) -> None:
        """Learn of a kernel from lists as well from now on; what was seen of it meanwhile is told."""
        pod = self._pods.get(name)
        if pod is None:  # it is gone, or nothing has been listed yet
            super().started(name)
            return
        with Watch._lock:
            self._starting.discard(name)
            self._passed_over.discard(name)
        self._tell(name, kernel_exit(pod))

    # -- for core -------------------------------------------------------------------------------

    def follow(self) -> Iterator[tuple[str, KernelExit | None]]:
        """List, then follow from there; see the base class."""
        stopping = self._stopping
        yield "", None  # has `list` called, which learns from where to follow
        while not stopping.is_set():
            query = {
                "labelSelector": _SELECTOR,
                "resourceVersion": self._version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(_LENGTH),
            }
            try:
                with self._failures():
                    stream = self._load().follow(pods_path(self._namespace), query, _SILENCE)
            except _TooOldError:
                yield "", None
                continue
            self._stream = stream
            try:
                if stopping.is_set():
                    return
                for event in stream:
                    if event.get("type") == "ERROR":
                        if (event.get("object") or {}).get("code") != _GONE:
                            _log.debug("The watch of pods has ended: %s", event.get("object"))
                        yield "", None  # what lies between is too old to be told: list again
                        break
                    name = self._learn(event)
                    if name:
                        yield name, self._ended(name, event)
            finally:
                stream.close()

    def list(self) -> dict[str, KernelExit | None]:
        """Return the kernels whose pods exist; see the base class."""
        query = {"labelSelector": _SELECTOR}
        with self._failures():
            found = self._load().request("GET", pods_path(self._namespace), query=query)
        pods = {pod["metadata"]["name"]: pod for pod in found.get("items") or ()}
        with self._pods_lock:
            self._refused = None
            self._version = found["metadata"]["resourceVersion"]
            gone = self._pods.keys() - pods.keys()
            for name in gone & self._readers.keys():
                self._readers[name].put(("deleted", self._pods[name]))
            self._pods = pods
            for name in pods.keys() & self._readers.keys():
                self._readers[name].put(("pod", pods[name]))
        return {name: kernel_exit(pod) for name, pod in pods.items()}

    def interrupt(self) -> None:
        """Make `follow` end; see the base class."""
        stream = self._stream
        if stream is not None:
            stream.close()

    # -- steps ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Tell the launches that wait why nothing will come; to core, it is a server that is away."""
        try:
            yield
        except BackendUnavailableError:
            raise
        except KernelProvisionerError as error:
            if isinstance(error, RefusedError) and error.status == _GONE:
                raise _TooOldError from error
            with self._pods_lock:
                self._refused = error
                for reader in self._readers.values():
                    reader.put(("refused", error))
            raise BackendUnavailableError(f"Pods cannot be watched: {error.message}") from error

    def _learn(self, event: Mapping[str, Any]) -> str:
        """Keep what an event tells; return the pod's name, or nothing if it is about none."""
        pod = event.get("object") or {}
        metadata = pod.get("metadata") or {}
        self._version = metadata.get("resourceVersion") or self._version
        if event.get("type") == "BOOKMARK":
            return ""
        name = str(metadata.get("name", ""))
        deleted = event.get("type") == "DELETED"
        with self._pods_lock:
            if deleted:
                self._pods.pop(name, None)
            else:
                self._pods[name] = pod
            reader = self._readers.get(name)
            if reader is not None:
                reader.put(("deleted" if deleted else "pod", pod))
        return name

    def _ended(self, name: str, event: Mapping[str, Any]) -> KernelExit | None:
        pod = event["object"]
        ended = kernel_exit(pod)
        if ended is not None or event.get("type") != "DELETED":
            return ended
        if (pod["metadata"].get("deletionGracePeriodSeconds") or 0) > 0:
            return _DELETED
        # deleted without grace: the object is gone, and the kernel still runs for a moment
        timer = threading.Timer(_FORCED_END, self._tell, (name, _DELETED))
        timer.daemon = True
        timer.start()
        return None

    def _tell(self, name: str, ended: KernelExit | None) -> None:
        if ended is None and is_unreachable(self._pods.get(name, {})):
            with Watch._lock:
                liveness = self._kernels.get(name)
            if liveness is not None:
                liveness.set_unknown()
            return
        super()._tell(name, ended)


class _TooOldError(Exception):
    """Raised when the server does not remember the version that is to be followed from."""


class EventFeed:
    """The events of one pod, for as long as its launch takes. Where they may not be read, there are none.

    Args:
        cluster: The cluster.
        namespace: The pod's namespace.
        uid: The pod's uid.
        news: Where they go, as ("event", event).
    """

    def __init__(self, cluster: Cluster, namespace: str, uid: str, news: SimpleQueue[News]) -> None:
        self._news = news
        self._closed = threading.Event()
        self._stream: Stream | None = None
        self.refused = False
        start_thread(self._run, cluster, namespace, uid)

    def close(self) -> None:
        """End it. May be called twice."""
        self._closed.set()
        if self._stream is not None:
            self._stream.close()

    def _run(self, cluster: Cluster, namespace: str, uid: str) -> None:
        path = f"{pods_path(namespace).rpartition('/')[0]}/events"
        query = {"fieldSelector": f"involvedObject.uid={uid}", "timeoutSeconds": str(_LENGTH)}
        while not self._closed.is_set():
            try:
                self._stream = cluster.follow(path, query, float(_LENGTH + 10))
                if self._closed.is_set():
                    self._stream.close()
                    return
                for event in self._stream:
                    self._news.put(("event", event.get("object") or {}))
            except RefusedError:
                self.refused = True
                return
            except KernelProvisionerError as error:
                _log.debug("The events of a launch are not followed: %s", error)
                return
