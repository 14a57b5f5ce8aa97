"""Copies with the workers of a Dask cluster."""

from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.copies import Copies, counts
from tests.support.dask_cluster import two_workers


@pytest.mark.cluster
def test_a_cluster_copies_as_threads_do(tmp_path: Path) -> None:
    """[S22.26] With `--cluster` the workers of a Dask cluster copy blobs, manifests and tags"""
    copies = Copies(tmp_path)
    for number in range(20):
        copies.put_image(f"v{number}", b"config", b"shared", b"layer %d" % number)
    copies.put_image("bad", b"config", b"damaged")
    copies.blob(copies.source, Digest.of(b"damaged")).write_bytes(b"DAMAGED")
    copies.target.mkdir()
    with two_workers() as address:
        result = copies.cp("--cluster", address, "--json")
        assert result.exit_code == 1
        assert counts(result)["blob"]["sent"] == 22
        assert '"images": ["team/app:bad"]' in result.stdout
        copies.blob(copies.source, Digest.of(b"damaged")).write_bytes(b"damaged")
        assert copies.cp("--cluster", address).exit_code == 0
    assert copies.files(copies.target) == copies.files(copies.source)
