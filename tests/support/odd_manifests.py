"""A seeded stream of manifests, most of them odd: good ones of each type, changed at random."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blobfs.digest import Digest
from blobfs.storage.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MEDIA_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
)

Document = dict[str, object]

_RAW: Final = "raw:"
_TWICE: Final = "twice:"

_VALUES: Final[Sequence[object]] = (
    None, True, 0, 1, 2, -1, 2.5, 2**63 - 1, 2**63, -(2**63), 10**30, "", "text", "é", "\ud800",
    [], {}, [None], [1], ["a"], [[]], [{}], {"a": 1}, {"a": "b"}, {"a": None},
    *(_RAW + text for text in ("2.0", "2e0", "-0", "1e999", "20E-1", "9223372036854775808")),
)  # fmt: skip

_ADDITIONS: Final[Sequence[tuple[str, object]]] = (
    ("urls", ["https://example.com/a"]),
    ("urls", ["https://example.com/a", "http://[::1"]),
    ("urls", ["ftp://example.com/a"]),
    ("urls", ["https://example.com/a#b"]),
    ("urls", ["https://example.com/%zz"]),
    ("urls", ["/a"]),
    ("urls", [None]),
    ("annotations", {"a": "b", "c": None}),
    ("annotations", {"a": 7}),
    ("platform", {"os": "linux", "architecture": "amd64", "os.features": ["a", None]}),
    ("platform", {"os": 1}),
    ("platform", {"features": 1}),
    ("data", "e30="),
    ("data", "no base64"),
    ("artifactType", 7),
    ("subject", 7),
    ("manifests", None),
    ("manifests", []),
    ("layers", None),
    ("config", {}),
    ("signatures", []),
    ("unknown", _RAW + "1e999"),
    ("mediaType", "application/vnd.oci.image.layer.nondistributable.v1.tar"),
    ("mediaType", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    ("mediaType", OCI_MANIFEST),
    ("mediaType", OCI_INDEX),
    ("mediaType", DOCKER_LIST),
)

_TEXT_CHANGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "trailing space": lambda text: text + b" \r\n\t",
    "trailing form feed": lambda text: text + b"\f",
    "trailing zero byte": lambda text: text + b"\0",
    "trailing value": lambda text: text + b"{}",
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "Latin-1": lambda text: text.replace(b"{", b'{"annotations": {"a": "J\xfcrgen"}, ', 1),
    "bytes in a key": lambda text: text.replace(b"{", b'{"a\xff": 1, ', 1),
    "surrogates": lambda text: text.replace(b"{", b'{"a": "\\ud800\\udc00 \\udc00", ', 1),
    "control character": lambda text: text.replace(b"{", b'{"a": "\x01", ', 1),
    "delete character": lambda text: text.replace(b"{", b'{"a": "\x7f", ', 1),
    "NaN": lambda text: text.replace(b"{", b'{"a": NaN, ', 1),
    "leading zero": lambda text: text.replace(b"{", b'{"a": 01, ', 1),
    "wrong escape": lambda text: text.replace(b"{", b'{"a": "\\x", ', 1),
    "single quotes": lambda text: text.replace(b'"', b"'"),
    "comma at the end": lambda text: text[:-1] + b",}",
    "cut off": lambda text: text[:-1],
    "nested 300 times": lambda text: _nested(text, 300),
    "nested 1,100 times": lambda text: _nested(text, 1_100),
    "list": lambda text: b"[" + text + b"]",
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
}  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """A payload, what was changed in it, and the media type by which a client would push it."""

    payload: bytes
    changes: tuple[str, ...]
    media_type: str


@dataclass(frozen=True)
class Stock:
    """Digests that a repository has, and one that it has not."""

    config: Digest
    layer: Digest
    child: Digest
    missing: Digest


def odd_manifests(number: int, stock: Stock, seed: int = 1) -> Iterator[Odd]:
    """The first *number* of the stream: with each change of the text, with each addition to the
    document and to a descriptor, then with up to two changes anywhere."""
    chance = random.Random(seed)
    names = list(_TEXT_CHANGES)
    added = range(len(names), len(names) + 2 * len(_ADDITIONS))
    for index in range(number):
        base = _good(chance, stock)
        media_type = str(base["mediaType"])
        changes = []
        change = names[index] if index < len(names) else ""
        if index in added:
            key, value = _ADDITIONS[index // 2 % len(_ADDITIONS)]
            target = base if index % 2 else list(_objects(base))[1]
            target[key] = value
            changes.append(f"{key} = {value!r}")
        elif not change:
            times = chance.randint(0, 2)
            changes += [_changed(chance, base, stock) for _ in range(times)]
        text = _TEXT_CHANGES.get(change, bytes)(_text(base))
        yield Odd(text, (*changes, change), _pushed_as(text, media_type))


def _nested(text: bytes, depth: int) -> bytes:
    return text.replace(b"{", b'{"a": ' + b"[" * depth + b"]" * depth + b", ", 1)


def _good(chance: random.Random, stock: Stock) -> Document:
    media_type = chance.choice(sorted(MEDIA_TYPES))
    head: Document = {"schemaVersion": 2, "mediaType": media_type}
    if media_type in (OCI_INDEX, DOCKER_LIST):
        platform = {"os": "linux", "architecture": "amd64"}
        child = {**_descriptor(stock.child, OCI_MANIFEST), "platform": platform}
        return head | {"manifests": [child, _descriptor(stock.child, DOCKER_MANIFEST)]}
    tar = "application/vnd.oci.image.layer.v1.tar+gzip"
    layers = [_descriptor(stock.layer, tar), _descriptor(stock.layer, "application/x-layer")]
    return head | {"config": _descriptor(stock.config, "application/x-config"), "layers": layers}


def _descriptor(digest: Digest, media_type: str) -> Document:
    return {"mediaType": media_type, "digest": str(digest), "size": 6}


def _objects(value: object) -> Iterator[Document]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _changed(chance: random.Random, document: Document, stock: Stock) -> str:
    """Change one thing in one of the objects; says which."""
    target = chance.choice(list(_objects(document)))
    key = chance.choice(sorted(target)) if target else "empty"
    value = chance.choice(_VALUES)
    match chance.randrange(6):
        case 0 | 1:
            target[key] = value
            return f"{key} = {value!r}"
        case 2:
            target.pop(key, None)
            return f"no {key}"
        case 3:
            other = chance.choice([key.upper(), key.title(), key.replace("s", "\u017f"), "K" + key])
            target[other] = target.pop(key, None)
            return f"{key} as {other}"
        case 4:
            target[_TWICE + key] = value
            return f"{key} twice, {value!r}"
        case _:
            added, value = chance.choice([*_ADDITIONS, ("digest", str(stock.missing))])
            target[added] = value
            return f"{added} = {value!r}"


def _text(document: Document) -> bytes:
    text = json.dumps(document).replace(f'"{_TWICE}', '"')
    start = f'"{_RAW}'
    while start in text:
        before, _, after = text.partition(start)
        raw, _, after = after.partition('"')
        text = before + raw + after
    return text.encode()


def _pushed_as(text: bytes, media_type: str) -> str:
    """The ``Content-Type`` that the document asks for, else that of the good one."""
    try:
        document = json.loads(text, object_pairs_hook=_without_nulls)
    except (ValueError, RecursionError):
        return media_type
    if not isinstance(document, dict):
        return media_type
    # As Go reads it: whatever the case, the last that says something.
    members = {key.lower().replace("\u017f", "s"): value for key, value in document.items()}
    said = members.get("mediatype")
    match said:
        case str() if said in MEDIA_TYPES:
            return said
        case None | "":
            return OCI_INDEX if "manifests" in members else OCI_MANIFEST
    return media_type


def _without_nulls(pairs: list[tuple[str, object]]) -> Document:
    return {key: value for key, value in pairs if value is not None}
