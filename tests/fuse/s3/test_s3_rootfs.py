"""Root filesystems of images in an object store fetch little of their layers."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.factory import driver_for
from blobfs.reference import Tag
from tests.support.buckets import Bucket
from tests.support.layers import archive, image_blobs, member, store_blobs
from tests.support.layout import APP, Layout
from tests.support.mounts import mounted
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

MIB = 2**20
COUNT = 40


def content(number: int) -> bytes:
    """The 1.5 MiB of a file, which nothing compresses."""
    return random.Random(number).randbytes(3 * MIB // 2)


@pytest.fixture
def bucket(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for variable, value in moto.environment().items():
        monkeypatch.setenv(variable, value)
    with Bucket.made(moto) as bucket:
        yield bucket


def test_file_of_a_large_layer_is_fetched_with_little_around_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    """[S21.6] Later uses, also by other mounts and after a remount, read no layer for it. A read of
    a file fetches and decompresses the parts of the layer around it.
    """
    files = [member(b"file%d" % number, content(number)) for number in range(COUNT)]
    blobs = image_blobs([archive(*files)], compress=True)
    assert len(blobs[0]) > 55 * MIB
    with closing(driver_for(bucket.url_at(bucket.server.endpoint))) as driver:
        store_blobs(Layout(driver), blobs, Tag("v1"))
    key = paths.blob_data(Digest.of(blobs[0]))
    options = ("--index-dir", str(tmp_path / "index"))
    with S3Proxy.before(bucket.server.endpoint) as proxy:

        def fetched() -> int:
            return sum(each.bytes for each in proxy.requests if each.path.endswith(key))

        url = bucket.url_at(proxy.url)
        root = f"{APP}/_images/v1/rootfs"
        with mounted(url, tmp_path, *options) as mount:
            assert len(list((mount.path / root).iterdir())) == COUNT
            assert fetched() < len(blobs[0]) + MIB
        with mounted(url, tmp_path, *options) as mount:
            proxy.forget()
            assert sum(file.stat().st_size for file in (mount.path / root).iterdir()) > 55 * MIB
            assert fetched() == 0
            for number in (17, 3):
                proxy.forget()
                assert (mount.path / root / f"file{number}").read_bytes() == content(number)
                assert 0 < fetched() <= 12 * MIB
