"""Files in ``_manifests/_uploads`` that were not put: how many stay, and which give way."""

import pytest

from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import ManifestRejected, UploadUnknown
from blobfs.storage.registry import Registry
from blobfs.vfs.upload_handle import OpenersReport, OpenUpload
from blobfs.vfs.upload_set import UploadSet
from blobfs.vfs.uploads import Uploads
from tests.support.layout import index

MIB = 2**20
ALONE = OpenersReport(opener_killed=False, held_elsewhere=False)


@pytest.fixture
def registry() -> Registry:
    return Registry(BaseDriver(InMemoryDriver()))


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


def files_of(registry: Registry, uploads: Uploads, repository: str) -> UploadSet:
    path = f"/{repository}/_manifests/_uploads"
    return uploads.at(path, registry.repository(repository).manifest_uploads)


def put(files: UploadSet, name: str, content: bytes) -> None:
    opened = OpenUpload(files.begin(name), truncate=False)
    try:
        opened.write(0, content)
        opened.flush(lambda: ALONE)
    finally:
        opened.release()


def refuse(files: UploadSet, name: str, size: int) -> None:
    with pytest.raises(ManifestRejected):
        put(files, name, bytes(size))


def test_latest_files_of_a_repository_stay_and_older_ones_go(
    registry: Registry, uploads: Uploads
) -> None:
    """[S8.4] Of one repository the latest 8 MiB of such files stay."""
    files = files_of(registry, uploads, "a")
    for number in range(5):
        refuse(files, f"wrong{number}", 4 * MIB)
    assert sorted(files.names()) == ["wrong3", "wrong4"]
    with pytest.raises(UploadUnknown):
        files.get("wrong0")


def test_dropped_file_that_is_still_looked_at_is_gone(registry: Registry, uploads: Uploads) -> None:
    """[S8.4] The oldest are gone first, as by `rm`."""
    files = files_of(registry, uploads, "a")
    refuse(files, "wrong", 4 * MIB)
    held = files.get("wrong")
    for number in range(2):
        refuse(files, f"later{number}", 4 * MIB)
    with pytest.raises(UploadUnknown):
        OpenUpload(held, truncate=False)


def test_files_of_all_repositories_give_way_to_a_manifest_that_is_put(
    registry: Registry, uploads: Uploads
) -> None:
    """[S8.4] Of one repository the latest 8 MiB of such files stay, and those of all repositories
    give way to a manifest that is being written.
    """
    for number in range(20):
        refuse(files_of(registry, uploads, f"r{number}"), "wrong", 4 * MIB)
    put(files_of(registry, uploads, "good"), "v1", index())
    assert [str(tag) for tag in registry.repository("good").tags.enumerate()] == ["v1"]
    assert files_of(registry, uploads, "r0").names() == []
    assert files_of(registry, uploads, "r19").names() == ["wrong"]


def test_file_that_is_corrected_is_put(registry: Registry, uploads: Uploads) -> None:
    """[S8.4] A manifest that was not put stays in memory, to be corrected, until it is removed or
    the mount ends.
    """
    files = files_of(registry, uploads, "a")
    refuse(files, "v1", 1000)
    opened = OpenUpload(files.get("v1"), truncate=True)
    opened.write(0, index())
    opened.flush(lambda: ALONE)
    opened.release()
    assert [str(tag) for tag in registry.repository("a").tags.enumerate()] == ["v1"]
