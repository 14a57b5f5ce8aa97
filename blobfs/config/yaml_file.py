"""A configuration file in YAML, with errors that name the key.

Each error is MountRefused. Its text never contains a value, because any value may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from blobfs.errors import MountRefused

_NOT_YAML: Final = (
    yaml.YAMLError,
    RecursionError,
    *(ValueError, OverflowError, LookupError, AttributeError),  # PyYAML raises them for `!!int foo`
)
_RESOLVED_TAGS: Final = {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"}

_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # YAML allows "\ud800", which has no UTF-8 form

_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_LONGEST_S: Final = 24 * 3600.0
_TRUE: Final = {"true", "yes", "on", "y"}
_FALSE: Final = {"false", "no", "off", "n", ""}


def read(path: Path) -> Section:
    """Read the file at *path*; raises MountRefused."""
    try:
        return Section(path, "", yaml.load(path.read_bytes(), _Loader))  # noqa: S506  (a SafeLoader)
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}") from None
    except yaml.MarkedYAMLError as exc:
        where = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise MountRefused(f"{path} is not YAML{where}") from None
    except _NOT_YAML:
        raise MountRefused(f"{path} is not YAML") from None


class _Loader(yaml.SafeLoader):
    """YAML loader that leaves numbers, dates and booleans as text: a password may be 0123."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's attribute)
        first: [(tag, form) for tag, form in resolvers if tag in _RESOLVED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Section:
    """The mapping at the key *name* of the file. An empty value counts as a missing one."""

    def __init__(self, file: Path, name: str, value: object) -> None:
        self._file = file
        self._name = name
        if value in (None, ""):
            value = {}
        if not isinstance(value, Mapping):
            raise self.refusal("", "must be a mapping")
        self._values = value

    def refusal(self, key: str, why: str) -> MountRefused:
        """Return the error for a wrong value of *key*."""
        return MountRefused(self.remark(key, why))

    def remark(self, key: str, text: str) -> str:
        """Return a message: the file, the full name of *key*, and *text*."""
        return f"{self._file}: {self._full_name(key) or 'the configuration'} {text}"

    def _full_name(self, key: str) -> str:
        return f"{self._name}.{key}".strip(".")

    def section(self, key: str) -> Section:
        """Return the mapping at *key*."""
        return Section(self._file, self._full_name(key), self._values.get(key))

    def sections(self, key: str) -> list[Section]:
        """Return the list of mappings at *key*."""
        name = self._full_name(key)
        return [Section(self._file, f"{name}[{i}]", v) for i, v in enumerate(self._list(key))]

    def names(self) -> list[str]:
        """Return the keys."""
        return [str(key) for key in self._values]

    def texts(self, key: str) -> list[str]:
        """Return the list of texts at *key*."""
        texts = [value for value in self._list(key) if isinstance(value, str)]
        if len(texts) < len(self._list(key)):
            raise self.refusal(key, "must be a list of texts")
        return texts

    def _list(self, key: str) -> list[object]:
        value = self._values.get(key)
        if value in (None, ""):
            return []
        if not isinstance(value, list):
            raise self.refusal(key, "must be a list")
        return value

    def text(self, key: str) -> str:
        """Return the text at *key*, by default an empty one."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or _SURROGATE.search(value):
            raise self.refusal(key, "must be a text")
        return value

    def flag(self, key: str) -> bool:
        """True if *key* is true; false is the default."""
        text = self.text(key).lower()
        if text not in _TRUE | _FALSE:
            raise self.refusal(key, "must be true or false")
        return text in _TRUE

    def number(self, key: str) -> int:
        """Return the number at *key*, by default 0."""
        text = self.text(key) or "0"
        if not _NUMBER.fullmatch(text):
            raise self.refusal(key, "must be a number")
        return int(text)

    def seconds(self, key: str) -> float:
        """Read a duration in Go's form, by default 0; a bare number is in nanoseconds."""
        text = self.text(key)
        if text.isascii() and text.isdecimal():
            text = f"{text}ns"
        if _QUANTITY.sub("", text):
            raise self.refusal(key, "must be a duration such as 500ms or 1m30s")
        total_s = sum(float(found[1]) * _UNITS_S[found[2]] for found in _QUANTITY.finditer(text))
        if total_s > _LONGEST_S:
            raise self.refusal(key, "must be 24h at most")
        return total_s
