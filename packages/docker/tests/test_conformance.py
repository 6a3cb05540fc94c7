"""The conformance suite on a real engine."""

import os
import sys
from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import ProvisionerConformance, Target
from kernel_provisioner_core.conformance import kernel as tiny_kernel

sys.path.insert(0, str(Path(__file__).parent))
from container_probe import ContainerProbe

IMAGE = "kernel-provisioners/kernel:test"
TINY = str(Path(tiny_kernel.__file__).parent)


def target(url):
    return Target(
        provisioner="kernel-provisioner-docker",
        config={
            "image": IMAGE,
            "docker_host": url,
            "pull_policy": "never",
            "mounts": [f"{TINY}:/conformance:ro", "cwd"],
        },
        probe=ContainerProbe(url),
        kernel=["python3", "/conformance/kernel.py"],
        ipykernel=["python3", "-m", "ipykernel_launcher"],
    )


DOCKER = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.mark.needs("docker")
class TestDocker(ProvisionerConformance):
    target = target(DOCKER)
