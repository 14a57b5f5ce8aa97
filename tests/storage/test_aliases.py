"""Other digests of stored blobs: held to the bytes, once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from blobfs import paths
from blobfs.cache.memory import MemoryCache
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import DigestMismatch
from blobfs.storage.aliases import Alias, Aliases
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from tests.support.layout import APP, Json, Layout, as_bytes, descriptor
from tests.support.watched_driver import WatchedDriver

CONTENT = b"what the name says"
DIGEST, NAME = Digest.of(CONTENT), Digest.of(CONTENT, "sha512")
WRONG = Digest.of(b"another blob", "sha512")
RIGHT = Alias(NAME, DIGEST)


@pytest.fixture
def opened() -> list[str]:
    """The files that were opened, in their order."""
    return []


@pytest.fixture
def repository(driver: StorageDriver, layout: Layout, opened: list[str]) -> Repository:
    """A repository with a right and a wrong alias of one blob."""
    layout.layer(CONTENT)
    for name in (NAME, WRONG):
        layout.link(paths.layers(APP), name, str(DIGEST).encode())
    watched = WatchedDriver(driver, opened.append)
    return Repository(watched, BlobStore(watched), APP)


def test_blob_of_other_bytes_is_not_found_by_its_alias(repository: Repository) -> None:
    """[S4.6] The first lookup reads the whole blob, and other bytes are EIO."""
    layers = repository.layers
    for look in (layers.stat, layers.stat_now, layers.open, layers.get):
        with pytest.raises(DigestMismatch, match=WRONG.encoded):
            look(WRONG)
    assert layers.stat(DIGEST).digest == DIGEST


def test_blob_is_hashed_once_by_its_alias(repository: Repository, opened: list[str]) -> None:
    """[S4.6] The first lookup reads the whole blob."""
    for _ in range(3):
        assert repository.layers.stat(NAME).digest == DIGEST
    assert opened.count(paths.blob_data(DIGEST)) == 1


def test_wrong_alias_is_not_believed_from_a_cache(driver: StorageDriver, layout: Layout) -> None:
    """[S4.6] Other bytes are EIO."""
    cache = MemoryCache()
    cache.set_many({WRONG: Descriptor(layout.layer(CONTENT), len(CONTENT), mtime_ns=1)}, APP)
    with pytest.raises(DigestMismatch):
        Repository(driver, BlobStore(driver, cache), APP).layers.stat(WRONG)


def test_alias_that_was_committed_is_known(repository: Repository, opened: list[str]) -> None:
    writer = repository.uploads.create(name="a", digest=Digest.of(b"new", "sha512"))
    writer.write_at(0, b"new")
    writer.commit()
    opened.clear()
    repository.layers.stat(Digest.of(b"new", "sha512"))
    assert paths.blob_data(Digest.of(b"new")) not in opened


def test_media_type_of_an_alias_is_the_blob_s(layout: Layout, repository: Repository) -> None:
    """[S3.5] `user.blobfs.media_type`, as a manifest of the repository has it. Whichever of the
    digests the manifest has.
    """
    document: Json = {"schemaVersion": 2, "config": descriptor(NAME), "layers": []}
    layout.revision(as_bytes(document))
    described = repository.media_types.describe(repository.layers.stat(NAME).digest)
    assert described is not None
    assert described.media_type == "application/x-part"


def test_threads_wait_for_the_one_that_hashes() -> None:
    aliases, go_on, calls = Aliases(), Event(), list[str]()

    def hashed() -> Digest:
        calls.append("")
        assert go_on.wait(20)
        return NAME

    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(aliases.verify, RIGHT, hashed) for _ in range(4)]
        go_on.set()
        assert [each.result(20) for each in waiting] == [None] * 4
    assert len(calls) == 1


def test_failure_to_hash_is_raised_and_forgotten() -> None:
    aliases = Aliases()

    def failing() -> Digest:
        raise DigestMismatch("the storage is in trouble")

    with pytest.raises(DigestMismatch, match="trouble"):
        aliases.verify(RIGHT, failing)
    aliases.verify(RIGHT, lambda: NAME)


def test_few_aliases_are_remembered() -> None:
    aliases = Aliases(limit=2)
    names = [Digest.of(bytes([i]), "sha512") for i in range(3)]
    for name in names:
        aliases.remember(Alias(name, DIGEST))
    assert aliases.names_of(DIGEST) == names[1:]
