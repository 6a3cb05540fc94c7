"""A server that runs in the cluster itself: its service account, its pod as owner, the pod's address."""

import base64
import io
import json
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from cluster import IMAGE
from kubernetes import client

import kernel_provisioner_core
import kernel_provisioner_k8s
from kernel_provisioner_k8s import rbac

SERVER_IMAGE = "kernel-provisioners/server:test"
DIST_INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: kernel-provisioner-k8s\nVersion: 0.1.0\n",
    "entry_points.txt": "[jupyter_client.kernel_provisioners]\n"
    "kernel-provisioner-k8s = kernel_provisioner_k8s:KubernetesProvisioner\n",
}


def sources():
    """Return a zip with core, this package, and its entry point."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in (kernel_provisioner_core, kernel_provisioner_k8s):
            folder = Path(package.__file__).parent
            for path in folder.rglob("*.py"):
                archive.write(path, Path(folder.name, path.relative_to(folder)))
        for name, content in DIST_INFO.items():
            archive.writestr(f"kernel_provisioner_k8s-0.1.0.dist-info/{name}", content)
    return made.getvalue()


@pytest.fixture
def role(cluster):
    """Apply the manifests that are printed."""
    rights = client.RbacAuthorizationV1Api(cluster.api.api_client)
    account, role, binding = yaml.safe_load_all(rbac.manifests(cluster.namespace))
    cluster.api.create_namespaced_service_account(cluster.namespace, account)
    rights.create_namespaced_role(cluster.namespace, role)
    rights.create_namespaced_role_binding(cluster.namespace, binding)
    yield account["metadata"]["name"]
    rights.delete_namespaced_role_binding("kernel-provisioner", cluster.namespace)
    rights.delete_namespaced_role("kernel-provisioner", cluster.namespace)
    cluster.api.delete_namespaced_service_account("kernel-provisioner", cluster.namespace)


@pytest.fixture
def server(cluster, role):
    """Run the script in a pod with that role; return what it prints."""
    code = {
        "metadata": {"name": "code"},
        "binaryData": {"code.zip": base64.b64encode(sources()).decode()},
        "data": {"script.py": Path(__file__).with_name("inside_script.py").read_text()},
    }
    cluster.api.create_namespaced_config_map(cluster.namespace, code)
    pod = {
        "metadata": {"name": "server"},
        "spec": {
            "serviceAccountName": role,
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "server",
                    "image": SERVER_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "/code/script.py", IMAGE],
                    "env": [{"name": "PYTHONPATH", "value": "/opt/server:/code/code.zip"}],
                    "volumeMounts": [{"name": "code", "mountPath": "/code"}],
                }
            ],
            "volumes": [{"name": "code", "configMap": {"name": "code"}}],
        },
    }
    cluster.api.create_namespaced_pod(cluster.namespace, pod)
    limit = time.monotonic() + 100
    while True:
        status = cluster.api.read_namespaced_pod("server", cluster.namespace).status
        if status.phase in ("Succeeded", "Failed"):
            break
        assert time.monotonic() < limit, status
        time.sleep(0.5)
    text = cluster.api.read_namespaced_pod_log("server", cluster.namespace)
    yield text
    cluster.delete("server")
    cluster.api.delete_namespaced_config_map("code", cluster.namespace)


@pytest.mark.needs("kubernetes")
def test_a_server_in_the_cluster_dials_the_pods_address_if_the_kernel_encrypts(server):
    lines = [json.loads(line) for line in server.splitlines() if line.startswith("{")]
    assert len(lines) == 2, server
    encrypted, plain = lines
    for seen in lines:
        assert (seen["printed"], seen["after restart"], seen["owner"]) == ("42", "49", ["server"])
    assert (encrypted["direct"], encrypted["encrypted"]) == (True, True)
    assert (plain["direct"], plain["encrypted"]) == (False, False)
