"""Uploads in a bucket that a registry and a mount both know of."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.fuse.test_shared_uploads import Client
from tests.support.buckets import CHUNK, PREFIX, Bucket
from tests.support.mounts import eventually, failing_with
from tests.support.repositories import layer, layers, upload
from tests.support.s3_servers import S3Registry
from tests.support.writers import state

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.registry]


@pytest.fixture
def client(served: S3Registry, repository: Path) -> Client:
    return Client(served.registry, repository.name)


def _ids(bucket: Bucket, repository: Path) -> set[str]:
    below = f"/docker/registry/v2/repositories/{repository.name}/_uploads/"
    return {key.split("/")[0] for key in bucket.keys(below)}


@pytest.mark.parametrize(
    "sizes", [(3000,), (2 * CHUNK + 7,), (CHUNK, 3000, 2 * CHUNK + 7), (12 * 2**20, 11 * 2**20)]
)
def test_upload_of_a_registry_is_gone_on_with_here(
    bucket: Bucket, repository: Path, client: Client, sizes: tuple[int, ...]
) -> None:
    """[S7.12] Uploads of registries and of other mounts are listed, the former under their uuid,
    and can be gone on with.
    """
    content = random.Random(str(sizes)).randbytes(sum(sizes) + 3 * 2**20)
    place, sent = client.begin(), 0
    for size in sizes:
        place = client.add(place, content[sent : sent + size])
        sent += size
    [name] = _ids(bucket, repository)
    eventually(lambda: os.listdir(repository / "_uploads") == [name])
    file = upload(repository, name)
    assert file.stat().st_size == sent
    with file.open("ab") as more:
        more.write(content[sent:])
    assert state(file) == "committed"
    assert layers(repository) == {Digest.of(content).encoded: content}
    assert bucket.leftovers() == []


def test_upload_of_a_registry_is_not_touched_by_looking(
    bucket: Bucket, repository: Path, client: Client
) -> None:
    """[S7.12] What another writes meanwhile is not touched.
    [S13.6] Until then has a size only: EOPNOTSUPP.
    """
    content = random.Random(3).randbytes(2 * CHUNK + 70)
    place = client.add(client.begin(), content[:-10])
    [name] = _ids(bucket, repository)

    def all_there_is() -> tuple[list[tuple[str, str]], list[str]]:
        found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=PREFIX)["Contents"]
        return sorted(
            (f["Key"], f["ETag"]) for f in found if name in f["Key"]
        ), bucket.multipart_uploads()

    before = all_there_is()
    eventually(lambda: os.listdir(repository / "_uploads") == [name])
    file = upload(repository, name)
    assert file.stat().st_size == len(content) - 10
    assert state(file) == "open"
    upload(repository, "ours").write_bytes(b"ours")
    with failing_with(errno.EOPNOTSUPP):
        file.read_bytes()
    assert all_there_is() == before
    client.end(client.add(place, content[-10:]), Digest.of(content))
    eventually(lambda: layer(repository, Digest.of(content)).exists())
    assert layer(repository, Digest.of(content)).read_bytes() == content
    upload(repository, "ours").unlink()
    assert bucket.leftovers() == []


@pytest.fixture
def waiting(repository: Path) -> Callable[[bytes], Path]:
    """Leaves an upload with content that is not all."""

    def write(content: bytes) -> Path:
        file = upload(repository, "layer.tar")
        file.touch()
        os.setxattr(file, "user.blobfs.size", b"1")
        with failing_with(errno.EBADMSG):
            file.write_bytes(content)
        return file

    return write


def test_upload_begun_here_is_gone_on_with_by_a_registry_where_a_part_ends(
    bucket: Bucket, repository: Path, client: Client, waiting: Callable[[bytes], Path]
) -> None:
    """[S13.9] A registry goes on with one that is not declared and ends where a part does
    (`chunksize`, 8 MiB by default).
    """
    content = random.Random(5).randbytes(CHUNK + 5)
    waiting(content[:CHUNK])
    [name] = _ids(bucket, repository)
    client.end(client.add(client.place_of(name, CHUNK), content[CHUNK:]), Digest.of(content))
    eventually(lambda: layers(repository) == {Digest.of(content).encoded: content})
    assert bucket.leftovers() == []


@pytest.mark.parametrize("size", [3000, CHUNK + 7])
def test_upload_begun_here_is_refused_by_a_registry_elsewhere_and_does_no_harm(
    bucket: Bucket, repository: Path, client: Client, waiting: Callable[[bytes], Path], size: int
) -> None:
    """[S13.9] Refuses all others (404), which does them no harm."""
    content = random.Random(size).randbytes(size)
    file = waiting(content)
    [name] = _ids(bucket, repository)
    with pytest.raises(AssertionError, match="BLOB_UPLOAD_INVALID"):
        client.add(client.place_of(name, size), b"more")
    other = random.Random(size + 1).randbytes(size)
    client.end(client.add(client.begin(), other), Digest.of(other))
    os.setxattr(file, "user.blobfs.size", str(size).encode())
    with file.open("ab"):
        pass
    os.rename(file, layer(repository, Digest.of(content)))
    eventually(lambda: len(layers(repository)) == 2)
    assert layers(repository)[Digest.of(content).encoded] == content
    assert bucket.leftovers() == []
