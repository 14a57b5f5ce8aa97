"""What a mount asks of S3, counted between the two: the number of requests is the time it takes."""

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.buckets import PREFIX, Bucket
from tests.support.mounts import MountedRegistry, mounted
from tests.support.s3_faults import Kind
from tests.support.s3_proxy import S3Proxy

pytestmark = [pytest.mark.s3, pytest.mark.fuse]

MIB = 2**20
REPOSITORIES, LAYERS, BLOBS = 20, 50, 800
LONG = ("--create", "--tag-timeout", "600", "--negative-timeout", "600")


@pytest.fixture(scope="module")
def proxy(bucket: Bucket) -> Iterator[S3Proxy]:
    with S3Proxy.before(bucket.server.endpoint) as proxy:
        yield proxy


@contextmanager
def mount_of(bucket: Bucket, proxy: S3Proxy, tmp_path: Path) -> Iterator[MountedRegistry]:
    url = bucket.url_at(proxy.url).replace("&chunksize=5242880", "&chunksize=8388608")
    with mounted(url, tmp_path, *LONG) as mount:
        yield mount


def put(bucket: Bucket, files: dict[str, bytes]) -> None:
    def put_one(path: str) -> None:
        bucket.client.put_object(Bucket=bucket.name, Key=PREFIX + path, Body=files[path])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put_one, files))


def put_blob(bucket: Bucket, name: str, content: bytes) -> Digest:
    digest = Digest.of(content)
    link = paths.link(paths.layers(RepositoryName(name)), digest)
    put(bucket, {paths.blob_data(digest): content, link: str(digest).encode()})
    return digest


def total(counted: "Counter[Kind]") -> int:
    return sum(counted.values())


def test_walk_of_a_large_registry_takes_few_requests(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    blobs = {Digest.of(content): content for content in (b"%d" % n for n in range(BLOBS))}
    files = {paths.blob_data(digest): content for digest, content in blobs.items()}
    chosen = random.Random(1)
    for number in range(REPOSITORIES):
        links = paths.layers(RepositoryName(f"walked/r{number}"))
        for digest in chosen.sample(list(blobs), LAYERS):
            files[paths.link(links, digest)] = str(digest).encode()
    put(bucket, files)
    expected = REPOSITORIES * LAYERS
    with mount_of(bucket, proxy, tmp_path) as mount:
        command = ["find", str(mount.path / "walked"), "-type", "f", "-ls"]
        for most in (5 * REPOSITORIES, 10):
            with proxy.counting() as counted:
                found = subprocess.run(command, check=True, capture_output=True).stdout
            assert len(found.splitlines()) == expected
            assert total(counted) <= most, counted


def test_walk_takes_a_request_for_a_repository(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    for number in range(20):
        put_blob(bucket, f"small/r{number}", b"%d" % number)
        put_blob(bucket, f"small/r{number}", b"shared")
    with mount_of(bucket, proxy, tmp_path) as mount, proxy.counting() as counted:
        subprocess.run(["find", mount.path / "small", "-ls"], check=True, capture_output=True)
    assert counted[Kind.GET] == 0, "an ETag tells what a link holds"
    assert total(counted) <= 2 * 20 + 10, counted


def test_read_takes_a_request_for_a_part_and_none_before(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(50 * MIB)
    digest = put_blob(bucket, "read/one", content)
    with mount_of(bucket, proxy, tmp_path) as mount:
        directory = mount.path / "read/one/_layers/sha256"
        subprocess.run(["ls", "-l", directory], check=True, capture_output=True)
        with proxy.counting() as counted:
            assert (directory / digest.encoded).read_bytes() == content
    assert counted[Kind.HEAD] == counted[Kind.LIST] == 0
    assert counted[Kind.GET] == total(counted) <= -(-len(content) // (16 * MIB)) + 4


def test_small_read_has_the_threads_of_obstore(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    """They start in the process of the mount: its parent has not used obstore before the fork."""
    digest = put_blob(bucket, "read/small", b"content")
    with mount_of(bucket, proxy, tmp_path) as mount:
        path = mount.path / "read/small/_layers/sha256" / digest.encoded
        assert path.read_bytes() == b"content"
        names = [file.read_text() for file in Path(f"/proc/{mount.pid}/task").glob("*/comm")]
    assert "tokio-rt-worker\n" in names


def test_declared_upload_takes_its_parts_and_five_more(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    content = random.Random(2).randbytes(40 * MIB)
    source = tmp_path / "source"
    source.write_bytes(content)
    with mount_of(bucket, proxy, tmp_path) as mount:
        repository = mount.path / "write"
        repository.mkdir()
        assert not list((repository / "_uploads").iterdir())
        with proxy.counting() as counted:
            name = f"_uploads/{Digest.of(content)}"
            subprocess.run(["cp", source, repository / name], check=True)
    assert counted[Kind.COPY] == counted[Kind.COPY_PART] == 0
    assert counted[Kind.PUT_PART] == 5
    assert total(counted) <= 5 + 5, counted  # one sees that the object is there
