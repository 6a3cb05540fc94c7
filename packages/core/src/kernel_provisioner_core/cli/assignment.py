"""`--set KEY=VALUE`: from the words of a command line to the `config` of kernel.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from traitlets.config import Configurable

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_core.options import check_option_names, options_of

__all__ = ["config_from"]


def config_from(
    provisioner_class: type[Configurable], assignments: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Return the options that the assignments make.

    A value is JSON where it is that and of the option's type, else text. A key with dots goes into an
    object (`resources.cpu`); where the object's values cannot be objects, the rest is one key
    (`labels.example.org/team`).

    Args:
        provisioner_class: The provisioner.
        assignments: Keys and values.

    Raises:
        ConfigurationError: The provisioner has no such option (the nearest is named), or an assignment
            contradicts an earlier one.
    """
    schemas = {option.name: option.schema for option in options_of(provisioner_class)}
    config: dict[str, Any] = {}
    for key, text in assignments:
        first, *rest = key.split(".")
        check_option_names(provisioner_class, [first])
        keys, schema = _path(rest, schemas[first])
        place = config
        for outer in [first, *keys][:-1]:
            place = place.setdefault(outer, {})
            if not isinstance(place, dict):
                raise ConfigurationError(
                    f"`--set {key}=...` goes into {outer!r}, which was set to a value before.",
                    hint="Set the parts, or the whole as JSON, not both.",
                )
        place[[first, *keys][-1]] = _value(text, schema)
    return config


def _path(keys: list[str], schema: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the keys with those joined that are one, and the schema of what they lead to."""
    if not keys:
        return [], schema
    named = schema.get("properties", {})
    if keys[0] in named:
        rest, found = _path(keys[1:], named[keys[0]])
        return [keys[0], *rest], found
    others = schema.get("additionalProperties")
    if isinstance(others, dict) and others and not _may_be("object", others):
        return [".".join(keys)], others
    rest, found = _path(keys[1:], others if isinstance(others, dict) else {})
    return [keys[0], *rest], found


def _value(text: str, schema: dict[str, Any]) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if _fits(value, schema) else text


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_fits(value, member) for member in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    return "type" not in schema or any(_may_be(kind, schema) for kind in _kinds(value))


def _may_be(kind: str, schema: dict[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_may_be(kind, member) for member in schema["anyOf"])
    allowed = schema.get("type", kind)
    return kind in (allowed if isinstance(allowed, list) else [allowed])


def _kinds(value: Any) -> tuple[str, ...]:
    """Return the types of JSON Schema that a value has."""
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int):
        return ("integer", "number")
    if isinstance(value, float):
        return ("number",)
    for kind, name in ((str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return (name,)
    return ("null",)
