"""The conformance suite on real engines: Docker, and Podman behind Docker's interface."""

import os
import sys
from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import ProvisionerConformance, Target

sys.path.insert(0, str(Path(__file__).parent))
from container_probe import ContainerProbe
from kernel_containers import ENGINE, IMAGE, IPYKERNEL, TINY, TINY_MOUNT


def target(url):
    return Target(
        provisioner="kernel-provisioner-docker",
        config={
            "image": f"{IMAGE}:test",
            "docker_host": url,
            "pull_policy": "never",
            "mounts": [TINY_MOUNT, "cwd"],
        },
        probe=ContainerProbe(url),
        kernel=TINY,
        ipykernel=IPYKERNEL[:3],
        launch_limit=90,  # a busy engine starts 20 containers at once
        time_limit=240,
    )


pytestmark = pytest.mark.timeout(300)


@pytest.mark.needs("docker")
class TestDocker(ProvisionerConformance):
    target = target(ENGINE)


@pytest.mark.needs("podman")
class TestPodman(ProvisionerConformance):
    target = target(os.environ.get("KERNEL_PROVISIONERS_PODMAN", ""))
