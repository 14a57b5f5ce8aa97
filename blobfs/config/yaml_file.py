"""YAML as a tree of values, each with its origin.

Scalars stay text until the schema converts them: a password may be ``0123``. Each error is
MountRefused. Its text never contains a value, because any value may be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from blobfs.errors import MountRefused

_NOT_YAML: Final = (
    yaml.YAMLError,
    RecursionError,
    *(ValueError, OverflowError, LookupError, AttributeError),  # PyYAML raises them for `!!int foo`
)
_RESOLVED_TAGS: Final = {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:null"}
_NULL: Final = "tag:yaml.org,2002:null"
_TEXT: Final = "tag:yaml.org,2002:str"

_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # YAML allows "\ud800", which has no UTF-8 form

Content = str | list["Value"] | dict[str, "Value"] | None


@dataclass(slots=True)
class Value:
    """A node of the tree: a text, a list or a mapping; None for null.

    *origin* is ``file:line``, or the name of an environment variable. It is empty for a mapping
    that such a variable has created on its way to a key.
    """

    content: Content = field(repr=False)
    origin: str = ""

    @property
    def is_empty(self) -> bool:
        """True for null and for an empty text, which count as missing."""
        return self.content is None or self.content == ""

    @property
    def mapping(self) -> dict[str, Value] | None:
        """The mapping, which is empty for an empty value; None for another kind."""
        if self.is_empty:
            return {}
        return self.content if isinstance(self.content, dict) else None

    @property
    def items(self) -> list[Value] | None:
        """The list, which is empty for an empty value; None for another kind."""
        if self.is_empty:
            return []
        return self.content if isinstance(self.content, list) else None

    @property
    def text(self) -> str | None:
        """The text; None for another kind, and for a text without a UTF-8 form."""
        if self.content is None:
            return ""
        is_text = isinstance(self.content, str) and not _SURROGATE.search(self.content)
        return str(self.content) if is_text else None


def read(path: Path, *, unique: bool = False) -> Value:
    """Read the file at *path*; raises MountRefused, if *unique* also for a repeated key."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}") from None
    try:
        return _value(content, f"{path}:", _UniqueLoader if unique else _Loader)
    except _Repeated as exc:
        raise MountRefused(f"{path}:{exc.line}: {exc.key} is there twice; give it once") from None
    except yaml.MarkedYAMLError as exc:
        where = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise MountRefused(f"{path} is not YAML{where}") from None
    except _NOT_YAML:
        raise MountRefused(f"{path} is not YAML") from None


def parse(text: str, origin: str) -> Value:
    """Parse the value of the environment variable *origin*; raises MountRefused."""
    try:
        return _value(text, origin)
    except _NOT_YAML:
        raise MountRefused(f"{origin} is not YAML; quote the value") from None


def dump(value: object) -> str:
    """Return a scalar, or a list of scalars, in YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


class _Loader(yaml.SafeLoader):
    """YAML loader that leaves numbers, dates and booleans as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's attribute)
        first: [(tag, form) for tag, form in resolvers if tag in _RESOLVED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Repeated(Exception):
    """A mapping has *key* a second time, in *line*."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key = key
        self.line = line


class _UniqueLoader(_Loader):
    """YAML loader that refuses a mapping with two equal keys, before merges add keys to it."""

    def compose_mapping_node(self, anchor: dict[Any, Any]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found: set[str] = set()
        for key, _ in node.value:
            if (text := _text(key)) in found:
                raise _Repeated(text, key.start_mark.line + 1)
            found.add(text)
        return node


def _value(content: str | bytes, origin: str, kind: type[_Loader] = _Loader) -> Value:
    loader = kind(content)
    try:
        node = loader.get_single_node()
        return _Converter(loader, origin).convert(node) if node else Value(None, origin)
    finally:
        loader.dispose()


class _Converter:
    """Converts nodes of PyYAML to values. Aliases of a node share its content."""

    def __init__(self, loader: _Loader, origin: str) -> None:
        self._loader = loader
        self._origin = origin
        self._contents: dict[yaml.Node, Content] = {}

    def convert(self, node: yaml.Node, key: yaml.Node | None = None) -> Value:
        """Convert *node*, whose line is that of its *key* in a mapping."""
        if node not in self._contents:
            self._contents[node] = self._content(node)
        line = (key or node).start_mark.line + 1
        origin = f"{self._origin}{line}" if self._origin.endswith(":") else self._origin
        return Value(self._contents[node], origin)

    def _content(self, node: yaml.Node) -> Content:
        match node:
            case yaml.MappingNode():
                self._loader.flatten_mapping(node)
                return {_text(key): self.convert(value, key) for key, value in node.value}
            case yaml.SequenceNode():
                return [self.convert(item) for item in node.value]
        if node.tag not in (_NULL, _TEXT):
            self._loader.construct_object(node)  # raises for `!!int foo`
        return None if node.tag == _NULL else str(node.value)


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key is no text", node.start_mark)
    return str(node.value)
