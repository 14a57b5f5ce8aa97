"""Manifests through a repository's revision links, and what they say of its blobs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from blobfs import paths
from blobfs.digest import ALGORITHMS, OCTET_STREAM, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    AccessDenied,
    BlobDamaged,
    BlobfsError,
    BlobUnknown,
    DigestMismatch,
    LinkInvalid,
    ManifestInvalid,
    ManifestUnknown,
    StorageUnavailable,
)
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from blobfs.storage.repository import Repository
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor, image, index, manifest
from tests.support.watched_driver import WatchedDriver

CONFIG, LAYER = Digest.of(b"config"), Digest.of(b"layer")
OTHER_CONFIG, OTHER_LAYER = Digest.of(b"other config"), Digest.of(b"other layer")
REVISIONS = paths.revisions(APP)


@pytest.fixture
def repository(driver: StorageDriver) -> Repository:
    return Repository(driver, BlobStore(driver), APP)


def described(repository: Repository, digest: Digest) -> str | None:
    """The media type that the repository's manifests give to a blob."""
    found = repository.media_types.describe(digest)
    return None if found is None else found.media_type


def test_payload_is_what_was_pushed(layout: Layout, repository: Repository) -> None:
    payload = b"\n " + image(CONFIG) + b"\n"
    assert repository.manifests.payload(layout.revision(payload)) == payload


def test_manifest_is_read_by_its_digest(layout: Layout, repository: Repository) -> None:
    digest = layout.revision(manifest(DOCKER_LIST, CONFIG, LAYER))
    assert repository.manifests.get(digest).media_type == DOCKER_LIST


def test_manifest_is_read_through_an_alias(layout: Layout, repository: Repository) -> None:
    payload = image(CONFIG)
    alias = Digest.of(payload, "sha512")
    layout.link(REVISIONS, alias, str(layout.blob(payload)).encode())
    assert repository.manifests.payload(alias) == payload


def test_manifest_that_is_not_linked_is_unknown(layout: Layout, repository: Repository) -> None:
    elsewhere = layout.revision(image(CONFIG), RepositoryName("other"))
    a_layer = layout.layer(b"a layer")
    for digest in (elsewhere, a_layer, LAYER):
        with pytest.raises(ManifestUnknown, match=digest.encoded):
            repository.manifests.get(digest)


def test_manifest_that_is_linked_as_a_layer_is_a_revision(
    layout: Layout, repository: Repository
) -> None:
    """[S8.16] A manifest that an old registry has linked as a layer is found in `revisions` by its
    digest, and not listed there.
    """
    digest = layout.layer(image(CONFIG))
    links = repository.manifests.links
    assert repository.manifests.payload(digest) == image(CONFIG)
    assert links.stat(digest).digest == links.stat_now(digest).digest == digest
    assert described(repository, digest) == OCI_MANIFEST
    assert list(links.enumerate("sha256")) == []


def test_revision_that_is_linked_as_a_layer_is_deleted(
    layout: Layout, repository: Repository
) -> None:
    """[S8.16] A manifest that an old registry has linked as a layer is found in `revisions` by its
    digest, and not listed there. A layer that is no manifest is not.
    """
    digest, layer = layout.layer(image(CONFIG)), layout.layer(b"layer")
    repository.manifests.links.delete(digest)
    with pytest.raises(BlobUnknown):
        repository.layers.stat(digest)
    with pytest.raises(BlobUnknown):
        repository.manifests.links.delete(layer)
    assert repository.layers.stat(layer).digest == layer


def test_manifest_whose_blob_is_missing_is_unknown(layout: Layout, repository: Repository) -> None:
    layout.link(REVISIONS, LAYER)
    with pytest.raises(ManifestUnknown):
        repository.manifests.payload(LAYER)


def test_invalid_manifest_is_named(layout: Layout, repository: Repository) -> None:
    digest = layout.revision(b"{}")
    with pytest.raises(ManifestInvalid, match=f"{digest}: schemaVersion"):
        repository.manifests.get(digest)


def damaged_link(layout: Layout) -> Digest:
    return layout.link(REVISIONS, layout.blob(image(LAYER)), b"")


def missing_blob(layout: Layout) -> Digest:
    return layout.link(REVISIONS, Digest.of(image(LAYER)))


def emptied_blob(layout: Layout) -> Digest:
    digest = layout.revision(image(LAYER))
    layout.put(paths.blob_data(digest))
    return digest


def oversized_blob(layout: Layout) -> Digest:
    return layout.revision(image(LAYER) + b" " * MAX_CONTENT)


def not_json(layout: Layout) -> Digest:
    return layout.revision(b"not JSON")


BROKEN: dict[str, tuple[Callable[[Layout], Digest], type[BlobfsError]]] = {
    "damaged link": (damaged_link, LinkInvalid),
    "missing blob": (missing_blob, ManifestUnknown),
    "emptied blob": (emptied_blob, DigestMismatch),
    "oversized blob": (oversized_blob, BlobDamaged),
    "not JSON": (not_json, ManifestInvalid),
}
each_broken = pytest.mark.parametrize(("broken", "error"), BROKEN.values(), ids=BROKEN)


@each_broken
def test_broken_manifest_says_how(
    layout: Layout,
    repository: Repository,
    broken: Callable[[Layout], Digest],
    error: type[BlobfsError],
) -> None:
    digest = broken(layout)
    with pytest.raises(error, match=digest.encoded):
        repository.manifests.get(digest)


