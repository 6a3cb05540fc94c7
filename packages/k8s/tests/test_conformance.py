"""The conformance suite on a real cluster, through its API server."""

import sys
from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import ProvisionerConformance, Target
from kernel_provisioner_core.conformance import kernel as tiny_kernel

sys.path.insert(0, str(Path(__file__).parent))
from cluster import IMAGE, ClusterProbe, ClusterView

CONFIG_MAP = "kernel-provisioner-conformance"


@pytest.fixture(scope="module", autouse=True)
def tiny_kernel_in_the_cluster(request):
    if any(item.get_closest_marker("needs") for item in request.session.items):
        ClusterView().put_config_map(
            CONFIG_MAP, {"kernel.py": Path(tiny_kernel.__file__).read_text()}
        )


@pytest.mark.needs("kubernetes")
class TestKubernetes(ProvisionerConformance):
    target = Target(
        provisioner="kernel-provisioner-k8s",
        config={
            "image": IMAGE,
            "pull_policy": "IfNotPresent",
            "mounts": [{"type": "config-map", "source": CONFIG_MAP, "target": "/conformance"}],
        },
        probe=ClusterProbe(),
        kernel=["python3", "/conformance/kernel.py"],
        ipykernel=["python3", "-m", "ipykernel_launcher"],
        launch_limit=40,
        time_limit=110,
    )
