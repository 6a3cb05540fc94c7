"""The errors of the kernel provisioners.

    KernelProvisionerError
    ├── ConfigurationError (ValueError)              an option of kernel.json or of the manager cannot be honoured
    ├── ProvisionerNotFoundError (ModuleNotFoundError)   no installed distribution offers the provisioner
    ├── ProvisionerConflictError                     several distributions offer it
    ├── ConnectionFileError                          a connection file cannot be used
    │   ├── ConnectionFileNotFoundError (FileNotFoundError)
    │   ├── ConnectionFileInvalidError (ValueError)      truncated, wrong types, readable by others
    │   └── ConnectionFileWriteError (OSError)           full disk, read-only directory
    ├── BackendUnavailableError (ConnectionError)    a daemon, an API server or a host cannot be reached
    ├── LaunchError                                  the kernel did not come up
    │   ├── CommandNotFoundError (FileNotFoundError)     what argv names does not exist
    │   └── LaunchTimeoutError (TimeoutError)            it did not come up in time
    ├── SignalError                                  a running kernel cannot be signalled
    └── KernelNotFoundError (LookupError)            the kernel that was to be adopted is gone

The second base in brackets is the built-in exception that generic handlers (and jupyter_client's own
callers) expect. Exceptions of an SDK or of the operating system never leave a package: they are the
``__cause__`` of one of these.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "CommandNotFoundError",
    "ConfigurationError",
    "ConnectionFileError",
    "ConnectionFileInvalidError",
    "ConnectionFileNotFoundError",
    "ConnectionFileWriteError",
    "KernelNotFoundError",
    "KernelProvisionerError",
    "LaunchError",
    "LaunchTimeoutError",
    "ProvisionerConflictError",
    "ProvisionerNotFoundError",
    "SignalError",
]


class KernelProvisionerError(Exception):
    """Base of all errors of the kernel provisioners.

    Args:
        message: What happened and whose fault it is, as one sentence.
        hint: What the reader can do about it, as one sentence; empty where nothing sensible can be said.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the message and the hint apart, so that a command line can show them on two lines."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and, behind it, the hint: what a server shows in its one line."""
        return f"{self.message} {self.hint}".rstrip()


class ConfigurationError(KernelProvisionerError, ValueError):
    """Raised when an option is unknown, has the wrong type, or contradicts another."""


class ProvisionerNotFoundError(KernelProvisionerError, ModuleNotFoundError):
    """Raised when no installed distribution offers the provisioner that a kernelspec names."""


class ProvisionerConflictError(KernelProvisionerError):
    """Raised when more than one installed distribution offers a provisioner of the same name."""


class ConnectionFileError(KernelProvisionerError):
    """Raised when a connection file cannot be used; see the subclasses for the conditions."""


class ConnectionFileNotFoundError(ConnectionFileError, FileNotFoundError):
    """Raised when no connection file matches."""


class ConnectionFileInvalidError(ConnectionFileError, ValueError):
    """Raised when a connection file is truncated, has wrong types, or can be read by others."""


class ConnectionFileWriteError(ConnectionFileError, OSError):
    """Raised when a connection file cannot be written; nothing of it is left behind then."""


class BackendUnavailableError(KernelProvisionerError, ConnectionError):
    """Raised when the daemon, API server or host that runs kernels cannot be reached."""


class LaunchError(KernelProvisionerError):
    """Raised when a kernel did not come up; whatever the launch had made is removed by then.

    Args:
        message: As in the base class.
        hint: As in the base class.
        kernel_id: The kernel's id; None where it had none.
        output: The last lines that the kernel printed; empty where it printed nothing or is not captured.
    """

    def __init__(
        self, message: str, *, hint: str = "", kernel_id: str | None = None, output: str = ""
    ) -> None:
        """Keep the kernel's id and its last output beside the message."""
        super().__init__(message, hint=hint)
        self.kernel_id = kernel_id
        self.output = output

    def __str__(self) -> str:
        """Return message and hint, then the kernel's last output on lines of its own."""
        first = super().__str__()
        return f"{first}\nThe kernel's last output:\n{self.output}" if self.output else first


class CommandNotFoundError(LaunchError, FileNotFoundError):
    """Raised when the command of a kernel, its interpreter or its working directory does not exist."""


class LaunchTimeoutError(LaunchError, TimeoutError):
    """Raised when a kernel did not come up within its time; the message says the limit in seconds."""


class SignalError(KernelProvisionerError):
    """Raised when a running kernel cannot be signalled; a dead one is no error."""


class KernelNotFoundError(KernelProvisionerError, LookupError):
    """Raised when the kernel described by a provisioner's info does not exist any more."""
