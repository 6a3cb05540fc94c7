"""The checks, one module for each phase of a kernel's life. Importing this registers them all."""

from kernel_provisioner_core.conformance.checks import (  # noqa: F401, I001 - the order in which they run
    before,
    launch,
    talk,
    interrupt,
    end,
    restart,
    cleanup,
    failure,
    persistence,
    concurrency,
    manager,
    environment,
    secrecy,
    encryption,
)
