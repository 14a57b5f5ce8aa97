"""Entries of ``index.json``: the names that they have, and the file as a whole.

Names that other tools give are hostile, and are checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestInvalid, ManifestInvalid, NameInvalid
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_INDEX
from blobfs.transfer.bounded_json import bounded_json

LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
"""The content of the file ``oci-layout``."""

MAX_INDEX: Final = 2**28
"""Bytes of ``index.json`` at the most: a million entries."""

REF_NAME: Final = "org.opencontainers.image.ref.name"
HISTORY: Final = "io.blobfs.history"

_IMAGE_NAME: Final = "io.containerd.image.name"
"""The whole name, by ``docker save`` and buildx; its tag alone is in ``REF_NAME``."""

_HOST_WITH_PORT: Final = re.compile(r"[^/]*:[0-9]+/")
_MAX_SIZE: Final = 2**63

_MAX_NAME: Final = 1024
"""Characters of the name of an image with its host; longer ones are not valid."""

Document = Mapping[Any, Any]
"""An object in JSON."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest or a single blob of a repository; *document* is its JSON.

    *repository* is ``""`` if the name of the entry is only a tag, or if it has no valid name.
    """

    document: Document
    descriptor: Descriptor
    repository: str = ""
    tag: Tag | None = None
    history: tuple[Digest, ...] = ()

    @property
    def is_blob(self) -> bool:
        """True for a single blob."""
        return self.descriptor.media_type == OCTET_STREAM

    @property
    def is_ours(self) -> bool:
        """True if it has our name of a manifest without a tag, or of a single blob."""
        return self.name == _name(self.repository, self.descriptor.digest)

    @property
    def name(self) -> str:
        """The name by which other tools find the entry; ``""`` for none."""
        return annotations_of(self.document).get(REF_NAME, "")

    @classmethod
    def read(cls, document: object) -> Entry | None:
        """Return the entry of *document*; None if it is no valid descriptor."""
        match document:
            case {"mediaType": str(media_type), "digest": str(text), "size": int(size), **rest}:
                with suppress(DigestInvalid):
                    digest = Digest.parse(text)
                    if 0 <= size < _MAX_SIZE:
                        noted = annotations_of(rest)
                        repository, tag = _named(noted, text)
                        history = _digests(noted.get(HISTORY, ""))
                        whole = {"mediaType": media_type, "digest": text, "size": size, **rest}
                        descriptor = Descriptor(digest, size, media_type)
                        return cls(whole, descriptor, repository, tag, history)
        return None

    @classmethod
    def of(cls, descriptor: Descriptor, repository: str, tag: Tag | None = None) -> Entry:
        """Return a new entry."""
        document = {
            "mediaType": descriptor.media_type,
            "digest": str(descriptor.digest),
            "size": descriptor.size,
            "annotations": {REF_NAME: _name(repository, tag or descriptor.digest)},
        }
        return cls(document, descriptor, repository, tag)

    def moved_to(self, descriptor: Descriptor) -> Entry:
        """Return the entry of the same name for another manifest."""
        if descriptor.digest == self.descriptor.digest:
            return self
        noted = annotations_of(self.document)
        kept = {key: noted[key] for key in (REF_NAME, _IMAGE_NAME, HISTORY) if key in noted}
        new = Entry.of(descriptor, self.repository, self.tag)
        return replace(new, document={**new.document, "annotations": kept}, history=self.history)

    def with_history(self, history: Sequence[Digest]) -> Entry:
        """Return the entry with *history* after its own, without its own manifest."""
        whole = tuple(
            each
            for each in dict.fromkeys((*self.history, *history))
            if each != self.descriptor.digest
        )
        if whole == self.history:
            return self
        noted = {**self.document.get("annotations", {}), HISTORY: " ".join(map(str, whole))}
        return replace(self, document={**self.document, "annotations": noted}, history=whole)


@dataclass(slots=True)
class Index:
    """The file ``index.json``: the entries that are valid, and all else as it was."""

    document: Document = field(default_factory=lambda: {"schemaVersion": 2, "mediaType": OCI_INDEX})
    entries: list[Entry] = field(default_factory=list)
    others: list[object] = field(default_factory=list)

    @classmethod
    def read(cls, payload: bytes) -> Index:
        """Parse the file; raises ManifestInvalid."""
        try:
            document = bounded_json(payload)
        except ValueError as exc:
            raise ManifestInvalid(f"index.json is no JSON: {exc}") from None
        match document:
            case {"manifests": [*items]}:
                index = cls({key: document[key] for key in document if key != "manifests"})
            case {"manifests": None} | {"schemaVersion": 2}:
                index, items = cls(document), []
            case _:
                raise ManifestInvalid("index.json is no OCI image index")
        for item in items:
            entry = Entry.read(item)
            if entry is None:
                index.others.append(item)
            else:
                index.entries.append(entry)
        return index

    def payload(self, entries: Iterable[Entry]) -> bytes:
        """Return the file with *entries* instead of its own."""
        items = [*(entry.document for entry in entries), *self.others]
        document = {**self.document, "manifests": items}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(
            errors="surrogatepass"
        )


def annotations_of(document: Document) -> dict[str, str]:
    """Return the annotations of an entry that are texts."""
    match document.get("annotations"):
        case {**found}:
            return {
                key: value
                for key, value in found.items()
                if isinstance(key, str) and isinstance(value, str)
            }
    return {}


def _name(repository: str, target: Tag | Digest) -> str:
    if not repository:
        return str(target)
    return f"{repository}{'@' if isinstance(target, Digest) else ':'}{target}"


def _named(noted: Mapping[str, str], digest: str) -> tuple[str, Tag | None]:
    """Return the repository and the tag that the annotations of the entry of *digest* name."""
    name, whole = noted.get(REF_NAME, ""), noted.get(_IMAGE_NAME, "")
    if whole.endswith(f":{name}"):
        name = whole
    if len(name) > _MAX_NAME:
        return "", None
    repository, _, tag = _HOST_WITH_PORT.sub("", name, count=1).rpartition(":")
    if name.endswith(digest):
        repository, tag = name.removesuffix(digest).removesuffix("@"), ""
    try:
        return (RepositoryName(repository) if repository else ""), (Tag(tag) if tag else None)
    except NameInvalid:
        return "", None


def _digests(text: str) -> tuple[Digest, ...]:
    try:
        return tuple(map(Digest.parse, text.split()))
    except DigestInvalid:
        return ()
