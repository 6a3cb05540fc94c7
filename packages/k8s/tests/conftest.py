import asyncio
import contextlib
import json
import sys
import uuid
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))
from cluster import ARGV, IMAGE, ClusterView
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from kubernetes import client

SELECTOR = "app.kubernetes.io/managed-by=kernel-provisioner-k8s"


@pytest.fixture(scope="session")
def namespace():
    """Make a namespace of this run, and delete it with all that is in it."""
    name = f"kernel-provisioner-{uuid.uuid4().hex[:8]}"
    api = ClusterView().api
    api.create_namespace({"metadata": {"name": name}})
    yield name
    api.delete_namespace(name, grace_period_seconds=1)


@pytest.fixture
def cluster(namespace):
    """Return what can be seen of the namespace; a test leaves no pod and no Secret there."""
    view = ClusterView(namespace)
    yield view
    view.await_empty(SELECTOR)


class Kernel:
    """A kernel as jupyter_client's manager has it, and a client."""

    def __init__(self, manager):
        self.manager = manager
        self.provisioner = None
        self.client = None

    async def start(self, **arguments):
        await self.manager.start_kernel(**arguments)
        self.provisioner = self.manager.provisioner
        return self

    async def connect(self, seconds=30):
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(seconds)
        return self

    async def run(self, code, seconds=20):
        """Return what code prints."""
        printed = []

        def collect(message):
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await self.client.execute_interactive(code, timeout=seconds, output_hook=collect)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed).strip()

    async def close(self):
        if self.client is not None:
            self.client.stop_channels()
        if self.manager.provisioner is not None:
            await self.manager.shutdown_kernel(now=True)


class OneKernelspec(KernelSpecManager):
    spec = None

    def get_kernel_spec(self, kernel_name):
        return self.spec


def make_manager(config, *, argv=ARGV, env=None, kernel_id=None, metadata=None, **traits):
    spec = KernelSpec(
        argv=list(argv),
        display_name="In a pod",
        language="python",
        env=env or {},
        metadata={
            "kernel_provisioner": {
                "provisioner_name": "kernel-provisioner-k8s",
                "config": {"image": IMAGE, "pull_policy": "IfNotPresent", **config},
            },
            **(metadata or {}),
        },
    )
    kernelspecs = OneKernelspec()
    kernelspecs.spec = spec
    manager = AsyncKernelManager(kernel_name="pod", kernel_spec_manager=kernelspecs, **traits)
    if kernel_id is not None:
        manager.kernel_id = kernel_id
    return manager


@pytest_asyncio.fixture
async def kernels(namespace, tmp_path, monkeypatch):
    """Return a function that makes kernels in the namespace; they are ended with the test."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    made = []

    def make(config=None, **arguments):
        kernel = Kernel(make_manager({"namespace": namespace, **(config or {})}, **arguments))
        made.append(kernel)
        return kernel

    yield make
    for kernel in made:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(kernel.close(), 20)


@pytest.fixture
def account(namespace, tmp_path):
    """Return a function that makes a kubeconfig for a service account with certain rights in the namespace."""
    view = ClusterView(namespace)
    rights = client.RbacAuthorizationV1Api(view.api.api_client)
    made = []

    def make(rules):
        name = f"account-{uuid.uuid4().hex[:6]}"
        view.api.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
        rights.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
        rights.create_namespaced_role_binding(
            namespace,
            {
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": name,
                },
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
        )
        made.append(name)
        token = view.api.create_namespaced_service_account_token(
            name, namespace, {"spec": {"expirationSeconds": 3600}}
        )
        return kubeconfig_for(view, {"token": token.status.token})

    def kubeconfig_for(view, user):
        configuration = view.api.api_client.configuration
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": configuration.host,
                        "certificate-authority": configuration.ssl_ca_cert,
                    },
                }
            ],
            "users": [{"name": "u", "user": user}],
            "contexts": [
                {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            ],
            "current-context": "c",
        }
        path = tmp_path / f"kubeconfig-{uuid.uuid4().hex[:6]}.json"
        path.write_text(json.dumps(content))
        return str(path)

    make.with_user = lambda user: kubeconfig_for(view, user)
    yield make
    for name in made:
        rights.delete_namespaced_role_binding(name, namespace)
        rights.delete_namespaced_role(name, namespace)
        view.api.delete_namespaced_service_account(name, namespace)
