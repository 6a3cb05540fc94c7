"""What Jupyter kernel provisioners share.

`KernelProvisionerBase` is what an author of a provisioner derives from, `KernelProvisionerFactory` makes
provisioners for kernelspecs, `launch_kernel` starts a process. The extras `cli` and `conformance` bring the
subpackages of those names; nothing here imports them.
"""

from kernel_provisioner_core.connection import (
    KernelConnectionInfo,
    find_connection_file,
    read_connection_file,
    write_connection_file,
)
from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    ConnectionFileError,
    ConnectionFileInvalidError,
    ConnectionFileNotFoundError,
    ConnectionFileWriteError,
    KernelNotFoundError,
    KernelProvisionerError,
    LaunchError,
    LaunchTimeoutError,
    ProvisionerConflictError,
    ProvisionerNotFoundError,
    SignalError,
)
from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_core.factory import KernelProvisionerFactory
from kernel_provisioner_core.launcher import launch_kernel
from kernel_provisioner_core.provisioner import KernelProvisionerBase

__all__ = [
    "BackendUnavailableError",
    "CommandNotFoundError",
    "ConfigurationError",
    "ConnectionFileError",
    "ConnectionFileInvalidError",
    "ConnectionFileNotFoundError",
    "ConnectionFileWriteError",
    "KernelConnectionInfo",
    "KernelExit",
    "KernelNotFoundError",
    "KernelProvisionerBase",
    "KernelProvisionerError",
    "KernelProvisionerFactory",
    "LaunchError",
    "LaunchTimeoutError",
    "ProvisionerConflictError",
    "ProvisionerNotFoundError",
    "SignalError",
    "find_connection_file",
    "launch_kernel",
    "read_connection_file",
    "write_connection_file",
]
