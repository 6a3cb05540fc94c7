"""From the name of a kernelspec to what its kernel.json says, and to its provisioner; all checked."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory as JupyterFactory
from traitlets import TraitError
from traitlets.config import Configurable

from kernel_provisioner_core.cli.output import JUPYTER_LOGGER
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError
from kernel_provisioner_core.options import check_option_names
from kernel_provisioner_core.provisioner import KernelProvisionerBase

__all__ = [
    "FoundKernelspec",
    "check_options",
    "default_provisioner",
    "find_kernelspec",
    "kernelspec_manager",
    "parse_kernel_json",
]

_STANZA = '"kernel_provisioner": {"provisioner_name": "...", "config": {...}}'


@dataclass(frozen=True)
class FoundKernelspec:
    """A kernelspec whose kernel.json is sound as far as its form goes.

    Args:
        name: Its name.
        path: Its kernel.json; for the kernelspec that ipykernel brings along, its directory.
        spec: What it says.
        provisioner_name: The provisioner that it names, else jupyter_client's default.
        config: The provisioner's options.
    """

    name: str
    path: Path
    spec: KernelSpec
    provisioner_name: str
    config: dict[str, Any] = field(default_factory=dict)


def default_provisioner() -> str:
    """Return the provisioner that jupyter_client takes where a kernelspec names none."""
    return str(JupyterFactory.instance().default_provisioner_name)


def kernelspec_manager(**traits: Any) -> KernelSpecManager:
    """Return jupyter_client's manager of kernelspecs."""
    return KernelSpecManager(log=logging.getLogger(JUPYTER_LOGGER), **traits)


def find_kernelspec(name: str) -> FoundKernelspec:
    """Find a kernelspec by name and read it.

    Raises:
        ConfigurationError: There is none of this name (the nearest is told), or its kernel.json is malformed.
    """
    manager = kernelspec_manager()
    found = manager.find_kernel_specs()
    folder = found.get(name.lower())
    if folder is None:
        near = difflib.get_close_matches(name.lower(), found, n=1)
        nearest = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"There is no kernelspec {name!r} (installed: {', '.join(sorted(found)) or 'none'}).",
            hint=f"{nearest}`jupyter provisioner install` makes one; `jupyter --paths` shows where they are "
            "looked for.",
        )
    path = Path(folder, "kernel.json")
    if path.is_file():
        entries = _read(path)
        spec = KernelSpec(
            resource_dir=folder, **{k: v for k, v in entries.items() if k in _ENTRIES}
        )
    else:  # ipykernel's own, which has no file
        path = Path(folder)
        try:
            spec = manager.get_kernel_spec(name)
        except NoSuchKernel as error:
            raise ConfigurationError(
                f"The kernelspec {name!r} cannot be loaded: {error}."
            ) from error
    stanza = spec.metadata.get("kernel_provisioner") or {}
    if "provisioner_name" in stanza:
        config = dict(stanza.get("config") or {})
        return FoundKernelspec(name.lower(), path, spec, stanza["provisioner_name"], config)
    return FoundKernelspec(name.lower(), path, spec, default_provisioner())


def parse_kernel_json(entries: Any, where: str) -> None:
    """Check the form of a kernel.json.

    Args:
        entries: What the file holds.
        where: The file, for the message.

    Raises:
        ConfigurationError: Something is missing or has the wrong type; the message names it.
    """
    _expect(isinstance(entries, dict), where, "it", "an object", entries)
    _expect("argv" in entries, where, "argv", "a list of texts: the kernel's command", None)
    for name, (expected, fits) in _ENTRIES.items():
        if name in entries:
            _expect(fits(entries[name]), where, name, expected, entries[name])
    stanza = entries.get("metadata", {}).get("kernel_provisioner")
    if stanza is None:
        return
    _expect(isinstance(stanza, dict), where, "metadata.kernel_provisioner", "an object", stanza)
    name = stanza.get("provisioner_name")
    _expect(
        isinstance(name, str) and name != "",
        where,
        "metadata.kernel_provisioner.provisioner_name",
        "text",
        name,
    )
    config = stanza.get("config", {})
    _expect(
        isinstance(config, dict), where, "metadata.kernel_provisioner.config", "an object", config
    )


def check_options(
    provisioner_class: type[Configurable], config: Mapping[str, Any], spec: KernelSpec
) -> Configurable:
    """Make a provisioner with these options, so that it checks them, and return it; nothing is launched.

    Raises:
        ConfigurationError: It does not have such an option, or refuses a value.
    """
    if not issubclass(provisioner_class, KernelProvisionerBase):
        # Ours check that themselves. Others may take more than what they declare as configurable.
        known = provisioner_class.class_traits()
        check_option_names(provisioner_class, (name for name in config if name not in known))
    try:
        return provisioner_class(**{"kernel_id": "", "kernel_spec": spec, "parent": None, **config})
    except KernelProvisionerError:
        raise
    except TraitError as error:
        raise ConfigurationError(
            f"An option of {provisioner_class.__name__} has a wrong value: {error}"
        ) from error
    except Exception as error:  # the constructor is anybody's code
        raise ConfigurationError(
            f"{provisioner_class.__name__} refuses its options: {type(error).__name__}: {error}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="Make it readable for this user."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.",
            hint="Write it anew.",
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{path} is truncated or no JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            hint="Correct the file, or write it anew with `jupyter provisioner install ... --replace`.",
        ) from error
    parse_kernel_json(entries, str(path))
    return dict(entries)


def _expect(holds: bool, where: str, name: str, expected: str, value: Any) -> None:
    if holds:
        return
    shown = "missing" if value is None else json.dumps(value, default=str)
    if len(shown) > 60:
        shown = f"{shown[:60]}..."
    in_stanza = name.startswith("metadata.kernel_provisioner")
    raise ConfigurationError(
        f"In {where}, {name} has to be {expected} and is {shown}.",
        hint=f"It reads: {_STANZA}." if in_stanza else "Correct the file.",
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "argv": (
        "a list of texts: the kernel's command",
        lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    ),
    "display_name": ("text", _is_text),
    "language": ("text", _is_text),
    "env": (
        "an object whose values are texts",
        lambda value: isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
    ),
    "interrupt_mode": (
        '"signal" or "message"',
        lambda value: isinstance(value, str) and value.lower() in ("signal", "message"),
    ),
    "metadata": ("an object", _is_object),
    "kernel_protocol_version": ("text", _is_text),
}
