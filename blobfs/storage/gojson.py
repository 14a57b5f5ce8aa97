"""JSON decoder with declared shapes and the rules of Go's ``encoding/json``.

A registry is written in Go, so Go's rules decide which manifests it can read. Keys match without
regard to case. ``null`` leaves a value unchanged. A duplicate key is decoded over the first value.
Invalid UTF-8 becomes U+FFFD. An integer has no fraction and no exponent. A declared value must
have its declared type. Undeclared members only have to be valid JSON.

Source of truth: Go 1.19, ``encoding/json/decode.go``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Never

from blobfs.errors import ManifestInvalid

_INT64: Final = range(-(2**63), 2**63)
_INT64_DIGITS: Final = 20  # with a sign

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Token:
    """A JSON value before a shape decodes it, as ``parse`` returns it."""

    value: object


@dataclass(frozen=True, slots=True)
class _Object:
    members: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class _Number:
    text: str


def parse(payload: bytes) -> Token:
    """Parse exactly one JSON value; raises ManifestInvalid.

    Python's parser accepts some 990 nested levels, Go's 10,000.
    """
    try:
        return Token(_DECODER.decode(payload.decode(errors="replace")))
    except (ValueError, RecursionError):
        raise ManifestInvalid("not JSON") from None


def _not_json(constant: str) -> Never:
    raise ValueError(constant)  # NaN and Infinity, which Python accepts by default


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number, parse_constant=_not_json
)


class Shape(ABC):
    """A Go type. *zero* is its value if the JSON has none."""

    zero: object = None

    def decode(self, token: object, old: object, where: str) -> object:
        """Decode *token* over the value *old*; raises ManifestInvalid, which names *where*."""
        return self._null(old) if token is None else self._decode(token, old, where)

    def _null(self, old: object) -> object:
        return old

    @abstractmethod
    def _decode(self, token: object, old: object, where: str) -> object:
        """Decode a token that is not null."""


class _Nilable(Shape):
    """A Go type that can be nil; ``null`` sets it to nil."""

    def _null(self, old: object) -> object:
        return None


class _Any(_Nilable):
    def _decode(self, token: object, old: object, where: str) -> object:
        return token


class _String(Shape):
    zero = ""

    def _decode(self, token: object, old: object, where: str) -> object:
        if not isinstance(token, str):
            raise ManifestInvalid(f"{where} is not a string")
        return _SURROGATE.sub("\ufffd", token)


class _Int64(Shape):
    zero = 0

    def _decode(self, token: object, old: object, where: str) -> object:
        if isinstance(token, _Number) and len(token.text) <= _INT64_DIGITS:
            try:
                value = int(token.text)
            except ValueError:
                pass  # a fraction or an exponent
            else:
                if value in _INT64:
                    return value
        raise ManifestInvalid(f"{where} is not an integer of 64 bits")


class _Bytes(_Nilable):
    def _decode(self, token: object, old: object, where: str) -> object:
        try:
            if isinstance(token, str):
                return base64.b64decode(re.sub("[\r\n]", "", token), validate=True)
        except (ValueError, binascii.Error):
            pass
        raise ManifestInvalid(f"{where} is not base64")


ANY: Final = _Any()
"""``interface{}``."""

STRING: Final = _String()
"""``string``."""

INT64: Final = _Int64()
"""``int64``, and ``int`` on 64-bit machines."""

BYTES: Final = _Bytes()
"""``[]byte``."""


class Slice(_Nilable):
    """``[]item``: a list, or None for nil."""

    def __init__(self, item: Shape) -> None:
        self._item = item

    def _decode(self, token: object, old: object, where: str) -> object:
        if not isinstance(token, list):
            raise ManifestInvalid(f"{where} is not a list")
        before = old if isinstance(old, list) else []
        before = before + [self._item.zero] * (len(token) - len(before))
        return [
            self._item.decode(item, before[index], f"{where}[{index}]")
            for index, item in enumerate(token)
        ]


class Map(_Nilable):
    """``map[string]item``: a dict, or None for nil."""

    def __init__(self, item: Shape) -> None:
        self._item = item

    def _decode(self, token: object, old: object, where: str) -> object:
        if not isinstance(token, _Object):
            raise ManifestInvalid(f"{where} is not an object")
        read = dict(old) if isinstance(old, dict) else {}
        for key, value in token.members:
            read[key] = self._item.decode(value, self._item.zero, f"a value of {where}")
        return read


class Struct(Shape):
    """A struct: a dict with all its fields, by their JSON names."""

    def __init__(self, fields: Mapping[str, Shape]) -> None:
        self._fields = fields
        self._by_folded = {_folded(name): name for name in fields}
        self._fresh = {name: shape.zero for name, shape in fields.items()}
        self.zero = self._fresh

    def read(self, token: Token) -> dict[str, object]:
        """Decode *token*; raises ManifestInvalid."""
        if token.value is not None and not isinstance(token.value, _Object):
            raise ManifestInvalid("not a JSON object")
        return self._read(token.value, None, "")

    def _decode(self, token: object, old: object, where: str) -> object:
        return self._read(token, old, f"{where}.")

    def _read(self, token: object, old: object, prefix: str) -> dict[str, object]:
        read = dict(old if isinstance(old, dict) else self._fresh)
        if token is None:
            return read
        if not isinstance(token, _Object):
            raise ManifestInvalid(f"{prefix[:-1]} is not an object")
        for key, value in token.members:
            name = key if key in self._fields else self._by_folded.get(_folded(key))
            if name is not None:
                read[name] = self._fields[name].decode(value, read[name], prefix + name)
        return read


class Pointer(_Nilable):
    """``*struct``: a dict, or None for nil."""

    def __init__(self, struct: Struct) -> None:
        self._struct = struct

    def _decode(self, token: object, old: object, where: str) -> object:
        return self._struct.decode(token, old or self._struct.zero, where)


def _folded(key: str) -> str:
    # Go folds the long s and the Kelvin sign to letters; ``lower`` folds only the latter.
    return key.lower().replace("\u017f", "s")
