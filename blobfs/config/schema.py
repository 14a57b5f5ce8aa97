"""The schema of a configuration: sections are dataclasses whose fields are keys.

``taken`` declares a key. The annotation of the field is its type: text, flag, number, ``Seconds``,
a list of texts, ``Headers``, another section, or a list of sections. ``Loader`` fills a section
with values, and records the origin of each key that was given.

Errors name the origin and the key, and never the value, which can be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from blobfs.config.yaml_file import Value
from blobfs.errors import MountRefused

T = TypeVar("T")


class Headers(tuple[tuple[str, str], ...]):
    """Names and values of HTTP headers; a mapping of names to lists of values in YAML."""

    __slots__ = ()


class Seconds(float):
    """A duration, which is written in Go's form."""

    __slots__ = ()

    def __str__(self) -> str:
        unit, size = ("h", 3600) if self and self % 3600 == 0 else ("s", 1)
        number = f"{self / size:.9f}".rstrip("0").rstrip(".")
        return f"{number}{unit}"


class Key(NamedTuple):
    """The properties of a key that blobfs takes.

    *use* says what blobfs does with it. *only* is the version of distribution that has the key, if
    it is one. *is_secret* keeps the value out of all output.
    """

    use: str = ""
    only: str = ""
    is_secret: bool = False
    choices: tuple[str, ...] = ()
    most: float | None = None


BLOBFS: Final = "blobfs"
"""The value of ``Key.only`` for a key that a registry ignores."""


def taken(default: object, use: str, **properties: Any) -> Any:  # noqa: ANN401  (a field's default)
    """Declare a key with its default and its use; *properties* are those of ``Key``."""
    return field(default=default, metadata={"key": Key(use, **properties)})


class Field(NamedTuple):
    """A field of a section; a key is called ``keep-last`` if its attribute is ``keep_last``."""

    name: str
    attribute: str
    type: Any
    key: Key | None


def fields_of(cls: type) -> Iterator[Field]:
    """Yield the fields of a section, in the order of their declaration."""
    types = get_type_hints(cls)
    for each in fields(cls):
        name = each.name.replace("_", "-")
        yield Field(name, each.name, types[each.name], each.metadata.get("key"))


def item_section(kind: Any) -> type | None:  # noqa: ANN401  (an annotation)
    """Return the section that the items of a list have; None for another type."""
    arguments = get_args(kind)
    is_list = get_origin(kind) is tuple and is_dataclass(arguments[0])
    return arguments[0] if is_list else None


