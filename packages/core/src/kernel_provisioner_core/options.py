"""The options of a provisioner: its traits, as the `config` of kernel.json sets them.

An option is a trait with `config=True`. Its help says meaning, default and why; `tag(unit=..., example=...)`
adds the unit and an example value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import traitlets
from traitlets.config import Configurable

from kernel_provisioner_core.errors import ConfigurationError

__all__ = ["Option", "check_option_names", "json_schema", "options_of"]


@dataclass(frozen=True)
class Option:
    """One option of a provisioner.

    Args:
        name: Its name in `config`.
        schema: The JSON Schema of its values.
        default: The value it has if it is not given.
        unit: The unit of its values ("seconds", "bytes"); may be empty.
        help: What it means, why its default is so.
        example: A value to show; None where the default shows enough.
    """

    name: str
    schema: dict[str, Any]
    default: Any
    unit: str
    help: str
    example: Any = None


def options_of(provisioner_class: type[Configurable]) -> list[Option]:
    """Return the options of a provisioner class, by name."""
    return [
        Option(
            name=name,
            schema=_value_schema(trait),
            default=_default(trait),
            unit=trait.metadata.get("unit", ""),
            help=" ".join(trait.help.split()),
            example=trait.metadata.get("example"),
        )
        for name, trait in sorted(provisioner_class.class_traits(config=True).items())
    ]


def json_schema(provisioner_class: type[Configurable]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a provisioner's `config`, for editors of kernel.json."""
    properties = {}
    for option in options_of(provisioner_class):
        unit = f" Unit: {option.unit}." if option.unit else ""
        properties[option.name] = {
            **option.schema,
            "description": option.help + unit,
            "default": option.default,
            **({} if option.example is None else {"examples": [option.example]}),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"config of {provisioner_class.__name__}",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def check_option_names(provisioner_class: type[Configurable], names: Iterable[str]) -> None:
    """Check that all names are options of the provisioner.

    Raises:
        ConfigurationError: One is not; the message has the nearest option.
    """
    known = provisioner_class.class_traits(config=True)
    for name in names:
        if name in known:
            continue
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        nearest = f"Did you mean {near[0]!r}?" if near else ""
        options = ", ".join(sorted(known)) or "none"
        raise ConfigurationError(
            f"{provisioner_class.__name__} has no option {name!r}.",
            hint=f"{nearest} Its options are: {options}.".lstrip(),
        )


def _default(trait: traitlets.TraitType[Any, Any]) -> Any:
    value = trait.default()
    return None if value is traitlets.Undefined else value


def _value_schema(trait: Any) -> dict[str, Any]:
    schema = _bare_schema(trait)
    if not getattr(trait, "allow_none", False):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _bare_schema(trait: Any) -> dict[str, Any]:
    if isinstance(trait, traitlets.Union):
        return {"anyOf": [_value_schema(member) for member in trait.trait_types]}
    if isinstance(trait, traitlets.Enum):
        return {"enum": list(trait.values or ())}
    if isinstance(trait, (traitlets.List, traitlets.Tuple, traitlets.Set)):
        member = getattr(trait, "_trait", None)
        return {"type": "array", **({"items": _value_schema(member)} if member else {})}
    if isinstance(trait, traitlets.Dict):
        named = getattr(trait, "_per_key_traits", None) or {}
        value = getattr(trait, "_value_trait", None)
        properties = {key: _value_schema(member) for key, member in named.items()}
        return {
            "type": "object",
            **({"properties": properties} if properties else {}),
            **({"additionalProperties": _value_schema(value)} if value else {}),
        }
    for kind, name in _JSON_TYPES:
        if isinstance(trait, kind):
            limits = {
                "minimum": getattr(trait, "min", None),
                "maximum": getattr(trait, "max", None),
            }
            # a float without a limit has an infinite one
            return {
                "type": name,
                **{k: v for k, v in limits.items() if v is not None and abs(v) < math.inf},
            }
    return {}


# The first that fits counts: traitlets derives none of these from another.
_JSON_TYPES = (
    (traitlets.Bool, "boolean"),
    (traitlets.Int, "integer"),
    (traitlets.Float, "number"),
    (traitlets.Unicode, "string"),
)
