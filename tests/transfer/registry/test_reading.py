"""Reading from docker-registry, and from the API of a mount."""

import pytest

from blobfs.digest import Digest
from blobfs.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameInvalid,
    RepositoryUnknown,
    StorageUnavailable,
    TagUnknown,
)
from blobfs.reference import Tag
from blobfs.transfer.registry import RegistrySource, api
from tests.support.services import DockerRegistry, inspect
from tests.transfer.registry.conftest import ANONYMOUS

pytestmark = pytest.mark.registry

SMALL = "library/small"
NOBODYS = Digest("sha256", "a" * 64)


def test_source_has_the_repositories_and_tags_of_the_registry(source: RegistrySource) -> None:
    assert list(source.repositories()) == [
        "library/multi",
        "library/small",
        "team/app",
        "team/app/debug",
    ]
    assert sorted(source.tags(SMALL)) == ["v1", "v2"]


def test_image_is_read_whole(source: RegistrySource, registry: DockerRegistry) -> None:
    digest = source.tagged(SMALL, Tag("v1"))
    expected = inspect(registry.address, SMALL, "v1")
    outline = source.outline(SMALL, digest)
    assert (str(digest), source.manifest(SMALL, digest)) == (expected.digest, expected.content)
    assert [str(blob.digest) for blob in outline.blobs] == list(expected.blobs)
    for blob in outline.blobs:
        assert source.size(SMALL, blob.digest) == blob.size
        with source.open(SMALL, blob) as reader:
            assert b"".join(blob.digest.verified(reader.chunks(300_000)))


def test_index_has_children(source: RegistrySource) -> None:
    repository = "library/multi"
    outline = source.outline(repository, source.tagged(repository, Tag("latest")))
    assert len(outline.children) == 2
    assert all(source.outline(repository, child).blobs for child in outline.children)


def test_missing_objects_are_unknown(source: RegistrySource) -> None:
    blob = source.outline(SMALL, source.tagged(SMALL, Tag("v1"))).blobs[0]
    with pytest.raises(RepositoryUnknown):
        list(source.tags("nobody/here"))
    with pytest.raises(TagUnknown):
        source.tagged(SMALL, Tag("v9"))
    with pytest.raises(ManifestUnknown):
        source.manifest(SMALL, NOBODYS)
    with pytest.raises(BlobUnknown):
        source.size(SMALL, NOBODYS)
    with pytest.raises(BlobUnknown), source.open("library/multi", blob) as reader:
        reader.read_at(0, 1)


def test_source_of_one_repository_lists_no_other(registry: DockerRegistry) -> None:
    with RegistrySource(registry.address, ANONYMOUS, SMALL) as source:
        assert list(source.repositories()) == [SMALL]


def test_blob_can_be_read_from_an_offset(source: RegistrySource) -> None:
    blob = source.outline(SMALL, source.tagged(SMALL, Tag("v1"))).blobs[2]
    with source.open(SMALL, blob) as reader:
        whole = b"".join(reader.chunks())
        assert reader.read_at(1000, 50) == whole[1000:1050]
        assert reader.read_at(blob.size - 1, 50) == whole[-1:]
        assert reader.read_at(blob.size, 50) == b""


def test_registry_that_does_not_listen_is_unavailable() -> None:
    with RegistrySource("127.0.0.1:9", ANONYMOUS) as source, pytest.raises(StorageUnavailable):
        source.tagged(SMALL, Tag("v1"))


@pytest.mark.parametrize(
    "host", ["", "user:secret@host", "host/name", "host:x", "http://host", "[.]"]
)
def test_name_of_a_host_is_checked(host: str) -> None:
    with pytest.raises(NameInvalid):
        RegistrySource(host, ANONYMOUS)


def test_all_pages_of_a_list_are_read(
    source: RegistrySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_PAGE", 1)
    assert len(list(source.repositories())) == 4
    assert sorted(source.tags(SMALL)) == ["v1", "v2"]
