"""`KubernetesProvisioner`: a kernel in a pod, reached through the API server."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import traitlets

from kernel_provisioner_core.connection import PORT_NAMES, KernelConnectionInfo
from kernel_provisioner_core.encryption import kernel_supports_curve
from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelNotFoundError,
    LaunchError,
    LaunchTimeoutError,
    SignalError,
)
from kernel_provisioner_core.forwarder import Duplex, Forwarder, SocketDuplex
from kernel_provisioner_core.remote import Handle, LaunchRequest, RemoteProvisioner
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_k8s import status
from kernel_provisioner_k8s.location import runs_inside
from kernel_provisioner_k8s.naming import (
    CONNECTION_FOLDER,
    KERNEL_CONTAINER,
    connection_file_name,
    pod_name,
)
from kernel_provisioner_k8s.portforward import PortForward
from kernel_provisioner_k8s.signalling import NOT_FOUND, request_interrupt, signal_commands

if TYPE_CHECKING:  # it imports the Kubernetes client, which takes a second: threads do that
    from kernel_provisioner_k8s.client import Cluster
    from kernel_provisioner_k8s.watch import PodWatch

__all__ = ["KubernetesProvisioner"]

# In a network of its own nobody else takes these; below the range that outgoing connections come from.
_PORTS = dict(zip(PORT_NAMES, range(27101, 27106), strict=True))
_SIGINT, _SIGKILL, _SIGTERM = 2, 9, 15
_PATIENCE = 20.0  # seconds that a launch tries on while the API server is away
_LOOK = 0.2  # seconds between two looks at whether a launch is cancelled
_DIAL_LIMIT = 5.0  # seconds
_START_LIMIT = 60.0  # seconds without news until a pod is given up, at least; launch_timeout begins when it runs
_SHORT_GRACE = 1  # seconds; the least with which a pod's end is seen
# What the events of a launch say that its reader wants to know.
_TOLD = {
    "BackOff",
    "Failed",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedMount",
    "FailedScheduling",
    "NotTriggerScaleUp",
    "Pulled",
    "Pulling",
    "TriggeredScaleUp",
}


class KubernetesProvisioner(RemoteProvisioner):
    """Runs a kernel in a pod of a Kubernetes cluster: any image that has the kernel, unmodified.

    The kernelspec's argv runs as it is. The connection file is a Secret that belongs to the pod. The server dials
    through the API server, so a cluster needs no way in but that one. A restart is a new pod behind the same local
    ports. See the package's README for the role that is needed.
    """

    image = traitlets.Unicode(
        config=True,
        help="The container image; it has the kernel that argv names, and nothing else is asked of it. Required.",
    ).tag(example="quay.io/jupyter/scipy-notebook:latest")

    pull_policy = traitlets.Enum(
        ["Always", "IfNotPresent", "Never"],
        None,
        allow_none=True,
        config=True,
        help="When a node pulls the image. Default: none, which is Kubernetes' rule: Always for the tag latest, else "
        "IfNotPresent.",
    )

    pull_secrets = traitlets.List(
        traitlets.Unicode(),
        config=True,
        help="Names of Secrets of the namespace with the credentials of registries. Default: none.",
    ).tag(example=["registry-login"])

    namespace = traitlets.Unicode(
        config=True,
        help="The namespace of the pods; it has to exist. Default: the context's, else the one that this server runs "
        "in, else `default`.",
    ).tag(example="notebooks")

    context = traitlets.Unicode(
        config=True,
        help="The context of the kubeconfig. Default: the current one.",
    )

    kubeconfig = traitlets.Unicode(
        config=True,
        help="The path of the kubeconfig. Default: KUBECONFIG's, else ~/.kube/config, else, in a pod, its service "
        "account; as kubectl does.",
    )

    connection = traitlets.Enum(
        ["auto", "port-forward", "direct"],
        "auto",
        config=True,
        help="How the kernel is reached: through the API server (`port-forward`), or at the pod's address (`direct`), "
        "which has to be reachable and takes a kernel that encrypts, since the network of a cluster is not private. "
        "Default: `auto`, which is `direct` for a server in the cluster and a kernel that says it can, else "
        "`port-forward`.",
    )

    env_from = traitlets.List(
        traitlets.Dict(),
        config=True,
        help='ConfigMaps and Secrets of the namespace whose entries become variables: {"secret": NAME} or '
        '{"config_map": NAME}, and perhaps a `prefix`. Default: none.',
    ).tag(example=[{"secret": "warehouse", "prefix": "DB_"}])

    working_dir = traitlets.Unicode(
        config=True,
        help="The kernel's working directory, in the container. Default: the image's.",
    ).tag(example="/home/jovyan")

    user = traitlets.Int(
        None,
        allow_none=True,
        min=0,
        config=True,
        help="The numeric user id that the kernel runs as. Default: the image's user.",
    ).tag(example=1000)

    group = traitlets.Int(
        None,
        allow_none=True,
        min=0,
        config=True,
        help="The numeric group id that the kernel runs as. Default: the image's group.",
    ).tag(example=100)

    fs_group = traitlets.Int(
        100,
        min=0,
        config=True,
        help="The group that owns volumes, and the connection file, and that the kernel is a member of. It is always "
        "set: without it a user other than root cannot read the connection file. Default: 100 (users).",
    )

    run_as_non_root = traitlets.Bool(
        None,
        allow_none=True,
        config=True,
        help="Whether a node refuses to run the kernel as root. Default: unset, since many images run as root.",
    )

    resources = traitlets.Dict(
        config=True,
        help="cpu (cores), memory (bytes, or as 2Gi), gpu (of nvidia.com/gpu), and any extended resource by its name. "
        "Each is request and limit; `requests` and `limits`, objects of the same form, set one of them. "
        "Default: none, which is the namespace's LimitRange, else no limit.",
    ).tag(example={"cpu": 2, "memory": "4Gi", "requests": {"cpu": "250m"}})

    mounts = traitlets.List(
        traitlets.Dict(),
        config=True,
        help="What is mounted: `type` (pvc, config-map, secret, host-path, empty-dir), `source` (its name, or the "
        "node's path), `target` (the path in the container), perhaps `read_only`, `sub_path`, and `size` of an "
        "empty-dir. Default: none.",
    ).tag(example=[{"type": "pvc", "source": "home-ada", "target": "/home/jovyan"}])

    node_selector = traitlets.Dict(
        key_trait=traitlets.Unicode(),
        value_trait=traitlets.Unicode(),
        config=True,
        help="Labels that the node has to have. Default: none.",
    ).tag(example={"pool": "gpu"})

    tolerations = traitlets.List(
        traitlets.Dict(),
        config=True,
        help="Taints that are tolerated, in Kubernetes' words. Default: none.",
    ).tag(example=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}])

    affinity = traitlets.Dict(
        config=True, help="Affinity to nodes and pods, in Kubernetes' words. Default: none."
    )

    priority_class = traitlets.Unicode(
        config=True, help="The name of a PriorityClass. Default: the cluster's."
    )

    service_account = traitlets.Unicode(
        config=True,
        help="The service account that the pod runs as. Default: the namespace's `default`.",
    )

    service_account_token = traitlets.Bool(
        False,
        config=True,
        help="Whether the kernel gets the service account's token, with which it can talk to the API server. "
        "Default: no, since code in notebooks seldom should.",
    )

    share_process_namespace = traitlets.Bool(
        True,
        config=True,
        help="Whether the containers of the pod share their process ids. A kernel that is process 1 can neither be "
        "killed nor terminated from beside it, only by deleting its pod, which takes seconds. Default: yes.",
    )

    labels = traitlets.Dict(
        key_trait=traitlets.Unicode(),
        value_trait=traitlets.Unicode(),
        config=True,
        help="Labels of the pod, beside those of the provisioner. Default: none.",
    ).tag(example={"team": "research"})

    annotations = traitlets.Dict(
        key_trait=traitlets.Unicode(),
        value_trait=traitlets.Unicode(),
        config=True,
        help="Annotations of the pod. Default: none.",
    )

    init_containers = traitlets.List(
        traitlets.Dict(),
        config=True,
        help="Containers that run before the kernel, in Kubernetes' words. Default: none.",
    ).tag(example=[{"name": "fetch", "image": "busybox", "command": ["true"]}])

    sidecars = traitlets.List(
        traitlets.Dict(),
        config=True,
        help="Containers that run beside the kernel, in Kubernetes' words. Default: none.",
    )

    unschedulable_timeout = traitlets.Float(
        0.0,
        min=0,
        config=True,
        help="How long a pod may wait for a node that fits. Default: 0, so that the scheduler's reason is told at "
        "once; in a cluster that adds nodes when pods wait, set it to what that takes.",
    ).tag(unit="seconds", example=600)

    pod_template = traitlets.Unicode(
        config=True,
        help="The path, on the server, of a file with a pod in YAML or JSON that the built pod is laid over; its "
        "container `kernel` is the kernel's. Default: none.",
    ).tag(example="/etc/jupyter/pod.yaml")

    pod_patch = traitlets.Dict(
        config=True,
        help="A strategic merge patch of the built pod, for what has no option; the kernel's container is called "
        "`kernel`. Default: none.",
    ).tag(example={"spec": {"dnsPolicy": "None", "containers": [{"name": "kernel", "tty": True}]}})

    restarts_in_place = False  # a pod that has ended stays so

    conformance_capabilities = (
        "interrupt",
        "interrupt-children",
        "interrupt-wrapped",
        "signals",
        "exit-codes",
        "exit-signals",
        "kills-descendants",
        "persistence",
        "captures-output",
        "awaits-readiness",
        "rejects-unknown-options",
        "filters-environment",
        "encryption",
        "holds-ports",
    )

    def __init__(self, **kwargs: Any) -> None:
        """Check the options; nothing is connected."""
        super().__init__(**kwargs)
        self._forwarder: Forwarder | None = None
        self._direct = False
        self._cancelled = threading.Event()
        self._container_started = True

    # -- the contract ---------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare as the base class does; decide how the kernel is to be reached.

        Raises:
            ConfigurationError: No image is named, or `connection` is `direct` and the kernel cannot encrypt.
        """
        if not self.image:
            raise ConfigurationError(
                "The option `image` is missing.",
                hint='Put "image": "..." into metadata.kernel_provisioner.config of kernel.json.',
            )
        if self.connection == "port-forward":
            wanted = False
        else:
            wanted = self.connection == "direct" or runs_inside(self.kubeconfig, self.context)
        if wanted and self._can_encrypt(kwargs):
            kwargs["transport_encryption"] = "auto"
        launch = await super().pre_launch(**kwargs)
        self._direct = wanted and bool(self.connection_info.get("curve_secretkey"))
        if self.connection == "direct" and not self._direct:
            with self._all_or_nothing():
                raise ConfigurationError(
                    "`connection` is direct, and the kernel does not say that it can encrypt.",
                    hint='If it can (ipykernel from 7.3 on), put "supported_encryption": ["curve"] under "metadata" in '
                    "kernel.json; else set `connection` to port-forward.",
                )
        return launch

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Create the pod and wait until its container runs; see the base class."""
        with self._all_or_nothing():
            self._open_forwarder()
        return await super().launch_kernel(cmd, **kwargs)

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Adopt a running kernel; see the base class. Its local ports lead to it again, unless the owner still runs."""
        await super().load_provisioner_info(provisioner_info)
        self._direct = bool((self._handle or {}).get("direct"))
        try:
            self._open_forwarder()
        except ConfigurationError as error:
            self.log.debug(
                "The ports of kernel %s are served by another process: %s", self.kernel_id, error
            )

    @property
    def connection_file_there(self) -> str:
        """The path of the connection file in the container."""
        return f"{CONNECTION_FOLDER}/{connection_file_name(self.kernel_id or '')}"

    def kernel_connection(self, info: KernelConnectionInfo) -> dict[str, Any]:
        """Return the ip and the ports that the kernel binds: loopback, unless the pod's address is dialled."""
        return {"ip": "0.0.0.0" if self._direct else "127.0.0.1", **_PORTS}

    # -- the verbs ------------------------------------------------------------------------------

    def create(self, request: LaunchRequest) -> Handle:
        """Create the pod, then the Secret with the connection file, which belongs to it from its birth."""
        from kernel_provisioner_k8s.client import RefusedError, pod_path, pods_path, read_template
        from kernel_provisioner_k8s.manifests import PodOptions, build_pod, build_secret

        self._cancelled = request.cancelled
        self._container_started = False
        cluster = self._cluster()
        namespace = self.namespace or cluster.namespace
        name = pod_name(request.kernel_id, secrets.token_hex(3))
        options = PodOptions(
            **{field: getattr(self, field) for field in PodOptions.__dataclass_fields__}
        )
        template = read_template(self.pod_template) if self.pod_template else None
        owner = self._own_pod(cluster, namespace)
        pod = build_pod(request, options, name, owner=owner, template=template)
        path = pod_path(namespace, name)
        try:
            made = cluster.request(
                "POST",
                pods_path(namespace),
                body=pod,
                patience=_PATIENCE,
                cancelled=request.cancelled,
            )
        except KernelNotFoundError as error:
            raise ConfigurationError(
                f"The pod cannot be created. {error.message}",
                hint=f"Does the namespace {namespace!r} exist? `kubectl get namespaces` lists them.",
            ) from error
        except RefusedError as error:
            if error.status != 409:
                raise
            made = cluster.request("GET", path)  # an earlier try had arrived
        except BaseException:
            self._delete(cluster, path, grace=0)  # it may have arrived all the same
            raise
        handle = {"namespace": namespace, "name": name, "uid": made["metadata"]["uid"]}
        try:
            self._create_secret(cluster, handle, build_secret(request, name, handle["uid"]))
        except BaseException:
            self._delete(cluster, path, grace=0)
            raise
        return {
            **handle,
            "file": request.connection_file,
            "program": request.argv[0] if request.argv else "",
            "direct": self._direct,
        }

    def start(self, handle: Handle) -> None:
        """Wait until the kernel's container runs, telling what happens meanwhile; the cluster starts it by itself."""
        from kernel_provisioner_k8s.watch import EventFeed

        watch = self._pod_watch(handle)
        news = watch.subscribe(handle["name"])
        feed = EventFeed(self._cluster(), handle["namespace"], handle["uid"], news)
        story = _Launch(self, feed)
        try:
            while not self._cancelled.is_set():
                kind, what = _next(news)
                if not kind:
                    story.check_time()
                elif story.learn(kind, what):
                    self._container_started = True
                    return
        finally:
            feed.close()
            watch.unsubscribe(handle["name"])

    def watch(self, handle: Handle) -> tuple[Watch, str]:
        """Return the watch of the pod's namespace, and the pod's name."""
        return self._pod_watch(handle), handle["name"]

    def signal(self, handle: Handle, signum: int) -> None:
        """Signal the kernel and its descendants by a command in its container; see `signalling`."""
        pod = self._pod_watch(handle).pod(handle["name"])
        if pod and not status.has_started(pod):
            if signum in (_SIGKILL, _SIGTERM):
                self.remove(handle)
            return
        if not self._signal_beside(handle, signum):
            self._signal_otherwise(handle, signum)

    def remove(self, handle: Handle) -> None:
        """Delete the pod, and with it the Secret; silent if it is gone."""
        from kernel_provisioner_k8s.client import pod_path

        # Deleted without a grace, the object would vanish before the process; with one, it lingers for many seconds,
        # half a minute if its container cannot start. So the kernel is killed first where that can be done.
        ended = self._liveness is not None and self._liveness.ended is not None
        done = ended or not self._container_started or self._kill_beside(handle)
        self._delete(
            self._cluster(),
            pod_path(handle["namespace"], handle["name"]),
            grace=0 if done else _SHORT_GRACE,
            uid=handle["uid"],
            strict=True,
        )

    def logs(self, handle: Handle, tail: int) -> str:
        """Return the last `tail` bytes of what the kernel printed; empty if its pod is gone."""
        from kernel_provisioner_k8s.client import RefusedError, pod_path

        path = f"{pod_path(handle['namespace'], handle['name'])}/log"
        # the API counts bytes from the beginning, and lines from the end
        query = {"container": KERNEL_CONTAINER, "tailLines": str(max(50, tail // 40))}
        try:
            text = self._cluster().read(path, query)
        except (KernelNotFoundError, RefusedError):
            return ""
        return text.encode()[-tail:].decode(errors="replace")

    def attach(self, handle: Handle) -> None:
        """Check that the pod is there, and is the same one."""
        from kernel_provisioner_k8s.client import pod_path

        pod = self._cluster().request("GET", pod_path(handle["namespace"], handle["name"]))
        if pod["metadata"]["uid"] != handle["uid"]:
            raise KernelNotFoundError(f"Pod {handle['name']} is another kernel's by now.")

    # -- steps ----------------------------------------------------------------------------------

    def _cluster(self) -> Cluster:
        from kernel_provisioner_k8s.client import Cluster

        return Cluster.load(self.kubeconfig, self.context)

    def _pod_watch(self, handle: Handle) -> PodWatch:
        from kernel_provisioner_k8s.watch import PodWatch

        cluster = self._cluster()
        namespace = handle["namespace"]
        key = (cluster.host, self.kubeconfig, self.context, namespace)
        watch = PodWatch.of(key, lambda: PodWatch(self._cluster, namespace))
        assert isinstance(watch, PodWatch)
        return watch

    def _own_pod(self, cluster: Cluster, namespace: str) -> dict[str, Any] | None:
        """Return the owner reference of the pod that this server runs in; its kernels go when it goes."""
        from kernel_provisioner_k8s.client import RefusedError, pod_path

        if not cluster.inside or namespace != cluster.namespace:
            return None
        name = os.environ.get("HOSTNAME") or socket.gethostname()
        try:
            pod = cluster.request("GET", pod_path(namespace, name), patience=_PATIENCE)
        except (KernelNotFoundError, RefusedError):  # on the node's network, the name is the node's
            return None
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": name,
            "uid": pod["metadata"]["uid"],
            "blockOwnerDeletion": False,
        }

    def _create_secret(self, cluster: Cluster, handle: Handle, secret: dict[str, Any]) -> None:
        from kernel_provisioner_k8s.client import RefusedError, pods_path

        path = f"{pods_path(handle['namespace']).rpartition('/')[0]}/secrets"
        try:
            cluster.request(
                "POST", path, body=secret, patience=_PATIENCE, cancelled=self._cancelled
            )
        except RefusedError as error:
            if error.status != 409:
                raise

    def _delete(
        self, cluster: Cluster, path: str, *, grace: int, uid: str = "", strict: bool = False
    ) -> None:
        from kernel_provisioner_k8s.client import RefusedError

        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace,
        }
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            cluster.request("DELETE", path, body=body, patience=2.0)
        except KernelNotFoundError:
            return
        except RefusedError as error:
            if strict and error.status != 409:  # 409: another pod has the name by now
                raise
        except BackendUnavailableError:
            if strict:
                raise

    def _signal_beside(self, handle: Handle, signum: int) -> bool:
        """Signal the kernel by a command in its container; return whether it has heard.

        Raises:
            KernelNotFoundError: The container does not run.
            SignalError: The container's user may not signal the kernel.
        """
        from kernel_provisioner_k8s.client import CommandUnavailableError

        cluster = self._cluster()
        for command in signal_commands(handle["program"], handle["file"], signum):
            try:
                code, output = cluster.execute(
                    handle["namespace"], handle["name"], KERNEL_CONTAINER, command
                )
            except CommandUnavailableError:
                continue
            if code == 0:
                # without a shared namespace it is process 1, which does not hear this one
                return signum != _SIGKILL or self.share_process_namespace
            if code == NOT_FOUND:
                return False
            raise SignalError(
                f"The kernel in pod {handle['name']} could not be signalled: {output.strip() or f'code {code}'}."
            )
        return False

    def _kill_beside(self, handle: Handle) -> bool:
        """Kill the kernel by a command; return whether it is dead now."""
        try:
            return self._signal_beside(handle, _SIGKILL)
        except KernelNotFoundError:
            return True
        except (SignalError, BackendUnavailableError):
            return False

    def _signal_otherwise(self, handle: Handle, signum: int) -> None:
        """Do what can be done where no command reaches the kernel."""
        from kernel_provisioner_k8s.client import pod_path

        if signum in (_SIGKILL, _SIGTERM):
            grace = (
                _SHORT_GRACE if signum == _SIGKILL else max(1, int((self.stop_timeout or 5.0) / 2))
            )
            path = pod_path(handle["namespace"], handle["name"])
            self._delete(self._cluster(), path, grace=grace, uid=handle["uid"], strict=True)
        elif signum == _SIGINT:
            request_interrupt(self.connection_info)
        else:
            raise SignalError(
                f"Signal {signum} cannot be sent to pod {handle['name']}: its image has no shell.",
                hint="Interrupts, SIGTERM and SIGKILL are possible all the same.",
            )

    # -- the way to the kernel ------------------------------------------------------------------

    def _can_encrypt(self, arguments: dict[str, Any]) -> bool:
        """Return whether nobody asks for encryption, and it can be had."""
        manager = self._manager
        asked = arguments.get("transport_encryption")
        asked = asked or getattr(manager, "transport_encryption", "disabled")
        can = manager is None or hasattr(manager, "curve_secretkey")
        return str(asked).lower() == "disabled" and can and kernel_supports_curve(self.kernel_spec)

    def _open_forwarder(self) -> None:
        if self._forwarder is None:
            info: dict[str, Any] = dict(self.connection_info)
            ports = {name: info[name] for name in PORT_NAMES}
            self._forwarder = Forwarder(self._dial, ports, ip=info["ip"])

    def _dial(self, port_name: str) -> Duplex:
        """Make one connection to the kernel; called by the forwarder, in threads."""
        handle = self._handle
        if handle is None:
            raise ConnectionError("there is no pod now")
        port = _PORTS[port_name]
        if self._direct:
            ip = status.address(self._pod_watch(handle).pod(handle["name"]))
            if not ip:
                raise ConnectionError("the pod has no address yet")
            return SocketDuplex(socket.create_connection((ip, port), _DIAL_LIMIT))
        return PortForward(self._cluster().dial_port(handle["namespace"], handle["name"], port))

    def _forget_connection(self) -> None:
        """Close the local ports with all else that belongs to the connection."""
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            forwarder.close()
        super()._forget_connection()


def _next(news: SimpleQueue[tuple[str, Any]]) -> tuple[str, Any]:
    """Return the next piece of news, or an empty one after a while."""
    try:
        return news.get(timeout=_LOOK)
    except Empty:
        return "", None


class _Launch:
    """What is known of a pod on its way to running.

    Args:
        provisioner: Whose it is.
        feed: Its events.
    """

    def __init__(self, provisioner: KubernetesProvisioner, feed: Any) -> None:
        self._provisioner = provisioner
        self._feed = feed
        self._stage = ""
        self._warning = ""
        self._pulling = False
        self._unscheduled: tuple[float, status.Trouble] | None = None
        self._since = time.monotonic()
        self._reported: set[str] = set()

    def learn(self, kind: str, what: Any) -> bool:
        """Take in what happened; return whether the kernel's container has started.

        Raises:
            LaunchError: It will not.
        """
        if kind == "refused":
            raise LaunchError(what.message, hint=what.hint) from what
        if kind == "deleted":
            raise LaunchError("The pod was deleted while it started.", hint=self._warning)
        if kind == "event":
            self._learn_event(what)
            return False
        return self._learn_pod(what)

    def check_time(self) -> None:
        """Raise if it takes too long; the time that a pull takes is not counted."""
        now = time.monotonic()
        provisioner = self._provisioner
        if self._unscheduled is not None:
            since, trouble = self._unscheduled
            if now - since >= provisioner.unschedulable_timeout:
                raise _refused(trouble)
            return
        # without the events nobody knows whether an image is pulled
        if self._pulling or (self._feed.refused and not self._warning):
            self._since = now
        limit = max(provisioner.launch_timeout, _START_LIMIT)
        if now - self._since > limit:
            raise LaunchTimeoutError(
                f"The pod has not started after {limit:g} s: it is {self._stage or 'unknown to the API server'}.",
                hint=self._warning
                or "`kubectl describe pod` says more; raise launch_timeout if it is only slow.",
            )

    def _learn_pod(self, pod: dict[str, Any]) -> bool:
        words = status.command_missing(pod)
        if words:
            raise CommandNotFoundError(
                f"The kernel's command cannot be run: {words.rstrip('.')}.",
                hint="argv of kernel.json runs as it is: is its first word a program of the image?",
            )
        if status.has_started(pod):
            self._report("started")
            return True
        trouble = status.trouble(pod)
        ended = status.kernel_exit(pod)
        if trouble is not None and trouble.reason in ("Unschedulable", "SchedulerError"):
            if self._unscheduled is None:
                self._unscheduled = time.monotonic(), trouble
                self._report(f"unschedulable: {trouble.message}")
            self._unscheduled = self._unscheduled[0], trouble
            self.check_time()
        elif trouble is not None:
            raise _refused(trouble)
        elif ended is not None:
            raise LaunchError(f"The pod has ended before the kernel ran: {ended.reason}.")
        else:
            self._unscheduled = None
        self._report(status.stage(pod))
        return False

    def _learn_event(self, event: dict[str, Any]) -> None:
        reason, message = str(event.get("reason", "")), str(event.get("message", ""))
        if reason not in _TOLD or "kernel-connection" in message:
            return  # the Secret comes a moment after the pod
        if reason == "Pulling":
            self._pulling = True
        elif reason in ("Pulled", "Failed"):
            self._pulling = False
        if event.get("type") == "Warning":
            self._warning = f"The cluster says: {message}"
        self._report(f"{reason[:1].lower()}{reason[1:]}: {message}", key=message)

    def _report(self, message: str, key: str = "") -> None:
        self._stage = message
        if (key or message) not in self._reported:
            self._reported.add(key or message)
            self._since = time.monotonic()
            self._provisioner.report_progress(message)


def _refused(trouble: status.Trouble) -> LaunchError:
    missing = ("executable file not found", "no such file or directory")
    if trouble.reason in ("RunContainerError", "CreateContainerError") and any(
        words in trouble.message for words in missing
    ):
        return CommandNotFoundError(
            f"The kernel's command cannot be run: {trouble.message.rstrip('.')}.",
            hint="argv of kernel.json runs as it is: is its first word a program of the image?",
        )
    return LaunchError(f"{trouble.reason}: {trouble.message.rstrip('.')}.", hint=trouble.hint)
