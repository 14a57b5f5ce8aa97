"""The tables of all keys of a registry's configuration, for the documentation."""

from __future__ import annotations

from collections.abc import Iterator

from blobfs.config.ignored_keys import IGNORED
from blobfs.config.model import Model
from blobfs.config.schema import BLOBFS, Seconds, fields_of, item_section
from blobfs.config.yaml_file import dump

_ALIASES = ("storage.s3aws", "storage.s3goamz")
_VERSIONS = {"": "2.8, 3", BLOBFS: "only blobfs"}


def taken_keys() -> str:
    """Return a table of the keys that blobfs takes, in Markdown."""
    return "\n".join(
        ["| key | version | default | effect |", "| --- | --- | --- | --- |", *_taken(Model, "")]
    )


def _taken(cls: type, section: str) -> Iterator[str]:
    if section in _ALIASES:
        return
    defaults = cls()
    for each in fields_of(cls):
        name = f"{section}.{each.name}".strip(".")
        item = item_section(each.type)
        if item is not None:
            yield from _taken(item, f"{name}[]")
        elif each.key is None:
            yield from _taken(each.type, name)
        else:
            version = _VERSIONS.get(each.key.only, each.key.only)
            default = _default(getattr(defaults, each.attribute))
            secret = "; secret" if each.key.is_secret else ""
            yield f"| `{name}` | {version} | {default} | {each.key.use}{secret} |"


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return ""
    return f"`{value if isinstance(value, Seconds) else dump(value)}`"


def ignored_keys() -> str:
    """Return a table of the keys that blobfs ignores, in Markdown."""
    rows = [
        f"| {_names(group.keys)} | {_VERSIONS.get(group.only, group.only)} | {group.why} |"
        for group in IGNORED
        if group.section not in _ALIASES
    ]
    return "\n".join(["| key | version | reason |", "| --- | --- | --- |", *rows])


def _names(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
