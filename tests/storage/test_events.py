"""What a storage tells of: every act once, after it is done, and nothing else."""

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobfsError
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.events import Action, Event
from blobfs.storage.manifest import OCI_MANIFEST
from blobfs.storage.repository import Repository
from tests.support.layout import APP, Layout, image

OTHER = RepositoryName("other")
V1 = Tag("v1")
V2 = Tag("v2")


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self, hears: frozenset[Action] = frozenset(Action)) -> None:
        self.actions = hears
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def repository(driver: StorageDriver, heard: Heard) -> Repository:
    return Repository(driver, BlobStore(driver), APP, heard)


def committed(repository: Repository, content: bytes) -> Descriptor:
    with repository.uploads.create() as writer:
        writer.write(content)
        return writer.commit()


def put(repository: Repository, payload: bytes, name: str) -> Digest:
    with repository.manifest_uploads.create(name=name) as writer:
        writer.write_at(0, payload)
        return writer.commit().digest


def test_a_commit_is_a_push(repository: Repository, heard: Heard) -> None:
    """[S15.1] A blob that is committed (`push`)."""
    descriptor = committed(repository, b"layer")
    assert heard.events == [Event(Action.PUSH, APP, descriptor)]


def test_a_commit_is_told_once_it_can_be_read(driver: StorageDriver) -> None:
    """[S15.1] Told are, each once it is done and durable, never before."""
    found = []

    class Reader(Heard):
        def handle(self, event: Event) -> None:
            assert isinstance(event.target, Descriptor)
            links = Repository(driver, BlobStore(driver), APP).layers
            found.append(links.stat(event.target.digest).size)

    committed(Repository(driver, BlobStore(driver), APP, Reader()), b"layer")
    assert found == [5]


def test_a_commit_that_fails_is_not_told(repository: Repository, heard: Heard) -> None:
    """[S15.1] Each once it is done and durable, never before."""
    writer = repository.uploads.create(digest=Digest.of(b"other"))
    writer.write(b"layer")
    with pytest.raises(BlobfsError):
        writer.commit()
    assert heard.events == []


def test_a_mount_names_where_it_is_from(
    driver: StorageDriver, repository: Repository, heard: Heard
) -> None:
    """[S15.1] With a repository as `fromRepository` through which this mount has reached it."""
    layer = committed(repository, b"layer")
    heard.events.clear()
    Repository(driver, BlobStore(driver), OTHER, heard).layers.mount(
        layer.digest, repository.layers
    )
    assert heard.events == [Event(Action.MOUNT, OTHER, layer, origin=APP)]


def test_a_mount_from_nowhere_is_a_push(
    driver: StorageDriver, layout: Layout, repository: Repository, heard: Heard
) -> None:
    digest = layout.blob(b"layer")
    repository.layers.mount(digest, BlobStore(driver))
    assert heard.events == [Event(Action.PUSH, APP, Descriptor(digest, 5))]


def test_a_manifest_is_pushed_with_its_tag(
    repository: Repository, layout: Layout, heard: Heard
) -> None:
    """[S15.1] A manifest that is put or tagged (`push`, with the tag)."""
    config = layout.layer(b"{}")
    payload = image(config)
    digest = put(repository, payload, "v1")
    [event] = heard.events
    assert event.target == Descriptor(digest, len(payload), OCI_MANIFEST)
    assert (event.action, event.tag, event.is_manifest) == (Action.PUSH, V1, True)
    assert [reference.digest for reference in event.references] == [config]


def test_a_manifest_without_a_tag_is_pushed(
    repository: Repository, layout: Layout, heard: Heard
) -> None:
    payload = image(layout.layer(b"{}"))
    put(repository, payload, str(Digest.of(payload)))
    assert [(event.action, event.tag) for event in heard.events] == [(Action.PUSH, None)]


def test_a_manifest_that_is_linked_elsewhere_is_pushed(
    driver: StorageDriver, layout: Layout, repository: Repository, heard: Heard
) -> None:
    config = layout.layer(b"{}", OTHER)
    layout.layer(b"{}")
    digest = layout.revision(image(config), OTHER)
    other = Repository(driver, BlobStore(driver), OTHER)
    repository.manifests.mount(digest, other.manifests.links)
    assert [(event.action, event.repository, event.is_manifest) for event in heard.events] == [
        (Action.PUSH, APP, True)
    ]


def test_a_tag_that_is_set_is_a_push(repository: Repository, layout: Layout, heard: Heard) -> None:
    """[S15.1] A manifest that is put or tagged (`push`, with the tag)."""
    payload = image(layout.layer(b"{}"))
    digest = layout.revision(payload)
    repository.tags.tag(V2, digest)
    [event] = heard.events
    assert event.target == Descriptor(digest, len(payload), OCI_MANIFEST)
    assert (event.action, event.tag) == (Action.PUSH, V2)


def test_a_tag_of_a_damaged_manifest_is_told_by_its_digest(
    repository: Repository, layout: Layout, heard: Heard
) -> None:
    digest = layout.revision(b"no manifest")
    repository.tags.tag(V1, digest)
    assert heard.events == [Event(Action.PUSH, APP, digest, is_manifest=True, tag=V1)]


def test_a_tag_that_is_renamed_is_set_and_deleted(
    repository: Repository, layout: Layout, heard: Heard
) -> None:
    digest = layout.revision(image(layout.layer(b"{}")))
    layout.tag(digest, V1)
    repository.tags.rename(V1, V2)
    assert [(event.action, event.tag or event.target) for event in heard.events] == [
        (Action.PUSH, V2),
        (Action.DELETE, V1),
    ]


def test_deletes_are_told(repository: Repository, layout: Layout, heard: Heard) -> None:
    """[S15.1] A layer, manifest or tag that is removed (`delete`)."""
    layer = layout.layer(b"layer")
    manifest = layout.revision(image(layer))
    layout.tag(manifest, V1)
    repository.tags.untag(V1)
    repository.manifests.links.delete(manifest)
    repository.layers.delete(layer)
    assert heard.events == [
        Event(Action.DELETE, APP, V1),
        Event(Action.DELETE, APP, manifest, is_manifest=True),
        Event(Action.DELETE, APP, layer),
    ]


def test_what_is_not_there_is_not_told(repository: Repository, heard: Heard) -> None:
    digest = Digest.of(b"missing")
    for delete in (repository.layers.delete, repository.manifests.links.delete):
        with pytest.raises(BlobfsError):
            delete(digest)
    with pytest.raises(BlobfsError):
        repository.tags.untag(V1)
    assert heard.events == []


def test_a_pull_is_of_a_blob_or_of_a_manifest(
    repository: Repository, layout: Layout, heard: Heard
) -> None:
    """[S15.2] One for each opening of a layer or manifest."""
    layer = layout.layer(b"layer")
    payload = image(layer)
    manifest = layout.revision(payload)
    repository.pulled(Descriptor(layer, 5))
    repository.pulled(Descriptor(manifest, len(payload)), V1)
    blob, told = heard.events
    assert blob == Event(Action.PULL, APP, Descriptor(layer, 5))
    assert told.target == Descriptor(manifest, len(payload), OCI_MANIFEST)
    assert (told.action, told.tag) == (Action.PULL, V1)


def test_a_pull_costs_nothing_where_nobody_hears_it(driver: StorageDriver) -> None:
    heard = Heard(frozenset({Action.PUSH}))
    driver.close()
    Repository(driver, BlobStore(driver), APP, heard).pulled(Descriptor(Digest.of(b""), 0))
    assert heard.events == []
