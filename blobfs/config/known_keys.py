"""The names of all keys of a registry's configuration file, and a search for unknown ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Final

from blobfs.config.ignored_keys import IGNORED
from blobfs.config.model import Model
from blobfs.config.schema import Headers, fields_of, item_section
from blobfs.config.yaml_file import Value

_SIMILARITY: Final = 0.7
"""A ratio of difflib: ``adr`` and ``addr`` have 0.86, ``hots`` and ``host`` 0.75."""


@cache
def children() -> dict[str, set[str]]:
    """The names of the keys in each section, by the section's name.

    ``[]`` ends the name of the items of a list. A section with the key ``*`` has any keys.
    """
    found: dict[str, set[str]] = {}
    ignored = (name for group in IGNORED for name in group.keys)
    for name in (*_names(Model, ""), *ignored):
        above, _, last = name.rpartition(".")
        found.setdefault(above, set()).add(last)
        while above:
            item = above
            above, _, last = item.rpartition(".")
            found.setdefault(above, set()).add(last.removesuffix("[]"))
    return found


def _names(cls: type, above: str) -> Iterator[str]:
    for each in fields_of(cls):
        name = f"{above}.{each.name}".strip(".")
        if isinstance(each.type, type) and is_dataclass(each.type):
            yield from _names(each.type, name)
        elif (item := item_section(each.type)) is not None:
            yield from _names(item, f"{name}[]")
        elif each.type is Headers:
            yield f"{name}.*"
        else:
            yield name


def unknown(root: Value) -> Iterator[tuple[str, str, str]]:
    """Yield each unknown key: its origin, its full name, and a similar known name or ``""``.

    Keys at the top that begin with ``x-`` or ``.`` are by convention for anchors of YAML.
    """
    yield from _unknown(root, "", "")


def _unknown(value: Value, pattern: str, name: str) -> Iterator[tuple[str, str, str]]:
    for i, item in enumerate(value.content if isinstance(value.content, list) else ()):
        yield from _unknown(item, f"{pattern}[]", f"{name}[{i}]")
    known = children().get(pattern, set())
    if not known or "*" in known or not isinstance(value.content, dict):
        return
    for key, below in value.content.items():
        full = f"{name}.{key}".strip(".")
        if key in known:
            yield from _unknown(below, f"{pattern}.{key}".strip("."), full)
        elif name or not key.startswith(("x-", ".")):
            yield below.origin, full, nearest(key, known)


def nearest(key: str, known: set[str]) -> str:
    """Return the name of *known* that *key* was probably meant to be; else ``""``."""
    return next(iter(get_close_matches(key.lower(), sorted(known), n=1, cutoff=_SIMILARITY)), "")
