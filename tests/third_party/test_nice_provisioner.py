from kernel_provisioner_core.conformance import Capability, ProvisionerConformance, Target


class TestNiceProvisioner(ProvisionerConformance):
    target = Target(
        provisioner="nice-provisioner",
        config={"niceness": 5},
        capabilities={Capability.INTERRUPT, Capability.EXIT_CODES},
    )