class Origins(dict[str, str]):
    """The origin of each key that was given, by its full name such as ``redis.tls.key``."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def remark(self, name: str, text: str) -> str:
        """Return a message: the origin of the key *name* or of its section, and *text*."""
        place = name
        while place and place not in self:
            place = _LAST.sub("", place)
        return f"{self.get(place, self.file)}: {name or 'the configuration'} {text}"

    def refusal(self, name: str, why: str) -> MountRefused:
        """Return the error for a wrong value of the key *name*."""
        return MountRefused(self.remark(name, why))


_LAST: Final = re.compile(r"(\.[^.\[]+|\[\d+\]|^[^.\[]+)$")
"""The last part of the name of a key."""


class Loader:
    """Fills sections from a tree of values; raises MountRefused for a value of a wrong type."""

    def __init__(self, file: str) -> None:
        self.origins = Origins(file)

    def load(self, cls: type[T], value: Value, name: str = "") -> T:
        """Return the section *cls* at the key *name*; an empty value counts as missing."""
        if name:
            self.origins[name] = value.origin
        mapping = value.mapping
        if mapping is None:
            raise self.origins.refusal(name, "must be a mapping")
        given = {}
        for each in fields_of(cls):
            found = mapping.get(each.name)
            if found is not None and not found.is_empty:
                full = f"{name}.{each.name}".strip(".")
                self.origins[full] = found.origin
                given[each.attribute] = self._converted(each, found, full)
        return cls(**given)

    def _converted(self, each: Field, value: Value, name: str) -> object:
        if is_dataclass(each.type) and isinstance(each.type, type):
            return self.load(each.type, value, name)
        if each.type is Headers:
            return self._headers(value, name)
        if get_origin(each.type) is tuple:
            return self._list(each, value, name)
        return self._scalar(each, value, name)

    def _list(self, each: Field, value: Value, name: str) -> object:
        if (cls := item_section(each.type)) is not None:
            items = enumerate(self._items(value, name))
            return tuple(self.load(cls, item, f"{name}[{i}]") for i, item in items)
        texts = self._texts(value, name)
        if each.key and each.key.choices and not set(texts) <= set(each.key.choices):
            raise self.origins.refusal(name, f"can be {', '.join(each.key.choices)}")
        return texts

    def _items(self, value: Value, name: str) -> list[Value]:
        if value.items is None:
            raise self.origins.refusal(name, "must be a list")
        return value.items

    def _texts(self, value: Value, name: str) -> tuple[str, ...]:
        items = self._items(value, name)
        texts = tuple(item.content for item in items if isinstance(item.content, str))
        if len(texts) < len(items):
            raise self.origins.refusal(name, "must be a list of texts")
        return texts

    def _headers(self, value: Value, name: str) -> Headers:
        mapping = value.mapping
        if mapping is None:
            raise self.origins.refusal(name, "must be a mapping")
        pairs = []
        for header, item in mapping.items():
            if not _HEADER.fullmatch(header):
                raise self.origins.refusal(name, "must have valid names of HTTP headers")
            full = f"{name}.{header}"
            self.origins[full] = item.origin
            for text in self._texts(item, full):
                if not (text.isascii() and text.isprintable()):
                    raise self.origins.refusal(full, "must be a list of printable texts")
                pairs.append((header, text))
        return Headers(pairs)

    def _scalar(self, each: Field, value: Value, name: str) -> object:
        text = value.text
        if text is None:
            raise self.origins.refusal(name, "must be a text")
        parse, expected = _SCALARS[(get_args(each.type) or (each.type,))[0]]
        properties = each.key or Key()
        found = parse(text.lower() if properties.choices else text)
        if found is None:
            raise self.origins.refusal(name, expected)
        if properties.choices and found not in properties.choices:
            raise self.origins.refusal(name, f"must be {' or '.join(properties.choices)}")
        if properties.most is not None and isinstance(found, float) and found > properties.most:
            raise self.origins.refusal(name, f"must be {properties.most / 3600:g}h at most")
        return found


_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_FLAGS: Final = dict.fromkeys(("true", "yes", "on", "y", "1", "t"), True) | dict.fromkeys(
    ("false", "no", "off", "n", "0", "f"), False
)


def _flag(text: str) -> bool | None:
    return _FLAGS.get(text.lower())


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _seconds(text: str) -> Seconds | None:
    """Parse a duration in Go's form; a bare number is in nanoseconds."""
    if text.isascii() and text.isdecimal():
        text = f"{text}ns"
    if _QUANTITY.sub("", text):
        return None
    return Seconds(sum(float(q[1]) * _UNITS_S[q[2]] for q in _QUANTITY.finditer(text)))


_SCALARS: Final[dict[type, tuple[Callable[[str], object], str]]] = {
    str: (str, "must be a text"),
    bool: (_flag, "must be true or false"),
    int: (_number, "must be a number"),
    Seconds: (_seconds, "must be a duration such as 500ms or 1m30s"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a loaded section with its value; *origin* is empty for a default."""

    name: str
    value: object
    origin: str
    key: Key


def entries(loaded: object, origins: Mapping[str, str], name: str = "") -> Iterator[Entry]:
    """Yield the keys of the section *loaded* and of the sections in it."""
    for each in fields_of(type(loaded)):
        full = f"{name}.{each.name}".strip(".")
        value: Any = getattr(loaded, each.attribute)
        if is_dataclass(value):
            yield from entries(value, origins, full)
        elif item_section(each.type) is not None:
            for i, item in enumerate(value):
                yield from entries(item, origins, f"{full}[{i}]")
        elif each.key is not None:
            yield Entry(full, value, origins.get(full, ""), each.key)
