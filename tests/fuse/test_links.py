"""ln(1) between repositories: blobs and manifests are linked, and no bytes move."""

import errno
import os
import random
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.layout import image
from tests.support.mounts import MountedRegistry, failing_with
from tests.support.repositories import (
    layer,
    layers,
    put_layer,
    put_manifest,
    revision,
    shell,
    upload,
)

pytestmark = pytest.mark.fuse

CONTENT = random.Random(3).randbytes(2**20 + 17)


@pytest.fixture
def other(repository: Path) -> Path:
    path = repository.parent / f"{repository.name}-too"
    path.mkdir()
    return path


def _moved_by(mount: MountedRegistry) -> int:
    """Bytes that the daemon has read and written so far."""
    counters = dict(
        line.split(": ") for line in Path(f"/proc/{mount.pid}/io").read_text().splitlines()
    )
    return int(counters["rchar"]) + int(counters["wchar"])


def test_ln_links_a_layer_in_another_repository_and_moves_no_bytes(
    shared: MountedRegistry, repository: Path, other: Path
) -> None:
    """[S7.11] `ln` of a file of one repository's `_layers` into another's, under the same name,
    links the blob there: no bytes move.
    """
    content = random.Random(4).randbytes(32 * 2**20)
    digest = put_layer(repository, content)
    data = Path(f"{shared.storage}{paths.blob_data(digest)}")
    before, moved = data.stat(), _moved_by(shared)
    assert shell("ln", layer(repository, digest), layer(other, digest)).returncode == 0
    assert os.listdir(other / "_layers/sha256") == [digest.encoded]
    assert _moved_by(shared) - moved < 100_000
    after = data.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_nlink,
    )
    assert layer(other, digest).read_bytes() == content


def test_linked_layer_is_the_same_file(repository: Path, other: Path) -> None:
    """[S7.11] `ln` of a file of one repository's `_layers` into another's, under the same name,
    links the blob there: no bytes move.
    [S3.1] A blob has one inode in the whole mount, whichever repository it is reached through.
    """
    digest = put_layer(repository, CONTENT)
    os.link(layer(repository, digest), layer(other, digest))
    assert layer(repository, digest).samefile(layer(other, digest))


def test_layer_keeps_its_name(repository: Path, other: Path) -> None:
    """[S7.11] Under the same name."""
    digest = put_layer(repository, CONTENT)
    for name in (Digest.of(b"another").encoded, "layer.tar"):
        with failing_with(errno.EINVAL):
            os.link(layer(repository, digest), other / "_layers/sha256" / name)
    assert layers(other) == {}


def test_layer_that_is_there_is_not_linked_again(repository: Path) -> None:
    digest = put_layer(repository, CONTENT)
    with failing_with(errno.EEXIST):
        os.link(layer(repository, digest), layer(repository, digest))


def test_upload_is_not_linked_as_a_layer(repository: Path, other: Path) -> None:
    """[S9.3] Everything else that would change something is EPERM: files elsewhere, new directories
    in a repository, devices, other links. Its receipt is.
    """
    file = upload(repository, "layer.tar")
    with file.open("wb", buffering=0) as opened:
        opened.write(CONTENT)
        with failing_with(errno.EPERM):
            os.link(file, layer(other, Digest.of(CONTENT)))
    os.link(file, layer(other, Digest.of(CONTENT)))
    assert layer(other, Digest.of(CONTENT)).read_bytes() == CONTENT


def test_ln_puts_a_manifest_into_another_repository(repository: Path, other: Path) -> None:
    """[S8.7] `ln` of a revision into another repository puts it there."""
    blob = put_layer(repository, CONTENT)
    manifest = put_manifest(repository, image(blob))
    os.link(layer(repository, blob), layer(other, blob))
    os.link(revision(repository, manifest), revision(other, manifest))
    assert revision(other, manifest).read_bytes() == image(blob)


def test_linked_manifest_waits_for_its_blobs(repository: Path, other: Path) -> None:
    """[S8.7] One to which something is missing there waits for it: see S8.18."""
    manifest = put_manifest(repository, image(put_layer(repository, CONTENT)))
    os.link(revision(repository, manifest), revision(other, manifest))
    assert os.listdir(other / "_manifests/revisions/sha256") == []
    put_layer(other, CONTENT)
    assert os.listdir(other / "_manifests/revisions/sha256") == [manifest.encoded]


def test_cp_links_a_repository_into_another(repository: Path, other: Path) -> None:
    """[S7.11] `ln` of a file of one repository's `_layers` into another's, under the same name,
    links the blob there.
    [S8.7] `ln` of a revision into another repository puts it there.
    [S8.5] `ln -s ../revisions/<algorithm>/<hex> tags/<tag>` tags. Layers, then manifests, then
    tags.
    """
    blob = put_layer(repository, CONTENT)
    manifest = put_manifest(repository, image(blob), "v1")
    for part, options in (
        ("_layers", "-al"),
        ("_manifests/revisions", "-al"),
        ("_manifests/tags", "-a"),
    ):
        done = shell("cp", options, f"{repository}/{part}/.", f"{other}/{part}/")
        assert (done.returncode, done.stderr) == (0, "")
    assert layers(other) == {blob.encoded: CONTENT}
    assert (other / "_manifests/tags/v1").read_bytes() == image(blob)
    assert os.readlink(other / "_manifests/tags/v1").endswith(manifest.encoded)
