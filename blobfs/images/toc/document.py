"""The JSON of a table of contents, read in one pass with bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from blobfs.errors import LayerInvalid

_VERSION: Final = 1

_MAX_VALUE: Final = 2**22
"""Characters of an entry; the attributes of a file need some 100 KB at most."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")


def read_entries(content: Iterable[bytes]) -> Iterator[object]:
    """Yield the entries of a table, and read *content* to its end. Raises LayerInvalid."""
    text = _Text(_decoded(content))
    names = set()
    version: object = None
    text.expect("{")
    while True:
        name = text.value()
        text.expect(":")
        if name in names or not isinstance(name, str):
            raise text.invalid()
        names.add(name)
        if name == "entries":
            yield from _items(text)
        else:
            value = text.value()
            version = value if name == "version" else version
        if not text.take(","):
            break
    text.expect("}")
    text.expect("")
    if version != _VERSION or "entries" not in names:
        raise LayerInvalid(f"its version is {version!r:.20}, not {_VERSION}")


def _items(text: _Text) -> Iterator[object]:
    text.expect("[")
    if text.take("]"):
        return
    yield text.value()
    while text.take(","):
        yield text.value()
    text.expect("]")


def _decoded(content: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in content:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise LayerInvalid("it is not in UTF-8") from None


class _Text:
    """JSON text in pieces, of which few are in memory."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def take(self, mark: str) -> bool:
        """Consume the character *mark* if it is next, and the white space before it."""
        self._skip_space()
        is_next = self._text.startswith(mark, self._at)
        self._at += len(mark) * is_next
        return is_next

    def expect(self, mark: str) -> None:
        """Consume the character *mark*; an empty one is the end."""
        if not self.take(mark) or not (mark or self._at == len(self._text)):
            raise self.invalid()

    def value(self) -> object:
        """Consume the next value."""
        self._skip_space()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                end = len(self._text)
                value = self
            if end < len(self._text) or not self._fill():  # a number may go on
                break
        if value is self:
            raise self.invalid()
        self._at = end
        return value

    def invalid(self) -> LayerInvalid:
        """Return the error for text of another form."""
        return LayerInvalid("it is no JSON document of the expected form")

    def _skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._fill():
                return

    def _fill(self) -> bool:
        """Add a piece; False at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._text = self._text[self._at :] + piece
        self._at = 0
        if len(self._text) > _MAX_VALUE:
            raise LayerInvalid("it has an entry that is too large")
        return True
