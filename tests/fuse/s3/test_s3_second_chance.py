"""A blob that came wrong over the network is right again once it comes right."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.buckets import PREFIX, Bucket
from tests.support.mounts import failing_with, mounted
from tests.support.s3_faults import Damage, Kind, nth
from tests.support.s3_proxy import S3Proxy

pytestmark = [pytest.mark.s3, pytest.mark.fuse]

APP = RepositoryName("app")
CONTENT = random.Random(7).randbytes(9 * 2**20)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[S3Proxy]:
    with S3Proxy.before(bucket.server.endpoint) as proxy:
        yield proxy


def test_flipped_bit_fails_one_read_and_not_the_next(
    bucket: Bucket, proxy: S3Proxy, tmp_path: Path
) -> None:
    """[S13.12] With `--verify`, which is on here, bytes that came wrong over the network end a read
    of the whole blob with EIO, and the next one fetches them anew.
    """
    digest = Digest.of(CONTENT)
    files = {
        paths.blob_data(digest): CONTENT,
        paths.link(paths.layers(APP), digest): str(digest).encode(),
    }
    for path, content in files.items():
        bucket.client.put_object(Bucket=bucket.name, Key=PREFIX + path, Body=content)
    with mounted(bucket.url_at(proxy.url), tmp_path) as mount:
        blob = mount.path / f"app/_layers/sha256/{digest.encoded}"
        blob.stat()
        proxy.faults = nth(2, Damage.FLIP_BIT, only={Kind.GET})
        with failing_with(5):
            blob.read_bytes()
        for _ in range(1_000):  # until the kernel has let go of what it was given
            try:
                assert blob.read_bytes() == CONTENT
                return
            except OSError:
                continue
        pytest.fail("what is right in the storage never came right")
