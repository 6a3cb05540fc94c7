"""What is checked: a provisioner, its configuration, and what its author claims for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from kernel_provisioner_core.conformance.probe import Probe, ProcessProbe
from kernel_provisioner_core.errors import ConfigurationError


class Capability(str, Enum):
    """What a provisioner may claim beyond the core that all must have.

    The value is the name to write in JSON or in a class's ``conformance_capabilities``.
    """

    description: str

    def __new__(cls, value: str, description: str) -> Capability:
        """Keep the description beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    INTERRUPT = (
        "interrupt",
        "`send_signal(SIGINT)` interrupts Python code that the kernel runs",
    )
    INTERRUPT_CHILDREN = (
        "interrupt-children",
        "the interrupt also reaches child processes that the kernel waits for",
    )
    INTERRUPT_WRAPPED = (
        "interrupt-wrapped",
        "the interrupt also works when the kernelspec's argv is wrapped in `sh -c`",
    )
    SIGNALS = ("signals", "`send_signal` delivers any signal, not only SIGINT")
    EXIT_CODES = ("exit-codes", "`poll` and `wait` give the kernel's own exit code")
    EXIT_SIGNALS = (
        "exit-signals",
        "an end by a signal is told as -N, as `subprocess` does, or as 128+N, as a shell does",
    )
    KILLS_DESCENDANTS = (
        "kills-descendants",
        "`kill`, and at the latest `cleanup(restart=False)`, ends the processes that the kernel "
        "started too",
    )
    PERSISTENCE = (
        "persistence",
        "a fresh process that loads the info can poll, signal and kill the running kernel",
    )
    RESOLVE_PATH = ("resolve-path", "`resolve_path` finds files in the kernel's working directory")
    HOLDS_PORTS = (
        "holds-ports",
        "the kernel's ports, on this machine, are kept from other processes from `pre_launch` to "
        "`cleanup(restart=False)`",
    )
    CAPTURES_OUTPUT = (
        "captures-output",
        "the last output of a kernel that died at its start is in an error or in the log",
    )
    AWAITS_READINESS = (
        "awaits-readiness",
        "`post_launch` waits until the kernel listens, and raises if it dies before",
    )
    REJECTS_UNKNOWN_OPTIONS = (
        "rejects-unknown-options",
        "an unknown key in kernel.json's `config` is an error that names the nearest option",
    )
    WORKING_DIRECTORY = (
        "working-directory",
        "`start_kernel(cwd=...)` is the kernel's working directory",
    )
    INHERITS_ENVIRONMENT = (
        "inherits-environment",
        "the kernel gets the environment that the caller passes, or else the server's",
    )
    FILTERS_ENVIRONMENT = (
        "filters-environment",
        "the server's environment does not reach the kernel, but for an allow-list",
    )
    ENCRYPTION = ("encryption", "CurveZMQ, as `transport_encryption` and the kernelspec ask for it")


#: What jupyter_client's own ``local-provisioner`` may honestly claim.
_LOCAL_PROVISIONER = frozenset(
    {
        Capability.INTERRUPT,
        Capability.INTERRUPT_CHILDREN,
        Capability.INTERRUPT_WRAPPED,
        Capability.SIGNALS,
        Capability.EXIT_CODES,
        Capability.EXIT_SIGNALS,
        Capability.KILLS_DESCENDANTS,
        Capability.RESOLVE_PATH,
        Capability.WORKING_DIRECTORY,
        Capability.INHERITS_ENVIRONMENT,
        Capability.ENCRYPTION,
    }
)

#: Claims for provisioners that cannot declare them themselves, by entry-point name.
CLAIMS: Mapping[str, frozenset[Capability]] = {"local-provisioner": _LOCAL_PROVISIONER}

_TINY_KERNEL = (sys.executable, str(Path(__file__).with_name("kernel.py")))
_IPYKERNEL = (sys.executable, "-m", "ipykernel_launcher")
_CONNECTION = ("-f", "{connection_file}")


