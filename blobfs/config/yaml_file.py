"""A file of settings in YAML, read so that whoever made a mistake is told where.

What is not understood is MountRefused, with the key's name, and never its value: any may be secret.
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
    *(ValueError, OverflowError, LookupError, AttributeError),  # PyYAML's for `!!int foo`
)
_KEPT: Final = {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"}

_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # "\ud800" in YAML, which is no character

_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_LONGEST_S: Final = 24 * 3600.0
_TRUE: Final = {"true", "yes", "on", "y"}
_FALSE: Final = {"false", "no", "off", "n", ""}


def read(path: Path) -> Section:
    """The file at *path*; raises MountRefused."""
    try:
        return Section(path, "", yaml.load(path.read_bytes(), _Loader))  # noqa: S506  (a safe one)
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}") from None
    except yaml.MarkedYAMLError as exc:
        where = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise MountRefused(f"{path} is not YAML{where}") from None
    except _NOT_YAML:
        raise MountRefused(f"{path} is not YAML") from None


class _Loader(yaml.SafeLoader):
    """Leaves numbers and the like as they are written: a password may be 0123."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML has it)
        first: [(tag, form) for tag, form in resolvers if tag in _KEPT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Section:
    """A mapping that is called *name* in the file; what is empty is as good as missing."""

    def __init__(self, file: Path, name: str, value: object) -> None:
        self._file = file
        self._name = name
        if value in (None, ""):
            value = {}
        if not isinstance(value, Mapping):
            raise self.refusal("", "must be a mapping")
        self._values = value

    def refusal(self, key: str, why: str) -> MountRefused:
        """What to raise, as the value of *key* is not what it must be."""
        return MountRefused(self.remark(key, why))

    def remark(self, key: str, text: str) -> str:
        """*text* about *key*, with the names of both the file and the key."""
        return f"{self._file}: {self._called(key) or 'the configuration'} {text}"

    def _called(self, key: str) -> str:
        return f"{self._name}.{key}".strip(".")

    def section(self, key: str) -> Section:
        """The mapping at *key*."""
        return Section(self._file, self._called(key), self._values.get(key))

    def sections(self, key: str) -> list[Section]:
        """The list of mappings at *key*."""
        name = self._called(key)
        return [Section(self._file, f"{name}[{i}]", v) for i, v in enumerate(self._list(key))]

    def names(self) -> list[str]:
        """The keys."""
        return [str(key) for key in self._values]

    def texts(self, key: str) -> list[str]:
        """The list of texts at *key*."""
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
        """The text at *key*, or nothing."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or _SURROGATE.search(value):
            raise self.refusal(key, "must be a text")
        return value

    def flag(self, key: str) -> bool:
        """Whether *key* is true; false is the default."""
        text = self.text(key).lower()
        if text not in _TRUE | _FALSE:
            raise self.refusal(key, "must be true or false")
        return text in _TRUE

    def number(self, key: str) -> int:
        """The number at *key*, or 0."""
        text = self.text(key) or "0"
        if not _NUMBER.fullmatch(text):
            raise self.refusal(key, "must be a number")
        return int(text)

    def seconds(self, key: str) -> float:
        """The duration at *key*, or 0, as Go writes it; a bare number is of nanoseconds."""
        text = self.text(key)
        if text.isascii() and text.isdecimal():
            text = f"{text}ns"
        if _QUANTITY.sub("", text):
            raise self.refusal(key, "must be a duration such as 500ms or 1m30s")
        total_s = sum(float(found[1]) * _UNITS_S[found[2]] for found in _QUANTITY.finditer(text))
        if total_s > _LONGEST_S:
            raise self.refusal(key, "must be a day at the most")
        return total_s
