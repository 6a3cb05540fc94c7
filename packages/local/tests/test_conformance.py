"""The conformance suite on the local provisioner."""

from __future__ import annotations

from kernel_provisioner_core.conformance import ProvisionerConformance, Target


class TestLocalProvisioner(ProvisionerConformance):
    target = Target("kernel-provisioner-local")
