from kernel_provisioner_core.conformance import Capability, ProvisionerConformance, Target


class TestNiceProvisioner(ProvisionerConformance):
    target = Target(
        provisioner="nice-provisioner",
        config={"niceness": 5},
        capabilities={
            # written here
            Capability.INTERRUPT,
            Capability.INTERRUPT_CHILDREN,
            Capability.INTERRUPT_WRAPPED,
            Capability.SIGNALS,
            Capability.EXIT_CODES,
            Capability.EXIT_SIGNALS,
            Capability.WORKING_DIRECTORY,
            Capability.INHERITS_ENVIRONMENT,
            # what the base class does for everybody
            Capability.ENCRYPTION,
            Capability.HOLDS_PORTS,
            Capability.REJECTS_UNKNOWN_OPTIONS,
        },
    )
