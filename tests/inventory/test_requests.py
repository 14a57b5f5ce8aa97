"""The requests of a pass over a bucket: pages of listings, and one GET a manifest."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.inventory import scanning
from blobfs.inventory.inventory import Inventory
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import image
from tests.support.s3_faults import Kind
from tests.support.s3_prefixes import keys_of
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

LAYERS = 9


def files(images: int) -> Iterator[tuple[str, bytes]]:
    """The files of *images* in repositories of ten, each with links of its own layers."""
    for number in range(images):
        name = RepositoryName(f"app-{number // 10}")
        parts = [Digest.of(b"%d" % (number * 5 + part)) for part in range(LAYERS)]
        payload = image(*parts)
        manifest = Digest.of(payload)
        yield paths.blob_data(manifest), payload
        tag = Tag(f"v{number}")
        index, revisions = paths.tag_index(name, tag), paths.revisions(name)
        for links, digest in [(paths.layers(name), part) for part in parts] + [
            (revisions, manifest),
            (index, manifest),
        ]:
            yield paths.link(links, digest), str(digest).encode()
        yield paths.tag_current_link(name, tag), str(manifest).encode()


@pytest.mark.s3
@pytest.mark.parametrize(
    ("images", "most"), [(100, 4), pytest.param(3200, 36, marks=pytest.mark.long)]
)
def test_pages_of_listings_are_full(ceph: S3Server, images: int, most: int) -> None:
    """30,080 keys take 1.2 LISTs for a thousand. The least are four: one looks for the registry,
    one has the algorithms of blobs, and two directories have a page each.
    """
    stored = dict(files(images))
    with (
        keys_of(ceph),
        ceph.bucket() as bucket,
        S3Proxy.before(ceph.endpoint) as proxy,
        closing(ceph.client()) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        puts = [
            threads.submit(client.put_object, Bucket=bucket, Key=path[1:], Body=content)
            for path, content in stored.items()
        ]
        for put in puts:
            put.result()
        url = ceph.storage_url(bucket).replace(ceph.endpoint, proxy.url)
        with proxy.counting() as counted, Inventory.taken(url) as inventory:
            [[links]] = inventory.journal.db.execute("SELECT count(*) FROM link")
            [[blobs]] = inventory.journal.db.execute("SELECT count(*) FROM blob")
        scanning.close_all()
    assert links + blobs == len(stored)
    assert counted[Kind.GET] == images
    assert counted[Kind.LIST] <= most
