"""From a kernelspec to a provisioner: entry points, and what to say when there is none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets
from traitlets.config import SingletonConfigurable

from kernel_provisioner_core.errors import (
    ConfigurationError,
    KernelProvisionerError,
    ProvisionerConflictError,
    ProvisionerNotFoundError,
)

__all__ = ["ENTRY_POINT_GROUP", "KernelProvisionerFactory", "load_provisioner_class"]

ENTRY_POINT_GROUP = "jupyter_client.kernel_provisioners"


class KernelProvisionerFactory(SingletonConfigurable):
    """Makes provisioners for kernelspecs.

    For applications that manage kernels themselves, and for the command line. jupyter_client has a factory of its
    own for its managers. Distributions that are installed later are found.
    """

    GROUP_NAME: ClassVar[str] = ENTRY_POINT_GROUP
    default_provisioner_name_env: ClassVar[str] = "JUPYTER_DEFAULT_PROVISIONER_NAME"

    default_provisioner_name = traitlets.Unicode(
        config=True,
        help="The provisioner of kernelspecs that name none. The default is what the environment variable "
        "JUPYTER_DEFAULT_PROVISIONER_NAME says, else kernel-provisioner-local.",
    )

    @traitlets.default("default_provisioner_name")
    def _default_provisioner_name(self) -> str:
        return os.environ.get(self.default_provisioner_name_env, "kernel-provisioner-local")

    def __init__(self, **kwargs: Any) -> None:
        """Look up nothing yet."""
        super().__init__(**kwargs)
        self._entry_points: dict[str, list[Any]] = {}

    def is_provisioner_available(self, kernel_spec: Any) -> bool:
        """Return whether a provisioner can be made for a kernelspec; if not, the log says what to install.

        The provisioner's module is not loaded.
        """
        try:
            self._entry_point(self._stanza(kernel_spec)[0])
        except KernelProvisionerError as error:
            self.log.warning("Kernel %r is not available: %s", _display_name(kernel_spec), error)
            return False
        return True

    def create_provisioner_instance(self, kernel_id: str, kernel_spec: Any, parent: Any) -> Any:
        """Make the provisioner that a kernelspec names, with the `config` of its kernel.json.

        Args:
            kernel_id: The id of the kernel to be.
            kernel_spec: The kernelspec.
            parent: The kernel manager, or None.

        Raises:
            ProvisionerNotFoundError: It is not installed (a ModuleNotFoundError, as jupyter_client raises).
            ProvisionerConflictError: Several distributions offer it.
            ConfigurationError: The stanza of kernel.json is malformed, or the provisioner refuses an option.
        """
        name, config = self._stanza(kernel_spec)
        provisioner_class = _load(self._entry_point(name))
        self.log.debug("Kernel %r is provisioned by %s.", _display_name(kernel_spec), name)
        return provisioner_class(
            kernel_id=kernel_id, kernel_spec=kernel_spec, parent=parent, **config
        )

    def get_provisioner_entries(self) -> dict[str, str]:
        """Return the installed provisioners: name to `module:Class`.

        Where several distributions offer one name, it is the one that jupyter_client would take: the last.
        """
        self._scan()
        return {name: found[-1].value for name, found in sorted(self._entry_points.items())}

    def load_provisioner_class(self, name: str) -> Any:
        """Return the class behind the name of a provisioner, or behind `module:Class`.

        Raises:
            ProvisionerNotFoundError: There is no such provisioner, module or class.
            ProvisionerConflictError: Several distributions offer it.
        """
        if ":" not in name:
            return _load(self._entry_point(name))
        module, _, qualname = name.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ProvisionerNotFoundError(
                f"There is no provisioner {name!r}: {error}.",
                hint="Give the name of an installed provisioner (`jupyter provisioner list`) or module:Class.",
            ) from error
        return found

    def distributions_of(self, name: str) -> list[str]:
        """Return the distributions that offer a provisioner, as `name version`; more than one is a conflict."""
        self._scan()
        return [_distribution(entry_point) for entry_point in self._entry_points.get(name, [])]

    def _entry_point(self, name: str) -> Any:
        if name not in self._entry_points:
            self._scan()
        found = self._entry_points.get(name, [])
        if not found:
            installed = ", ".join(sorted(self._entry_points)) or "none"
            raise ProvisionerNotFoundError(
                f"The kernel provisioner {name!r} is not installed (installed: {installed}).",
                hint=f"`pip install {name}`, into the environment that Jupyter runs in."
                if name.startswith("kernel-provisioner-")
                else "Install the package that provides it into the environment that Jupyter runs in.",
            )
        if len({entry_point.value for entry_point in found}) > 1:
            offers = " and ".join(f"{_distribution(e)} ({e.value})" for e in found)
            raise ProvisionerConflictError(
                f"The kernel provisioner {name!r} is offered by {offers}.",
                hint="Uninstall all but one of them.",
            )
        return found[0]

    def _scan(self) -> None:
        import importlib_metadata

        found: dict[str, list[Any]] = {}
        for entry_point in importlib_metadata.entry_points(group=self.GROUP_NAME):
            found.setdefault(entry_point.name, []).append(entry_point)
        self._entry_points = found

    def _stanza(self, kernel_spec: Any) -> tuple[str, dict[str, Any]]:
        metadata = getattr(kernel_spec, "metadata", None) or {}
        stanza = metadata.get("kernel_provisioner") or {}
        if not isinstance(stanza, Mapping):
            raise _malformed(kernel_spec, "metadata.kernel_provisioner", "an object")
        if "provisioner_name" not in stanza:
            return self.default_provisioner_name, {}
        config = stanza.get("config") or {}
        if not isinstance(stanza["provisioner_name"], str):
            raise _malformed(kernel_spec, "metadata.kernel_provisioner.provisioner_name", "text")
        if not isinstance(config, Mapping):
            raise _malformed(kernel_spec, "metadata.kernel_provisioner.config", "an object")
        return stanza["provisioner_name"], dict(config)


def load_provisioner_class(name: str) -> Any:
    """Return the class of a provisioner; see `KernelProvisionerFactory.load_provisioner_class`."""
    return KernelProvisionerFactory.instance().load_provisioner_class(name)


def _load(entry_point: Any) -> Any:
    try:
        return entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ProvisionerNotFoundError(
            f"The kernel provisioner {entry_point.name!r} of {_distribution(entry_point)} cannot be loaded: "
            f"{error}.",
            hint=f"Reinstall it: `pip install --force-reinstall {_distribution(entry_point).split()[0]}`.",
        ) from error


def _distribution(entry_point: Any) -> str:
    found = entry_point.dist
    return f"{found.name} {found.version}" if found else "an unknown distribution"


def _display_name(kernel_spec: Any) -> str:
    return getattr(kernel_spec, "display_name", "") or "without a name"


def _malformed(kernel_spec: Any, where: str, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"In the kernel.json of {_display_name(kernel_spec)!r}, {where} is not {expected}.",
        hint='It reads: "kernel_provisioner": {"provisioner_name": "...", "config": {...}}.',
    )
