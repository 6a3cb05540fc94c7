"""What tests see of a cluster, past the provisioner: by the library's own calls, and in the process table."""

import base64
import contextlib
import json
import os
import time

from kubernetes import client, config

from kernel_provisioner_core.conformance.probe import KernelIdentity, Probe, ProcessProbe

KERNEL_ID = "kernel-provisioner.kernel-id"
IMAGE = "kernel-provisioners/kernel:test"
ARGV = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class ClusterView:
    """One namespace of the cluster that KUBECONFIG leads to."""

    def __init__(self, namespace="default"):
        self.namespace = namespace
        self._api = None

    @property
    def api(self):
        """The library's own client, connected when first asked for."""
        if self._api is None:
            configuration = type.__call__(client.Configuration)
            config.load_kube_config(
                config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
            self._api = client.CoreV1Api(client.ApiClient(configuration))
        return self._api

    @property
    def is_here(self):
        """Whether the cluster's only node is this machine, so that its processes can be seen."""
        return "https://127.0.0.1" in self.api.api_client.configuration.host and os.path.exists(
            os.path.expanduser("~/.cache/kernel-provisioners/k8s/run/kubeconfig")
        )

    def pods(self, selector="app.kubernetes.io/managed-by=kernel-provisioner-k8s"):
        """Return the pods, as JSON values."""
        answer = self.api.list_namespaced_pod(
            self.namespace, label_selector=selector, _preload_content=False
        )
        return json.loads(answer.data)["items"]

    def secrets(self, selector="app.kubernetes.io/managed-by=kernel-provisioner-k8s"):
        """Return the Secrets, as JSON values."""
        answer = self.api.list_namespaced_secret(
            self.namespace, label_selector=selector, _preload_content=False
        )
        return json.loads(answer.data)["items"]

    def events(self, name):
        """Return the events of a pod, as JSON values."""
        answer = self.api.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={name}", _preload_content=False
        )
        return json.loads(answer.data)["items"]

    def delete(self, pod, grace=0):
        """Delete a pod; silent if it is gone."""
        with contextlib.suppress(client.ApiException):
            self.api.delete_namespaced_pod(pod, self.namespace, grace_period_seconds=grace)

    def left(self, selector):
        """Return a line for each pod and Secret."""
        pods = [f"pod {pod['metadata']['name']}" for pod in self.pods(selector)]
        return pods + [f"secret {secret['metadata']['name']}" for secret in self.secrets(selector)]

    def await_empty(self, selector, seconds=60):
        """Wait until no pod and no Secret is left."""
        limit = time.monotonic() + seconds
        while left := self.left(selector):
            assert time.monotonic() < limit, left
            time.sleep(0.1)

    def put_config_map(self, name, files):
        """Make a ConfigMap, or replace it."""
        body = {"metadata": {"name": name}, "data": files}
        with contextlib.suppress(client.ApiException):
            self.api.delete_namespaced_config_map(name, self.namespace)
        self.api.create_namespaced_config_map(self.namespace, body)


class ClusterProbe(Probe):
    """Sees pods, Secrets and, on a cluster of this machine, the processes in them."""

    def __init__(self, namespace="default"):
        self._cluster = ClusterView(namespace)
        self._processes = ProcessProbe()

    def is_running(self, kernel: KernelIdentity):
        if self._cluster.is_here:
            return self._processes.is_running(kernel)
        return any(
            "running" in (container.get("state") or {})
            for pod in self._cluster.pods(self._selector(kernel))
            for container in pod["status"].get("containerStatuses") or ()
        )

    def left(self, kernel: KernelIdentity):
        processes = self._processes.left(kernel) if self._cluster.is_here else []
        return processes + self._cluster.left(self._selector(kernel))

    def exposed(self, kernel: KernelIdentity):
        texts = self._processes.exposed(kernel) if self._cluster.is_here else []
        for pod in self._cluster.pods(self._selector(kernel)):
            name = pod["metadata"]["name"]
            texts.append((f"pod {name}", json.dumps(pod)))
            texts.append((f"the events of pod {name}", json.dumps(self._cluster.events(name))))
        for secret in self._cluster.secrets(self._selector(kernel)):
            metadata = json.dumps(secret["metadata"])
            texts.append((f"the metadata of secret {secret['metadata']['name']}", metadata))
        return texts

    def kill(self, kernel: KernelIdentity):
        return self._processes.kill(kernel) if self._cluster.is_here else None

    def remove(self, kernel: KernelIdentity):
        for pod in self._cluster.pods(self._selector(kernel)):
            self._cluster.delete(pod["metadata"]["name"])
        if self._cluster.is_here:
            self._processes.remove(kernel)

    @staticmethod
    def _selector(kernel: KernelIdentity):
        return f"{KERNEL_ID}={kernel.kernel_id}"


def connection_of(secret):
    """Return the connection file that a Secret holds."""
    [content] = secret["data"].values()
    return json.loads(base64.b64decode(content))
