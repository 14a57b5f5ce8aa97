"""What a mount promised to an ``upload_stream``, and whether a storage keeps it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.upload_stream import content_of
from tests.support.writers import blob_in, blobs_in, digest_of, digest_of_file

_REPOSITORIES: Final = "docker/registry/v2/repositories"


@dataclass
class Plan:
    """What an upload is to hold, and how much of it has to be there."""

    content: bytes
    promised: int = 0


@dataclass
class Promises:
    """What the mount has promised to the program, as that reported it."""

    uploads: dict[str, Plan] = field(default_factory=dict)  # by path
    layers: dict[str, set[str]] = field(default_factory=dict)  # by repository
    tags: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # what each may be
    verified: set[str] = field(default_factory=set)

    def handle(self, report: dict[str, Any]) -> None:
        getattr(self, f"_{report.pop('what')}")(**report)

    def _begins(self, path: str, seed: int, size: int, restarts: bool) -> None:
        plan = self.uploads.setdefault(path, Plan(content_of(seed, size)))
        if restarts:
            plan.promised = 0

    def _synced(self, path: str, size: int) -> None:
        self.uploads[path].promised = size

    def _removes(self, path: str) -> None:
        self.uploads[path].promised = 0

    def _committed(self, path: str, seed: int, size: int) -> None:
        self._linked(path.rpartition("/_uploads/")[0], digest_of(content_of(seed, size)))

    def _linked(self, repository: str, digest: str) -> None:
        self.layers.setdefault(repository, set()).add(digest)

    def _tags(self, repository: str, tag: str, digest: str) -> None:
        self.tags.setdefault((repository, tag), {""}).add(digest)

    def _tagged(self, repository: str, tag: str, digest: str) -> None:
        self.tags[repository, tag] = {digest}


def _links_below(directory: Path) -> Iterator[tuple[Path, str]]:
    for link in directory.rglob("link"):
        if link.is_file():
            yield link, link.read_text()


def check_storage(storage: Path, promises: Promises) -> None:
    """No blob is wrong, no link leads nowhere, and no tag leads to what is no revision."""
    blobs = blobs_in(storage)
    for digest, data in blobs.items():
        if digest not in promises.verified:
            assert digest_of_file(data) == digest
            promises.verified.add(digest)
    for link, digest in _links_below(storage / _REPOSITORIES):
        assert digest in blobs, link
    for tags in (storage / _REPOSITORIES).rglob("_manifests/tags"):
        for tag in tags.iterdir():
            for _, digest in _links_below(tag):
                revision = tags.parent / "revisions/sha256" / digest[7:] / "link"
                assert revision.exists(), tag
            if (tag / "current/link").exists():
                current = (tag / "current/link").read_text()
                assert (tag / "index/sha256" / current[7:] / "link").exists()


def check_promises(mount: Path, promises: Promises) -> None:
    for repository, digests in promises.layers.items():
        listed = {f"sha256:{d}" for d in os.listdir(mount / repository / "_layers/sha256")}
        assert not digests - listed, repository
    for (repository, tag), digests in promises.tags.items():
        link = mount / repository / "_manifests/tags" / tag
        found = f"sha256:{link.resolve(strict=True).name}" if link.is_symlink() else ""
        assert found in digests, link
        promises.tags[repository, tag] = {found}


def _without_tail(content: bytes, plan: Plan) -> bytes:
    """*content* without the zeros that ext4 may leave in the block that was synced last."""
    tail = content[plan.promised :]
    block_end = -plan.promised % 4096
    return content[: plan.promised] if len(tail) <= block_end and not any(tail) else content


def check_uploads(mount: Path, storage: Path, promises: Promises) -> None:
    """Each is there with a part of what it was to have, or committed, or gone if it may be."""
    known = dict(promises.uploads)
    for repository in {path.rpartition("/_uploads/")[0] for path in promises.uploads}:
        uploads = mount / repository / "_uploads"
        for upload in uploads.iterdir() if uploads.exists() else ():
            plan = known.pop(f"{repository}/_uploads/{upload.name}", Plan(b""))
            content = upload.read_bytes()
            assert content[: plan.promised] == plan.content[: plan.promised], upload
            assert plan.content.startswith(_without_tail(content, plan)), upload
    for path, plan in known.items():
        if plan.promised:
            digest = digest_of(plan.content)
            assert blob_in(storage, digest).exists(), path
            layers = (mount / path).parent.with_name("_layers")
            assert (layers / "sha256" / digest[7:]).exists(), path
        promises.uploads.pop(path)
