"""Which manifests a repository takes, as what, and why it refuses the others."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestRejected,
    StorageUnavailable,
    TooLarge,
)
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from blobfs.storage.repository import Repository
from tests.support.failing_driver import TroubledDriver
from tests.support.files import content_of
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor, image, index, manifest
from tests.support.uploads import broken_links, files_below

CONFIG, LAYER = Digest.of(b"config"), Digest.of(b"layer")
OTHER = RepositoryName("other")
REVISIONS = paths.revisions(APP)

FOREIGN = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
]
each_foreign = pytest.mark.parametrize("media_type", FOREIGN, ids=["docker", "OCI"])


@pytest.fixture
def other(driver: StorageDriver) -> Repository:
    return Repository(driver, BlobStore(driver), OTHER)


@pytest.fixture
def stocked(layout: Layout) -> Layout:
    """A repository with the blobs of one image."""
    layout.layer(b"config")
    layout.layer(b"layer")
    return layout


def _rejected(repository: Repository, payload: bytes, why: str) -> None:
    with pytest.raises(ManifestRejected, match=why):
        repository.manifests.put(payload)
    assert list(repository.manifests.links.enumerate("sha256")) == []


@pytest.mark.usefixtures("stocked")
@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
def test_image_is_put(repository: Repository, media_type: str) -> None:
    payload = manifest(media_type, CONFIG, LAYER)
    descriptor = repository.manifests.put(payload)
    assert (descriptor.digest, descriptor.size) == (Digest.of(payload), len(payload))
    assert descriptor.media_type == media_type
    assert repository.manifests.get(descriptor.digest).media_type == media_type


@pytest.mark.parametrize("media_type", [DOCKER_LIST, OCI_INDEX])
def test_index_of_manifests_that_are_there_is_put(
    stocked: Layout, repository: Repository, media_type: str
) -> None:
    child = stocked.revision(image(CONFIG, LAYER))
    payload = manifest(media_type, child)
    assert repository.manifests.put(payload).media_type == media_type
    assert repository.manifests.payload(Digest.of(payload)) == payload


def test_index_may_have_indexes_and_none_at_all(stocked: Layout, repository: Repository) -> None:
    child = stocked.revision(index())
    repository.manifests.put(index(child))
    assert repository.manifests.put(index()).media_type == OCI_INDEX


@pytest.mark.usefixtures("stocked")
def test_manifest_is_stored_byte_for_byte(driver: StorageDriver, repository: Repository) -> None:
    payload = b"\n  " + image(CONFIG, LAYER).replace(b", ", b" ,\t") + b"\n\n"
    digest = repository.manifests.put(payload).digest
    assert content_of(driver, paths.blob_data(digest)) == payload


@pytest.mark.usefixtures("stocked")
def test_manifest_without_a_media_type_is_an_oci_one(repository: Repository) -> None:
    payload = as_bytes({"schemaVersion": 2, "config": descriptor(CONFIG), "layers": []})
    assert repository.manifests.put(payload).media_type == OCI_MANIFEST


@pytest.mark.usefixtures("stocked")
def test_manifest_can_be_put_again(repository: Repository) -> None:
    payload = image(CONFIG, LAYER)
    assert repository.manifests.put(payload) == repository.manifests.put(payload)


@pytest.mark.usefixtures("stocked")
def test_manifest_is_a_revision_and_no_layer(repository: Repository) -> None:
    digest = repository.manifests.put(image(CONFIG, LAYER)).digest
    with pytest.raises(BlobUnknown):
        repository.layers.stat(digest)


NO_MANIFESTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "no JSON": (b"no JSON", "not JSON"),
    "not UTF-8": (b"\xff\xfe{}", "not JSON"),
    "cut off": (image(CONFIG, LAYER)[:-1], "not JSON"),
    "NaN": (image(CONFIG).replace(b": 2", b": NaN"), "not JSON"),
    "nested too deep": (b"[" * 100_000, "not JSON"),
    "list": (b"[]", "not a JSON object"),
    "empty": (b"{}", "schemaVersion"),
    "schema 1": (as_bytes({"schemaVersion": 1}), "schemaVersion"),
    "unknown media type": (
        manifest(OCI_MANIFEST, CONFIG).replace(OCI_MANIFEST.encode(), b"text/plain"),
        "text/plain",
    ),
    "index called a manifest": (index().replace(b"index", b"manifest"), "does not look like"),
    "no config": (as_bytes({"schemaVersion": 2, "layers": []}), "config.digest"),
    "bad digest": (image(CONFIG).replace(CONFIG.encoded.encode(), b"0"), "not a digest"),
}


@pytest.mark.usefixtures("stocked")
@pytest.mark.parametrize(("payload", "why"), NO_MANIFESTS.values(), ids=NO_MANIFESTS)
def test_what_is_no_manifest_is_rejected(repository: Repository, payload: bytes, why: str) -> None:
    _rejected(repository, payload, why)


def test_rejected_manifest_leaves_nothing(stocked: Layout, repository: Repository) -> None:
    before = files_below(stocked.driver, paths.ROOT)
    _rejected(repository, image(CONFIG, LAYER, Digest.of(b"missing")), "missing")
    assert files_below(stocked.driver, paths.ROOT) == before


def _no_link(layout: Layout) -> None:
    layout.blob(b"missing")


def _linked_elsewhere(layout: Layout) -> None:
    layout.layer(b"missing", OTHER)


def _linked_as_a_revision(layout: Layout) -> None:
    layout.revision(b"missing")


def _no_blob(layout: Layout) -> None:
    layout.link(paths.layers(APP), Digest.of(b"missing"))


def _damaged_link(layout: Layout) -> None:
    layout.link(paths.layers(APP), layout.blob(b"missing"), b"")


def _emptied_blob(layout: Layout) -> None:
    layout.put(paths.blob_data(layout.layer(b"missing")))


@pytest.mark.parametrize("is_config", [True, False], ids=["config", "layer"])
@pytest.mark.parametrize(
    "arrange",
    [_no_link, _linked_elsewhere, _linked_as_a_revision, _no_blob, _damaged_link, _emptied_blob],
)
def test_manifest_that_refers_to_what_the_repository_lacks_is_rejected(
    stocked: Layout, repository: Repository, arrange: Callable[[Layout], None], is_config: bool
) -> None:
    arrange(stocked)
    missing = Digest.of(b"missing")
    payload = image(missing, LAYER) if is_config else image(CONFIG, LAYER, missing)
    with pytest.raises(ManifestRejected, match=missing.encoded):
        repository.manifests.put(payload)
    with pytest.raises(BlobUnknown):
        repository.manifests.links.stat(Digest.of(payload))


def test_index_of_a_manifest_that_is_missing_is_rejected(
    stocked: Layout, repository: Repository
) -> None:
    child = stocked.revision(image(CONFIG), OTHER)
    _rejected(repository, index(child), f"manifest that is missing: .*{child.encoded}")


@pytest.mark.usefixtures("stocked")
def test_index_of_layers_is_put(repository: Repository) -> None:
    """[S8.2] The children of an index as revisions or layers. A cache of BuildKit is one
    (moby/buildkit#2251).
    """
    payload = index(LAYER, CONFIG)
    assert repository.manifests.put(payload).digest == Digest.of(payload)


def _with_a_foreign_layer(media_type: str, digest: Digest, urls: Json) -> bytes:
    layer = descriptor(digest, media_type=media_type) | {"urls": urls}
    return as_bytes(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG),
            "layers": [descriptor(LAYER), layer],
        }
    )


@pytest.mark.usefixtures("stocked")
@each_foreign
def test_foreign_layer_need_not_be_there(repository: Repository, media_type: str) -> None:
    payload = _with_a_foreign_layer(media_type, Digest.of(b"far"), ["https://example.com/far"])
    repository.manifests.put(payload)
    assert repository.manifests.payload(Digest.of(payload)) == payload


@pytest.mark.usefixtures("stocked")
@each_foreign
@pytest.mark.parametrize("urls", [[], None], ids=repr)
def test_foreign_layer_without_urls_must_be_there(
    repository: Repository, media_type: str, urls: Json
) -> None:
    _rejected(repository, _with_a_foreign_layer(media_type, Digest.of(b"far"), urls), "missing")
    repository.manifests.put(_with_a_foreign_layer(media_type, LAYER, urls))


@pytest.mark.usefixtures("stocked")
@each_foreign
@pytest.mark.parametrize("urls", ["https://example.com/far", [7]], ids=repr)
def test_urls_are_a_list_of_strings(repository: Repository, media_type: str, urls: Json) -> None:
    _rejected(repository, _with_a_foreign_layer(media_type, LAYER, urls), r"layers\[1\]\.urls")


@pytest.mark.usefixtures("stocked")
@pytest.mark.parametrize("url", ["ftp://example.com/far", "https://example.com/a#b", "/far", ""])
def test_foreign_layer_is_fetched_from_the_web(repository: Repository, url: str) -> None:
    _rejected(repository, _with_a_foreign_layer(FOREIGN[1], LAYER, [url]), "http or https")


@pytest.mark.usefixtures("stocked")
def test_any_layer_with_urls_is_foreign(repository: Repository) -> None:
    """[S8.2] The config and the layers of an image, but for those with URLs, as layers. Registries
    do not look for it.
    """
    urls: Json = ["https://example.com/far"]
    repository.manifests.put(_with_a_foreign_layer("application/x-layer", Digest.of(b"far"), urls))


@pytest.mark.usefixtures("stocked")
def test_layer_that_is_foreign_and_ordinary_must_be_there(repository: Repository) -> None:
    far = Digest.of(b"far")
    layers: Json = [
        descriptor(far, media_type=FOREIGN[0]) | {"urls": ["https://example.com/far"]},
        descriptor(far),
    ]
    payload = as_bytes({"schemaVersion": 2, "config": descriptor(CONFIG), "layers": layers})
    _rejected(repository, payload, "missing")


@pytest.mark.usefixtures("stocked")
def test_manifest_may_be_as_large_as_a_registry_takes_it(repository: Repository) -> None:
    repository.manifests.put(image(CONFIG, LAYER).ljust(MAX_CONTENT))


@pytest.mark.usefixtures("stocked")
def test_manifest_that_is_too_large_is_refused(
    driver: StorageDriver, repository: Repository
) -> None:
    with pytest.raises(TooLarge, match=str(MAX_CONTENT + 1)):
        repository.manifests.put(image(CONFIG, LAYER).ljust(MAX_CONTENT + 1))
    assert files_below(driver, REVISIONS) == set()


def test_failure_at_any_step_of_a_put_leaves_no_broken_link(
    driver: StorageDriver, stocked: Layout
) -> None:
    payload = image(CONFIG, LAYER)
    for number in count(1):
        troubled = TroubledDriver(driver, fail_at=number, done=number % 2 == 0)
        repository = Repository(troubled, BlobStore(troubled), APP)
        with suppress(StorageUnavailable):
            repository.manifests.put(payload)
        assert broken_links(driver) == []
        if not troubled.failed:
            break
        repository.manifests.put(payload)
        assert repository.manifests.payload(Digest.of(payload)) == payload
        stocked.driver.delete(paths.link(REVISIONS, Digest.of(payload)))
        stocked.driver.delete(paths.blob_data(Digest.of(payload)))


@pytest.mark.usefixtures("stocked")
def test_manifest_is_mounted_where_its_blobs_are(
    layout: Layout, repository: Repository, other: Repository
) -> None:
    payload = image(CONFIG, LAYER)
    digest = layout.revision(payload, OTHER)
    assert repository.manifests.mount(digest, other.manifests.links).digest == digest
    assert repository.manifests.payload(digest) == payload


def test_manifest_is_not_mounted_where_its_blobs_are_missing(
    layout: Layout, repository: Repository, other: Repository
) -> None:
    for content in (b"config", b"layer"):
        layout.layer(content, OTHER)
    digest = layout.revision(image(CONFIG, LAYER), OTHER)
    with pytest.raises(ManifestRejected, match=CONFIG.encoded):
        repository.manifests.mount(digest, other.manifests.links)
    assert list(repository.manifests.links.enumerate("sha256")) == []


@pytest.mark.usefixtures("stocked")
def test_manifest_that_the_source_lacks_is_not_mounted(
    repository: Repository, other: Repository
) -> None:
    with pytest.raises(BlobUnknown):
        repository.manifests.mount(Digest.of(image(CONFIG)), other.manifests.links)


def test_layer_is_not_mounted_as_a_manifest(
    stocked: Layout, repository: Repository, other: Repository
) -> None:
    stocked.layer(b"no manifest", OTHER)
    with pytest.raises(ManifestRejected):
        repository.manifests.mount(Digest.of(b"no manifest"), other.layers)


def test_damaged_manifest_is_not_mounted(
    stocked: Layout, repository: Repository, other: Repository
) -> None:
    digest = stocked.revision(image(CONFIG, LAYER), OTHER)
    stocked.put(paths.blob_data(digest), image(CONFIG))
    with pytest.raises(DigestMismatch):
        repository.manifests.mount(digest, other.manifests.links)
