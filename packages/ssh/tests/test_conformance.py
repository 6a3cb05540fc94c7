"""The conformance suite through a real sshd, with every capability that is claimed."""

import os

import pytest

from kernel_provisioner_core.conformance import ProvisionerConformance, Target


def _config():
    return {
        "host": os.environ.get("KERNEL_PROVISIONERS_SSH_HOST", "localhost"),
        "ssh_config": os.environ.get("KERNEL_PROVISIONERS_SSH_CONFIG", ""),
        "path_map": {"/": "/"},
    }


@pytest.mark.needs("sshd")
class TestSSH(ProvisionerConformance):
    target = Target(
        provisioner="kernel-provisioner-ssh", config=_config(), launch_limit=30.0, time_limit=100.0
    )