@dataclass(frozen=True)
class Target:
    """A provisioner to check.

    Args:
        provisioner: the name of an entry point, a class, or ``"module:Class"``.
        config: the options, as in kernel.json's ``metadata.kernel_provisioner.config``.
        capabilities: what it claims (`Capability` or its values). None: what the class declares as
            ``conformance_capabilities``, else nothing (jupyter_client's own has its claims here).
        expected_failures: check id to reason. Strict: if such a check passes, that is a failure.
        probe: how to see from outside what the provisioner does. The default sees processes of
            this machine; for kernels elsewhere give one of your own, or ``Probe()``, which sees
            nothing and has what needs eyes skipped.
        kernel: the kernelspec's argv for the checks' kernels; or ``"ipykernel"``; the default is
            the suite's own tiny kernel in this interpreter. ``-f {connection_file}`` is added if
            the argv does not mention the connection file. The first item is taken for a Python.
        ipykernel: argv for the few checks that need IPython; None means this interpreter's, and
            an empty sequence means there is none.
        launch_limit: seconds from the call to the first reply; 20 suits a local kernel.
        time_limit: seconds for one whole check, after which it is stopped and failed.
        step_limit: seconds that one step of a coroutine may hold the event loop, in the SHOULD
            check on this; 0.02 is one frame of a busy server.
    """

    provisioner: str | type[Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Collection[Capability | str] | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    probe: Probe = field(default_factory=lambda: _default_probe())
    kernel: str | Sequence[str] | None = None
    ipykernel: Sequence[str] | None = None
    launch_limit: float = 20.0
    time_limit: float = 60.0
    step_limit: float = 0.020

    @property
    def name(self) -> str:
        """How reports call it."""
        if isinstance(self.provisioner, str):
            return self.provisioner
        return f"{self.provisioner.__module__}:{self.provisioner.__qualname__}"

    @property
    def entry_point(self) -> str | None:
        """The entry point's name, or None if a class was given."""
        if isinstance(self.provisioner, str) and ":" not in self.provisioner:
            return self.provisioner
        return None

    def load(self) -> type[Any]:
        """The provisioner's class.

        Raises:
            ConfigurationError: it cannot be found or imported.
        """
        if not isinstance(self.provisioner, str):
            return self.provisioner
        from kernel_provisioner_core.factory import load_provisioner_class

        found: type[Any] = load_provisioner_class(self.provisioner)
        return found

    @property
    def claims(self) -> frozenset[Capability]:
        """The capabilities claimed.

        Raises:
            ConfigurationError: one of them does not exist.
        """
        claimed = self.capabilities
        if claimed is None:
            claimed = getattr(self.load(), "conformance_capabilities", None)
        if claimed is None:
            return CLAIMS.get(self.entry_point or "", frozenset())
        return frozenset(_capability(name) for name in claimed)

    @property
    def kernel_argv(self) -> list[str]:
        """The argv of the kernels that the checks launch."""
        if self.kernel is None:
            return [*_TINY_KERNEL, *_CONNECTION]
        if isinstance(self.kernel, str):
            if self.kernel != "ipykernel":
                raise ConfigurationError(
                    f"Target: kernel {self.kernel!r} is not known",
                    hint='Give a list (an argv), "ipykernel", or nothing for the tiny kernel.',
                )
            return [*_IPYKERNEL, *_CONNECTION]
        return _complete(self.kernel)

    @property
    def ipykernel_argv(self) -> list[str] | None:
        """The argv of an ipykernel, or None if there is none."""
        if self.kernel == "ipykernel":
            return self.kernel_argv
        if self.ipykernel is not None:
            return _complete(self.ipykernel) if self.ipykernel else None
        if self.kernel is None and importlib.util.find_spec("ipykernel") is not None:
            return [*_IPYKERNEL, *_CONNECTION]
        return None


def _default_probe() -> Probe:
    # Windows has neither /proc nor ps.
    return Probe() if sys.platform == "win32" else ProcessProbe()


def _complete(argv: Sequence[str]) -> list[str]:
    if any("{connection_file}" in part for part in argv):
        return list(argv)
    return [*argv, *_CONNECTION]


def _capability(name: Capability | str) -> Capability:
    known = [member.value for member in Capability]
    if name in known:
        return next(member for member in Capability if member == name)
    nearest = get_close_matches(str(name), known, 1)
    raise ConfigurationError(
        f"Target: there is no capability {str(name)!r}",
        hint=f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(known)}.",
    )
