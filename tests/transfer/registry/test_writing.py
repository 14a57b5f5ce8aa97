"""Writing to docker-registry."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestMismatch, ManifestRejected, ManifestUnknown, Unsupported
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from blobfs.transfer.registry import RegistrySource, RegistryTarget
from tests.support.places import described
from tests.support.services import DockerRegistry, inspect
from tests.support.transfers import read
from tests.transfer.registry.conftest import ANONYMOUS, copy, in_chunks

pytestmark = pytest.mark.registry

V1 = Tag("v1")
LARGE = random.Random(7).randbytes(2**20) * 17


def uploads(registry: DockerRegistry, repository: str) -> list[Path]:
    """The uploads that have bytes; docker-registry leaves the hash states of those it removes."""
    directory = registry.root / "docker/registry/v2/repositories" / repository / "_uploads"
    return list(directory.glob("*/data"))


@pytest.mark.parametrize(
    "content", [b"", b"small", LARGE], ids=["empty", "in one request", "in chunks"]
)
def test_blob_is_stored(target: RegistryTarget, empty: DockerRegistry, content: bytes) -> None:
    blob = described(content)
    repository = f"blobs/of{len(content)}"
    assert target.missing(repository, [blob]) == [blob]
    target.put_blob(repository, blob, in_chunks(content))
    assert target.missing(repository, [blob]) == []
    with RegistrySource(empty.address, ANONYMOUS) as source:
        assert read(source, repository, blob.digest) == content
    assert uploads(empty, repository) == []


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["in one request", "in chunks"])
def test_wrong_content_leaves_nothing(
    target: RegistryTarget, empty: DockerRegistry, content: bytes
) -> None:
    blob = described(content + b"more")
    with pytest.raises(DigestMismatch):
        target.put_blob("wrong", blob, in_chunks(content))
    assert target.missing("wrong", [blob]) == [blob]
    assert uploads(empty, "wrong") == []


def test_error_of_the_chunks_cancels_the_upload(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    def chunks() -> Iterable[bytes]:
        yield from in_chunks(LARGE)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        target.put_blob("interrupted", described(LARGE), chunks())
    assert uploads(empty, "interrupted") == []


def test_blob_of_another_repository_is_mounted(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    blob = described(b"shared")
    target.put_blob("mounts/from", blob, [b"shared"])
    assert target.link("mounts/to", blob, "mounts/from")
    assert target.missing("mounts/to", [blob]) == []
    assert not target.link("mounts/to", blob, None)


def test_upload_that_is_opened_instead_of_a_mount_is_used(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    blob = described(b"not there yet")
    assert not target.link("mounts/new", blob, "mounts/nobody")
    [_] = uploads(empty, "mounts/new")
    target.put_blob("mounts/new", blob, [b"not there yet"])
    assert uploads(empty, "mounts/new") == []
    assert target.missing("mounts/new", [blob]) == []


def test_upload_that_is_not_used_is_cancelled(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    assert not target.link("mounts/unused", described(b"unused"), "mounts/nobody")
    target.finish()
    assert uploads(empty, "mounts/unused") == []


@pytest.mark.parametrize(
    ("repository", "tag"), [("library/small", "v1"), ("library/multi", "latest")]
)
def test_image_is_the_same_after_a_copy(
    target: RegistryTarget,
    empty: DockerRegistry,
    registry: DockerRegistry,
    repository: str,
    tag: str,
) -> None:
    with RegistrySource(registry.address, ANONYMOUS) as source:
        digest = source.tagged(repository, Tag(tag))
        copy(source, repository, digest, target, repository)
        manifest = Descriptor(digest, len(source.manifest(repository, digest)))
    assert target.has_manifest(repository, manifest)
    target.tag(repository, Tag(tag), digest, [])
    assert target.tagged(repository, Tag(tag)) == digest
    assert list(target.tags(repository)) == [tag]
    assert repository in list(target.repositories())
    assert inspect(empty.address, repository, tag) == inspect(registry.address, repository, tag)


def image(target: RegistryTarget, repository: str, **more: object) -> tuple[Digest, bytes]:
    """Store an image without layers; *more* is in its manifest."""
    config = described(b"{}")
    target.put_blob(repository, config, [b"{}"])
    entry = {"mediaType": OCTET_STREAM, "digest": str(config.digest), "size": config.size}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry, "layers": []}
    payload = json.dumps(document | more).encode()
    digest = Digest.of(payload)
    target.put_manifest(repository, digest, payload)
    return digest, payload


def test_manifest_without_its_blobs_is_rejected(target: RegistryTarget) -> None:
    digest, payload = image(target, "complete")
    with pytest.raises(ManifestRejected, match="MANIFEST_BLOB_UNKNOWN"):
        target.put_manifest("incomplete", digest, payload)
    assert not target.has_manifest("incomplete", Descriptor(digest, len(payload)))
    assert list(target.tags("incomplete")) == []


def test_tag_is_moved(target: RegistryTarget) -> None:
    old, _ = image(target, "moved")
    new, _ = image(target, "moved", annotations={"a": "b"})
    for digest in (old, new):
        target.tag("moved", V1, digest, [])
        assert target.tagged("moved", V1) == digest
    with pytest.raises(ManifestUnknown):
        target.tag("moved", V1, Digest.of(b"nothing"), [])


def test_tag_is_set_to_a_manifest_of_an_earlier_run(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    digest, _ = image(target, "earlier")
    with RegistryTarget(empty.address, ANONYMOUS) as later:
        later.tag("earlier", V1, digest, [])
        assert later.tagged("earlier", V1) == digest


def test_registry_that_cannot_remove_a_tag_says_so(target: RegistryTarget) -> None:
    """[S22.15] A registry that cannot remove a tag alone keeps it"""
    digest, _ = image(target, "untagged")
    target.tag("untagged", V1, digest, [])
    with pytest.raises(Unsupported, match="skopeo delete"):
        target.untag("untagged", V1)
    assert target.tagged("untagged", V1) == digest


def test_referrers_are_found_by_their_tag_where_the_api_is_missing(
    target: RegistryTarget, empty: DockerRegistry
) -> None:
    """[S22.14] A registry without the referrers API keeps referrers"""
    subject, payload = image(target, "signed")
    referrer, signature = image(
        target,
        "signed",
        subject={"mediaType": OCI_MANIFEST, "digest": str(subject), "size": len(payload)},
    )
    entry = {"mediaType": OCI_MANIFEST, "digest": str(referrer), "size": len(signature)}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    target.put_manifest("signed", Digest.of(index), index)
    target.tag("signed", Tag(f"sha256-{subject.encoded}"), Digest.of(index), [])
    with RegistrySource(empty.address, ANONYMOUS) as source:
        assert list(source.referrers("signed", subject)) == [referrer]
        assert list(source.referrers("signed", referrer)) == []
        assert source.outline("signed", referrer).subject == subject