@each_broken
def test_broken_manifest_does_not_hide_the_others(
    layout: Layout,
    repository: Repository,
    broken: Callable[[Layout], Digest],
    error: type[BlobfsError],
) -> None:
    layout.revision(image(CONFIG, LAYER))
    broken(layout)
    layout.revision(image(OTHER_CONFIG, OTHER_LAYER))
    assert described(repository, LAYER) == "application/x-part"
    assert described(repository, OTHER_LAYER) == "application/x-part"


def test_manifest_describes_what_it_refers_to(layout: Layout, repository: Repository) -> None:
    layout.revision(
        as_bytes(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(CONFIG, size=11, media_type="application/x-config"),
                "layers": [descriptor(LAYER, size=12, media_type="application/x-layer")],
            }
        )
    )
    config = repository.media_types.describe(CONFIG)
    layer = repository.media_types.describe(LAYER)
    assert config is not None
    assert (config.size, config.media_type) == (11, "application/x-config")
    assert layer is not None
    assert (layer.size, layer.media_type) == (12, "application/x-layer")


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX])
def test_manifest_describes_itself(layout: Layout, repository: Repository, media_type: str) -> None:
    payload = manifest(media_type, CONFIG)
    found = repository.media_types.describe(layout.revision(payload))
    assert found is not None
    assert (found.size, found.media_type) == (len(payload), media_type)


def test_manifest_knows_itself_better_than_an_index_does(
    layout: Layout, repository: Repository
) -> None:
    children = [layout.revision(image(CONFIG, Digest.of(bytes([i])))) for i in range(8)]
    layout.revision(index(*children))
    assert {described(repository, child) for child in children} == {OCI_MANIFEST}


def test_manifest_without_a_media_type_for_a_blob_says_octet_stream(
    layout: Layout, repository: Repository
) -> None:
    layer: Json = {"digest": str(LAYER), "size": 1}
    layout.revision(as_bytes({"schemaVersion": 2, "config": descriptor(CONFIG), "layers": [layer]}))
    assert described(repository, LAYER) == OCTET_STREAM


def test_blob_that_no_manifest_speaks_of_is_not_described(
    layout: Layout, repository: Repository
) -> None:
    layout.revision(image(CONFIG))
    layout.layer(b"layer")
    assert repository.media_types.describe(LAYER) is None


def test_manifest_of_another_repository_describes_nothing(
    layout: Layout, repository: Repository
) -> None:
    layout.revision(image(CONFIG, LAYER), RepositoryName("other"))
    assert repository.media_types.describe(LAYER) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_revisions_of_every_algorithm_are_read(
    layout: Layout, repository: Repository, algorithm: str
) -> None:
    layout.link(REVISIONS, layout.blob(image(CONFIG, LAYER), algorithm))
    assert described(repository, LAYER) == "application/x-part"


def test_new_revision_is_seen(layout: Layout, repository: Repository) -> None:
    layout.revision(image(CONFIG))
    assert described(repository, LAYER) is None
    layout.revision(image(CONFIG, LAYER))
    assert described(repository, LAYER) == "application/x-part"


@pytest.mark.parametrize("broken", [damaged_link, missing_blob, emptied_blob])
def test_repaired_manifest_is_seen(
    layout: Layout, repository: Repository, broken: Callable[[Layout], Digest]
) -> None:
    broken(layout)
    assert described(repository, LAYER) is None
    layout.revision(image(LAYER))
    assert described(repository, LAYER) == "application/x-part"


def test_each_revision_is_read_once(layout: Layout, driver: StorageDriver) -> None:
    opened: list[str] = []
    watched = WatchedDriver(driver, opened.append)
    media_types = Repository(watched, BlobStore(watched), APP).media_types
    payloads = [image(CONFIG, LAYER), image(OTHER_CONFIG), b"not JSON"]
    revisions = [layout.revision(payload) for payload in payloads]
    for digest in (LAYER, CONFIG, OTHER_LAYER, OTHER_LAYER):
        media_types.describe(digest)
    assert sorted(opened) == sorted(
        path
        for revision in revisions
        for path in (paths.link(REVISIONS, revision), paths.blob_data(revision))
    )


def test_each_revision_is_read_once_by_many_threads(layout: Layout, driver: StorageDriver) -> None:
    opened: list[str] = []
    watched = WatchedDriver(driver, opened.append)
    media_types = Repository(watched, BlobStore(watched), APP).media_types
    layers = [Digest.of(bytes([i])) for i in range(32)]
    for layer in layers:
        layout.revision(image(CONFIG, layer))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(media_types.describe, layers))
    assert [each and each.digest for each in found] == layers
    assert len(opened) == len(set(opened))


def test_revision_that_could_not_be_read_is_read_later(
    layout: Layout, driver: StorageDriver
) -> None:
    def fail(path: str) -> None:
        raise StorageUnavailable(path)

    watched = WatchedDriver(driver, fail)
    repository = Repository(watched, BlobStore(watched), APP)
    layout.revision(image(CONFIG, LAYER))
    with pytest.raises(StorageUnavailable):
        repository.media_types.describe(LAYER)
    watched.on_open = str
    assert described(repository, LAYER) == "application/x-part"


def test_revision_that_may_not_be_read_does_not_hide_the_others(
    layout: Layout, driver: StorageDriver
) -> None:
    refused = {
        paths.link(REVISIONS, layout.revision(image(CONFIG))),
        paths.blob_data(layout.revision(image(OTHER_CONFIG))),
    }
    layout.revision(image(CONFIG, LAYER))

    def refuse(path: str) -> None:
        if path in refused:
            raise AccessDenied(path)

    watched = WatchedDriver(driver, refuse)
    repository = Repository(watched, BlobStore(watched), APP)
    assert described(repository, LAYER) == "application/x-part"
    assert described(repository, OTHER_LAYER) is None
