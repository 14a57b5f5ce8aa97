"""Layer links whose blobs a garbage collection has removed, and those that are damage."""

from collections.abc import Iterator

import pytest

from blobfs import paths
from blobfs.concurrency import TakesLong, waiting
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobUnknown, LinkDangling
from blobfs.metrics import REGISTRY
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.counting_driver import AskedDriver
from tests.support.layout import APP, Layout, image, index

GONE = Digest.of(b"gone")
ALIAS = Digest.of(b"gone", "sha512")


@pytest.fixture
def asked(driver: StorageDriver) -> AskedDriver:
    return AskedDriver(driver)


@pytest.fixture
def app(asked: AskedDriver, layout: Layout) -> Iterator[Repository]:
    """A repository with an image, and the link of a blob that is gone."""
    layout.revision(image(layout.layer(b"{}"), layout.layer(b"kept")))
    layout.link(paths.layers(APP), GONE)
    with Registry(asked) as registry:
        yield registry.repository(APP)


def _is_shown(app: Repository, digest: Digest = GONE) -> bool:
    """Whether a listing has the digest; it must agree with a look at the name."""
    listed = digest in app.layers.existing([digest])
    app.layers.prefetch([digest])
    with pytest.raises(LinkDangling if listed else BlobUnknown):
        app.layers.stat(digest)
    return listed


def _counted() -> float:
    return REGISTRY.get_sample_value("blobfs_left_over_links_total") or 0.0


def test_link_that_no_manifest_names_is_not_shown_and_counted(app: Repository) -> None:
    """[S4.5] It is not listed, and ENOENT by its name; a metric counts it."""
    before = _counted()
    assert not _is_shown(app)
    assert _counted() > before


def test_link_that_a_manifest_names_is_damage(app: Repository, layout: Layout) -> None:
    """[S4.5] It is damage (S4.1) if a manifest names it."""
    layout.revision(image(layout.layer(b"{}"), GONE))
    assert _is_shown(app)


def test_alias_of_a_blob_that_is_gone_is_not_shown(app: Repository, layout: Layout) -> None:
    """[S4.5] It is not listed, and ENOENT by its name; a metric counts it."""
    layout.link(paths.layers(APP), ALIAS, str(GONE).encode())
    assert not _is_shown(app, ALIAS)


@pytest.mark.parametrize("named", [GONE, ALIAS], ids=["by its own name", "by the alias"])
def test_alias_of_a_blob_that_a_manifest_names_is_damage(
    app: Repository, layout: Layout, named: Digest
) -> None:
    """[S4.5] It is damage (S4.1) if a manifest names it."""
    layout.link(paths.layers(APP), ALIAS, str(GONE).encode())
    layout.revision(image(layout.layer(b"{}"), named))
    assert _is_shown(app, ALIAS)


def test_alias_of_a_blob_that_is_there_is_listed(app: Repository, layout: Layout) -> None:
    alias = layout.link(
        paths.layers(APP), Digest.of(b"kept", "sha512"), str(Digest.of(b"kept")).encode()
    )
    assert app.layers.existing([alias]) == [alias]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"schemaVersion": 1, "fsLayers": [{"blobSum": "%s"}]}' % str(GONE).encode(),
        b"no JSON, but %s" % str(GONE).encode(),
        index(GONE),
    ],
    ids=["schema 1", "unknown", "index of layers"],
)
def test_manifest_of_any_form_names_its_digests(
    app: Repository, layout: Layout, payload: bytes
) -> None:
    """[S4.5] It is damage (S4.1) if a manifest names it."""
    layout.revision(payload)
    assert _is_shown(app)


def test_manifest_that_is_missing_may_name_anything(app: Repository, layout: Layout) -> None:
    """[S4.5] A manifest of the repository cannot be read."""
    layout.link(paths.revisions(APP), Digest.of(b"a manifest that is gone"))
    assert _is_shown(app)


def test_manifest_of_another_repository_names_nothing_here(app: Repository, layout: Layout) -> None:
    """[S4.5] No manifest of the repository names."""
    layout.revision(image(GONE, GONE), RepositoryName("another"))
    assert not _is_shown(app)


def test_blob_that_is_a_directory_is_damage(app: Repository, layout: Layout) -> None:
    """[S4.1] A link whose blob is missing, is a directory."""
    layout.put(f"{paths.blob_data(GONE)}/stray")
    with pytest.raises(Exception, match="is a directory"):
        app.layers.stat(GONE)


def test_layer_that_is_pushed_again_is_shown_at_once(app: Repository, layout: Layout) -> None:
    assert not _is_shown(app)
    layout.blob(b"gone")
    assert app.layers.stat(GONE).size == len(b"gone")


def test_manifests_are_read_only_once_and_only_when_a_link_dangles(
    app: Repository, layout: Layout, asked: AskedDriver
) -> None:
    """[S4.5] The manifests are read only then, each once."""
    revisions = [layout.revision(image(Digest.of(b"%d" % n))) for n in range(5)]
    manifests = {paths.blob_data(revision) for revision in revisions}
    app.layers.stat(Digest.of(b"kept"))
    assert not manifests & set(asked.asked)
    for number in range(20):
        layout.link(paths.layers(APP), Digest.of(b"gone too %d" % number))
        with pytest.raises(BlobUnknown):
            app.layers.stat(Digest.of(b"gone too %d" % number))
    assert sum(path in manifests for path in asked.asked) == len(manifests)


def test_event_loop_does_not_wait_for_manifests(app: Repository) -> None:
    """The call is made again in a thread, and what it found is good for the event loop."""
    with waiting, pytest.raises(TakesLong):
        app.layers.stat(GONE)
    assert not _is_shown(app)
    with waiting, pytest.raises(BlobUnknown):
        app.layers.stat(GONE)
