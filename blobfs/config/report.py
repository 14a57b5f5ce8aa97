"""The keys of a configuration that are in force, with their origins and without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from blobfs.config.registry_config import RegistryConfig
from blobfs.config.schema import Entry, Headers, Seconds, entries
from blobfs.config.yaml_file import dump

_MASK: Final = "********"
_DEFAULT: Final = "default"
_OLDER_NAMES: Final = {"loglevel", "storage.cache.layerinfo"}
_DRIVERS: Final = ("storage.filesystem.", "storage.s3.", "storage.s3aws.", "storage.s3goamz.")

_Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigReport:
    """The keys in force; the *origin* of an entry is empty for a default."""

    COLUMNS: ClassVar = ("key", "value", "origin")

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, config: RegistryConfig) -> Self:
        """Return the keys of *config* that have an effect."""
        found = entries(config.model, config.origins)
        return cls(tuple(entry for entry in found if _is_in_force(entry, config)))

    def as_json(self) -> str:
        """Return an array with an object for each key; the origin of a default is null."""
        keys = [
            {"key": each.name, "value": _public(each), "origin": each.origin or None}
            for each in self.entries
        ]
        return json.dumps(keys, indent=2, ensure_ascii=False)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """The key, the value in YAML and the origin of each entry."""
        return [(e.name, dump(_public(e)), e.origin or _DEFAULT) for e in self.entries]

    def as_yaml(self) -> str:
        """Return a configuration file with the same effect, whose comments have the origins."""
        tree: _Tree = {}
        for entry in self.entries:
            *above, last = entry.name.replace("[", ".[").split(".")
            branch = tree
            for name in above:
                branch = branch.setdefault(name, {})
            branch[last] = f"{dump(_public(entry))}  # {entry.origin or _DEFAULT}"
        return "\n".join(_lines(tree))


def _lines(tree: Mapping[str, Any]) -> Iterator[str]:
    for name, below in tree.items():
        if isinstance(below, str):
            yield f"{name}: {below}"
            continue
        lines = _lines(below)
        if name.startswith("["):
            yield f"- {next(lines)}"
        else:
            yield f"{name}:"
        yield from (f"  {line}" for line in lines)


def _is_in_force(entry: Entry, config: RegistryConfig) -> bool:
    if entry.name in _OLDER_NAMES and not entry.origin:
        return False
    if entry.name.startswith("redis."):
        return config.cache not in (None, "memory")
    if entry.name.startswith(_DRIVERS):
        return entry.name.startswith(f"storage.{config.driver}.")
    return True


def _public(entry: Entry) -> object:
    """Return the value for JSON and YAML; a secret is masked."""
    if isinstance(entry.value, Headers):
        return {name: [_MASK] for name, _ in entry.value}
    if entry.key.is_secret and entry.value:
        return _MASK
    if isinstance(entry.value, Seconds):
        return str(entry.value)
    return list(entry.value) if isinstance(entry.value, tuple) else entry.value
