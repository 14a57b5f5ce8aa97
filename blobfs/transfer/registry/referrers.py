"""The referrers of a manifest in a registry without the API for them: an index with a tag.

Source of truth: the OCI distribution specification 1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from blobfs.digest import Descriptor, Digest
from blobfs.errors import DigestInvalid
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX


def referrers_tag(subject: Digest) -> Tag:
    """Return the tag of the index."""
    return Tag(f"{subject.algorithm}-{subject.encoded[:64]}")


def entries_of(document: dict[str, Any]) -> list[Any]:
    """Return the entries of an index, which may be anything."""
    entries = document.get("manifests")
    return entries if isinstance(entries, list) else []


def referrers_in(entries: Iterable[object]) -> list[Digest]:
    """Return the digests in the entries of an index, each once; invalid ones are left out."""
    found = map(_digest_in, entries)
    return list(dict.fromkeys(digest for digest in found if digest is not None))


def with_referrer(
    document: dict[str, Any] | None, referrer: Descriptor, payload: bytes
) -> bytes | None:
    """Return an index with the manifest *payload* in it; None if it is in *document*."""
    document = document or {"schemaVersion": 2, "mediaType": OCI_INDEX}
    listed = entries_of(document)
    if referrer.digest in referrers_in(listed):
        return None
    manifest = json.loads(payload)
    entry = {
        "mediaType": referrer.media_type,
        "digest": str(referrer.digest),
        "size": referrer.size,
        "artifactType": manifest.get("artifactType") or _config_type(manifest),
        "annotations": manifest.get("annotations"),
    }
    kept = {name: value for name, value in entry.items() if value is not None}
    return json.dumps(document | {"manifests": [*listed, kept]}).encode()


def _config_type(manifest: dict[str, Any]) -> Any:  # noqa: ANN401  (JSON)
    match manifest:
        case {"config": {"mediaType": media_type}}:
            return media_type
    return None


def _digest_in(entry: object) -> Digest | None:
    match entry:
        case {"digest": str(text)}:
            try:
                return Digest.parse(text)
            except DigestInvalid:
                return None
    return None
