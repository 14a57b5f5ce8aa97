"""``REGISTRY_…`` variables of the environment, which override the keys of the file.

Source of truth: distribution 3.1.1, ``configuration/parser.go``. The variables are applied in the
order of their names. A name has the names of Go's fields, or the keys of a mapping, or the index
in a list, joined by ``_``. The value is YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from blobfs.config.known_keys import children, nearest
from blobfs.config.yaml_file import Value, parse
from blobfs.errors import MountRefused

_PREFIX: Final = "REGISTRY_"
_NOT_KEYS: Final = {"REGISTRY_CONFIGURATION_PATH", "REGISTRY_VERSION"}
_GO_NAMES: Final = {
    "notifications.events": "EVENTCONFIG",
    "health.file": "FILECHECKERS",
    "health.http": "HTTPCHECKERS",
    "health.tcp": "TCPCHECKERS",
    "log.hooks[].options": "MAILOPTIONS",
    "compatibility.schema1.signingkeyfile": "TRUSTKEY",
}
"""Fields of Go whose name is not that of the key."""

_TYPED_MAPPINGS: Final = ("storage", "auth", "middleware")
"""Mappings in Go, whose values are mappings, too. A text in their place is the only key."""


def override(root: Value, environment: Mapping[str, str]) -> Iterator[str]:
    """Apply the variables to *root*, and yield a message for each one that a registry ignores.

    Raises MountRefused.
    """
    _expand(root)
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in _NOT_KEYS:
            path = name.removeprefix(_PREFIX).split("_")
            why = _Override(name, environment[name]).apply(root, "", path)
            if why:
                yield f"{name} is ignored, as by a registry: {why}"
            _expand(root)


def _expand(root: Value) -> None:
    """Replace ``storage: s3`` by ``storage: {s3: {}}``, and likewise for other drivers."""
    for name in _TYPED_MAPPINGS:
        value = (root.mapping or {}).get(name)
        if value is not None and value.text:
            value.content = {value.text: Value({}, value.origin)}


class _Override:
    """One variable with its value."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def apply(self, value: Value, section: str, path: list[str]) -> str:
        """Set the key at *path* below *value*, which is at *section*; returns why it cannot."""
        if value.mapping is None:
            raise MountRefused(
                f"{value.origin}: {section or 'the configuration'} must be a mapping"
            )
        if section and _is_mapping(section):
            return self._apply_to_mapping(value, section, path)
        known = children().get(section)
        if known is None:
            return f"{section} has no keys"
        keys = {_GO_NAMES.get(_below(section, key), key.upper()): key for key in known}
        if path[0] not in keys:
            close = nearest(path[0].lower(), {name.lower() for name in keys})
            return f"{path[0]} is not known" + (f"; {close.upper()} is" if close else "")
        return self._set(value, section, keys[path[0]], path[1:])

    def _apply_to_mapping(self, value: Value, section: str, path: list[str]) -> str:
        if _is_nested_mapping(section) and value.origin and not value.is_empty:
            return f"change {section} in {value.origin}"
        existing = next((key for key in value.mapping or {} if key.upper() == path[0]), None)
        key = existing if existing is not None and len(path) > 1 else path[0].lower()
        return self._set(value, section, key, path[1:])

    def _set(self, value: Value, section: str, key: str, rest: list[str]) -> str:
        """Set *key* of a mapping, or go on below it."""
        if not isinstance(value.content, dict):
            value.content = {}
        if not rest:
            value.content[key] = parse(self._text, self._name)
            return ""
        name = _below(section, key)
        is_list = f"{name}[]" in children() or rest[0].isdecimal()
        below = value.content.get(key)
        if below is None or below.is_empty:
            below = value.content[key] = Value([] if is_list else {})
        return self._apply_to_list(below, name, rest) if is_list else self.apply(below, name, rest)

    def _apply_to_list(self, value: Value, name: str, path: list[str]) -> str:
        if not isinstance(value.content, list):
            raise MountRefused(f"{value.origin}: {name} must be a list")
        count = len(value.content)
        if not path[0].isdecimal() or int(path[0]) > count:
            raise MountRefused(f"{self._name}: {path[0]} must be an index, {count} at most")
        index = int(path[0])
        if index == count:
            value.content.append(Value({}))
        if len(path) > 1:
            return self.apply(value.content[index], f"{name}[]", path[1:])
        value.content[index] = parse(self._text, self._name)
        return ""


def _below(section: str, key: str) -> str:
    return f"{section}.{key}".strip(".")


def _is_mapping(section: str) -> bool:
    """True if *section* is a mapping in Go, or in one: it takes any key."""
    parts = section.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return parts[0] in _TYPED_MAPPINGS or any("*" in children().get(name, ()) for name in above)


def _is_nested_mapping(section: str) -> bool:
    """True if *section* is below the parameters of a driver.

    Go's YAML gives such a mapping keys of any type, which the environment cannot reach.
    """
    top, *below = section.split(".")
    return top in _TYPED_MAPPINGS and len(below) > 1
