"""`list` and `show`: the installed provisioners and their options."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

from traitlets.config import Configurable

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.kernelspec import default_provisioner
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError
from kernel_provisioner_core.factory import KernelProvisionerFactory
from kernel_provisioner_core.options import json_schema, options_of

__all__ = ["list_provisioners", "load_provisioner", "show_provisioner", "type_in_words"]


@dataclass(frozen=True)
class _Installed:
    """One installed provisioner, as `list` shows it."""

    name: str
    version: str
    distribution: str
    provisioner_class: str
    usable: bool
    reason: str
    default: bool


def list_provisioners(options: argparse.Namespace) -> int:
    """List the installed provisioners; loads each class, so that a broken one shows."""
    factory = KernelProvisionerFactory.instance()
    default = default_provisioner()
    found = [
        _look_at(factory, name, provisioner_class, default)
        for name, provisioner_class in factory.get_provisioner_entries().items()
    ]
    if options.json:
        output.print_json([asdict(one) for one in found])
        return 0
    output.table(
        ("NAME", "VERSION", "DISTRIBUTION", "CLASS", "USABLE"),
        [
            (
                one.name + (" (default)" if one.default else ""),
                one.version,
                one.distribution,
                one.provisioner_class,
                "yes" if one.usable else f"no: {one.reason}",
            )
            for one in found
        ],
    )
    return 0


def show_provisioner(options: argparse.Namespace) -> int:
    """Show the options of a provisioner, or their JSON Schema."""
    provisioner_class = load_provisioner(options.provisioner)
    if options.json_schema:
        output.print_json(json_schema(provisioner_class))
        return 0
    found = options_of(provisioner_class)
    if options.json:
        output.print_json([asdict(option) for option in found])
        return 0
    output.table(
        ("OPTION", "TYPE", "UNIT", "DEFAULT", "HELP", "EXAMPLE"),
        [
            (
                option.name,
                type_in_words(option.schema),
                option.unit,
                _as_json(option.default),
                option.help,
                "" if option.example is None else _as_json(option.example),
            )
            for option in found
        ],
    )
    return 0


def load_provisioner(name: str) -> type[Configurable]:
    """Return the class of a provisioner, given by its name or as `module:Class`.

    Raises:
        ProvisionerNotFoundError: There is none.
        ProvisionerConflictError: Several distributions offer it.
        ConfigurationError: It cannot be loaded, or what is there is no provisioner.
    """
    try:
        found = KernelProvisionerFactory.instance().load_provisioner_class(name)
    except KernelProvisionerError:
        raise
    except Exception as error:  # its modules are anybody's code
        raise ConfigurationError(
            f"Loading the provisioner {name!r} raised {type(error).__name__}: {error}",
            hint="This is a fault in the package that provides it: upgrade or reinstall it.",
        ) from error
    if not (
        isinstance(found, type)
        and issubclass(found, Configurable)
        and hasattr(found, "launch_kernel")
    ):
        raise ConfigurationError(
            f"{name!r} is not a kernel provisioner: it is no class with traits and a launch_kernel().",
            hint="`jupyter provisioner list` shows what is installed.",
        )
    return found


def type_in_words(schema: dict[str, Any]) -> str:
    """Return the type that a JSON Schema describes, in a few words."""
    if "anyOf" in schema:
        return " or ".join(type_in_words(member) for member in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(_as_json(value) for value in schema["enum"])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and "items" in schema:
        return f"array of {type_in_words(schema['items'])}"
    if kind == "object":
        if "properties" in schema:
            return f"object with {', '.join(schema['properties'])}"
        if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {type_in_words(schema['additionalProperties'])}"
    return str(kind)


def _look_at(
    factory: KernelProvisionerFactory, name: str, provisioner_class: str, default: str
) -> _Installed:
    distributions = [one.rpartition(" ") for one in factory.distributions_of(name)]
    reason = ""
    try:
        load_provisioner(name)
    except KernelProvisionerError as error:
        reason = str(error)
    return _Installed(
        name=name,
        version=", ".join(version for _, _, version in distributions),
        distribution=", ".join(distribution for distribution, _, _ in distributions),
        provisioner_class=provisioner_class,
        usable=not reason,
        reason=reason,
        default=name == default,
    )


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str)
