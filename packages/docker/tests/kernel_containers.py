"""What the tests of containers share: the engine, its images, commands of kernels, and a kernel's containers."""

import os
from pathlib import Path

from kernel_provisioner_core.conformance import kernel as tiny_kernel

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
IMAGE = "kernel-provisioners/kernel"
IPYKERNEL = ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
TINY = ["python3", "/conformance/kernel.py", "-f", "{connection_file}"]
TINY_MOUNT = f"{Path(tiny_kernel.__file__).parent}:/conformance:ro"


def containers_of(engine, manager):
    """Return the kernel's containers, also those that do not run."""
    label = f"kernel-provisioner.kernel-id={manager.provisioner.kernel_id}"
    return [c["Id"] for c in engine.containers(all=True, filters={"label": [label]})]
