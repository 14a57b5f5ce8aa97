"""What is changed in a bucket through one mount, through another, and by a registry."""

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_MANIFEST
from tests.fuse.s3.conftest import QUICK
from tests.support import images
from tests.support.buckets import CHUNK, Bucket
from tests.support.layout import image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, layers, put_layer, put_manifest, revision, shell
from tests.support.s3_faults import Kind
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Registry, S3Server
from tests.support.services import delete_blob, delete_manifest, inspect, push

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.registry]


@pytest.fixture(scope="module")
def proxy(ceph: S3Server) -> Iterator[S3Proxy]:
    """Between ``shared`` and the bucket."""
    with S3Proxy.before(ceph.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shared(
    bucket: Bucket, proxy: S3Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    options = (*QUICK, "--allow-delete")
    with mounted(bucket.url_at(proxy.url), tmp_path_factory.mktemp("shared"), *options) as mount:
        yield mount


@pytest.fixture(scope="module")
def other(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A second mount of the bucket."""
    options = (*QUICK, "--allow-delete")
    with mounted(bucket.url, tmp_path_factory.mktemp("other"), *options) as mount:
        yield mount


@pytest.fixture
def there(other: MountedRegistry, repository: Path) -> Path:
    """The repository in the second mount."""
    return other.path / repository.name


def _put_image(repository: Path, tag: str, content: bytes) -> Digest:
    return put_manifest(repository, image(put_layer(repository, content)), tag)


def _soon(holds: Callable[[], bool]) -> None:
    eventually(holds, within_s=3)


def _names(repository: Path, below: str) -> set[str]:
    return set(os.listdir(repository / below))


def _target(repository: Path, tag: str) -> str:
    """What a tag leads to, or nothing."""
    try:
        return os.readlink(repository / "_manifests/tags" / tag).rpartition("/")[2]
    except FileNotFoundError:
        return ""


def test_own_changes_are_seen_at_once(repository: Path) -> None:
    """[S13.1] What this mount changes it sees at once, and everybody else who asks the bucket, such
    as a registry.
    """
    tags = repository / "_manifests/tags"
    one, two = (_put_image(repository, "", content) for content in (b"one", b"two"))
    for _ in range(3):
        os.symlink(f"../revisions/sha256/{one.encoded}", tags / "v1")
        assert _target(repository, "v1") == one.encoded
        assert os.listdir(tags) == ["v1"]
        assert (
            shell("ln", "-sfn", f"../revisions/sha256/{two.encoded}", tags / "v1").returncode == 0
        )
        assert _target(repository, "v1") == two.encoded
        assert set(os.listdir(repository / "_manifests/history/v1/sha256")) == {
            one.encoded,
            two.encoded,
        }
        (tags / "v1").unlink()
        assert _target(repository, "v1") == ""
        assert os.listdir(tags) == []
    os.symlink(f"../revisions/sha256/{'0' * 64}", tags / "v1")  # it waits for its revision
    assert not (tags / "v1").exists()


def test_deletes(repository: Path) -> None:
    """[S9.1] With it, the repository's link goes."""
    digest = put_layer(repository, b"to be deleted")
    assert layers(repository) == {digest.encoded: b"to be deleted"}
    layer(repository, digest).unlink()
    assert not layer(repository, digest).exists()
    assert layers(repository) == {}
    manifest = _put_image(repository, "v1", b"layer")
    revision(repository, manifest).unlink()
    assert os.listdir(repository / "_manifests/revisions/sha256") == []
    with failing_with(errno.ENOENT):
        (repository / "_manifests/tags/v1").read_bytes()


def test_damaged_tag_and_layer_are_replaced_and_removed(
    bucket: Bucket, repository: Path, there: Path
) -> None:
    """[S8.8] A change does not need what it replaces to be readable."""
    name = RepositoryName(repository.name)
    manifest = _put_image(repository, "v1", b"layer")
    tag = there / "_manifests/tags/v1"
    for change in ("replace", "remove"):
        bucket.put(paths.tag_current_link(name, Tag("v1")), b"")
        _soon(lambda: tag.is_symlink() and tag.lstat().st_size == 0)
        if change == "replace":
            target = f"../revisions/sha256/{manifest.encoded}"
            done = shell("ln", "-sfn", target, tag)
            assert (done.returncode, done.stderr) == (0, "")
            assert _target(there, "v1") == manifest.encoded
        else:
            tag.unlink()
            assert os.listdir(tag.parent) == []
    lost = Digest.of(b"never stored")
    bucket.put(paths.link(paths.layers(name), lost), str(lost).encode())
    payload = image(lost)  # else the link would be what a garbage collection has left
    bucket.put(paths.blob_data(Digest.of(payload)), payload)
    bucket.put(
        paths.link(paths.revisions(name), Digest.of(payload)), str(Digest.of(payload)).encode()
    )
    _soon(lambda: lost.encoded in _names(there, "_layers/sha256"))
    with failing_with(errno.EIO):
        layer(there, lost).read_bytes()
    layer(there, lost).unlink()
    assert lost.encoded not in _names(there, "_layers/sha256")


def test_repositories_are_made_and_removed(shared: MountedRegistry) -> None:
    """[S8.1] `mkdir` makes an empty repository."""
    path = shared.path / "new/name"
    path.mkdir(parents=True)
    assert "name" in os.listdir(shared.path / "new")
    path.rmdir()
    path.parent.rmdir()
    assert "new" not in os.listdir(shared.path)
    path.mkdir(parents=True)
    digest = put_layer(path, b"content")
    with failing_with(errno.ENOTEMPTY):
        path.rmdir()
    layer(path, digest).unlink()
    path.rmdir()
    assert not path.exists()
    path.parent.rmdir()
    assert "new" not in os.listdir(shared.path)


def test_link_into_another_repository_moves_no_bytes(
    repository: Path, shared: MountedRegistry, proxy: S3Proxy
) -> None:
    """[S7.11] `ln` of a file of one repository's `_layers` into another's, under the same name,
    links the blob there: no bytes move.
    """
    content = random.Random(2).randbytes(2 * CHUNK + 3)
    digest = put_layer(repository, content)
    target = shared.path / f"{repository.name}-too"
    target.mkdir()
    (target / "_layers/sha256").stat()
    with proxy.counting() as counts:
        proxy.forget()
        os.link(layer(repository, digest), layer(target, digest))
        requests = proxy.requests
    assert counts[Kind.PUT] == 1, counts
    assert counts.total() <= 6, counts
    assert sum(request.bytes for request in requests) < 20_000
    assert layers(target) == {digest.encoded: content}


def test_pushes_of_a_registry_show(served: S3Registry, repository: Path, there: Path) -> None:
    """[S13.2] So a repository, tag, layer or upload that somebody else has made, moved or removed
    shows within two of these times, by default 2 s. A repository that appears, a tag that moves,
    and what is deleted.
    """
    address, name = served.registry.address, repository.name
    assert os.listdir(repository / "_manifests/tags") == []
    assert not there.exists()
    both = (repository, there)
    push(images.small(), address, name, "v1")
    first = inspect(address, name, "v1").digest.removeprefix("sha256:")
    _soon(lambda: {_target(path, "v1") for path in both} == {first})
    _soon(lambda: {len(_names(path, "_layers/sha256")) for path in both} == {4})
    push(images.small(), address, name, "v1", source_tag="v2")
    second = inspect(address, name, "v1").digest.removeprefix("sha256:")
    history = "_manifests/history/v1/sha256"
    _soon(lambda: {_target(path, "v1") for path in both} == {second})
    _soon(lambda: all(_names(path, history) == {first, second} for path in both))
    delete_manifest(address, name, f"sha256:{second}")
    _soon(lambda: all(_names(path, "_manifests/revisions/sha256") == {first} for path in both))
    _soon(lambda: all(_names(path, "_manifests/tags") == set() for path in both))


def test_changes_of_another_mount_show(
    repository: Path, there: Path, other: MountedRegistry
) -> None:
    """[S13.2] So a repository, tag, layer or upload that somebody else has made, moved or removed
    shows within two of these times, by default 2 s.
    """
    assert not there.exists()
    assert repository.name not in os.listdir(other.path)
    one = _put_image(repository, "v1", b"one")
    _soon(lambda: repository.name in os.listdir(other.path))
    _soon(lambda: _target(there, "v1") == one.encoded)
    two = _put_image(there, "v1", b"two")
    assert _target(there, "v1") == two.encoded
    _soon(lambda: _target(repository, "v1") == two.encoded)
    (repository / "_manifests/tags/v1").unlink()
    _soon(lambda: _target(there, "v1") == "")
    _soon(lambda: os.listdir(there / "_manifests/tags") == [])
    layer(repository, Digest.of(b"one")).unlink()
    _soon(lambda: list(layers(there)) == [Digest.of(b"two").encoded])


def test_deletes_of_a_registry_show(served: S3Registry, repository: Path) -> None:
    """[S13.2] So a repository, tag, layer or upload that somebody else has made, moved or removed
    shows within two of these times, by default 2 s.
    """
    digest = put_layer(repository, b"soon gone")
    assert layers(repository) == {digest.encoded: b"soon gone"}
    delete_blob(served.registry.address, repository.name, str(digest))
    _soon(lambda: os.listdir(repository / "_layers/sha256") == [])


def test_what_is_pushed_here_is_pulled_at_once(served: S3Registry, repository: Path) -> None:
    """[S13.1] What this mount changes it sees at once, and everybody else who asks the bucket, such
    as a registry.
    """
    for tag in ("v1", "v2"):
        digest = _put_image(repository, "latest", tag.encode())
        url = f"{served.registry.url}/v2/{repository.name}/manifests/latest"
        with urlopen(Request(url, headers={"Accept": OCI_MANIFEST})) as answer:
            assert answer.headers["Docker-Content-Digest"] == str(digest)


def test_moved_tag_is_followed_once_what_is_kept_has_run_out(repository: Path, there: Path) -> None:
    """[S13.2] Names, listings and tags are kept for `--tag-timeout`, or for ten times as long as it
    took to list them if that is longer. The first lines of the table, with 0.5 s for 1 s.
    """
    one = _put_image(repository, "v1", b"one")
    _soon(lambda: _target(there, "v1") == one.encoded)
    time.sleep(0.6)
    began = time.monotonic()
    assert _target(there, "v1") == one.encoded
    two = _put_image(repository, "v1", b"two")
    assert _target(repository, "v1") == two.encoded
    seen = _target(there, "v1")
    assert seen == one.encoded or time.monotonic() > began + 0.4
    _soon(lambda: _target(there, "v1") == two.encoded)


def test_removed_layer_may_be_read_where_its_name_was_kept(repository: Path, there: Path) -> None:
    """[S13.2] The kernel keeps what it was told for as long again.
    [S13.3] A blob's size and time are kept for `--entry-timeout`. The last lines.
    """
    digest, stays = put_layer(repository, b"kept"), put_layer(repository, b"stays")
    _soon(there.exists)
    assert layer(there, digest).read_bytes() == b"kept"
    layer(repository, digest).unlink()
    assert not layer(repository, digest).exists()
    _soon(lambda: _names(there, "_layers/sha256") == {stays.encoded})
    assert layer(there, digest).read_bytes() == b"kept"


def test_repository_goes_with_what_was_last_in_it(repository: Path, there: Path) -> None:
    """[S13.4] A directory is there as long as something is stored below it: a repository goes with
    what was last in it.
    """
    digest = put_layer(repository, b"alone")
    _soon(there.exists)
    layer(repository, digest).unlink()
    _soon(lambda: not there.exists())
