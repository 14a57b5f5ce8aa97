"""A mount by root beside a registry that runs as a user of its own."""

import http.client
import json
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.storage.manifest import OCI_MANIFEST
from tests.support import images
from tests.support.mounts import MountedRegistry, mounted
from tests.support.services import DockerRegistry, cannot, push

pytestmark = [pytest.mark.fuse, pytest.mark.registry]

USER = "docker-registry"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that every user can reach, which pytest's are not."""
    if os.geteuid() != 0:
        cannot("only root can run a registry as another user")
    with tempfile.TemporaryDirectory(prefix="blobfs-user-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def registry(place: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry.serving(place / "storage", user=USER) as registry:
        push(images.small(), registry.address, "app", "v1")
        yield registry


@pytest.fixture(scope="module")
def mount(registry: DockerRegistry, place: Path) -> Iterator[MountedRegistry]:
    with mounted(registry.root, place) as mount:
        yield mount


def _request(
    registry: DockerRegistry, method: str, path: str, body: bytes = b"", media_type: str = ""
) -> int:
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": media_type})
        return connection.getresponse().status
    finally:
        connection.close()


def test_registry_pushes_and_deletes_where_a_mount_of_root_has_written(
    mount: MountedRegistry, registry: DockerRegistry
) -> None:
    """[S5.5] So a registry that runs as a user of its own can go on and delete, where a mount by
    root has written. Tags, repositories, uploads, blobs and their directories.
    """
    app = mount.path / "app"
    [revision] = (app / "_manifests/revisions/sha256").iterdir()
    os.symlink(f"../revisions/sha256/{revision.name}", app / "_manifests/tags/v2")
    (mount.path / "new").mkdir()
    for size in (1000, 2 * 2**20):
        (mount.path / "new/_uploads" / f"of-{size}").write_bytes(os.urandom(size))
    with pytest.raises(OSError, match="Bad message"):
        (mount.path / "new/_uploads" / str(Digest.of(b"other"))).write_bytes(b"unfinished")
    document = json.loads(revision.read_bytes()) | {"annotations": {"by": "the registry"}}
    moved = _request(
        registry, "PUT", "/v2/app/manifests/v2", json.dumps(document).encode(), OCI_MANIFEST
    )
    begun = _request(registry, "POST", "/v2/new/blobs/uploads/")
    [layer, _] = (mount.path / "new/_layers/sha256").iterdir()
    deleted = _request(registry, "DELETE", f"/v2/new/blobs/sha256:{layer.name}")
    assert (moved, begun, deleted) == (201, 202, 202)
    push(images.small(), registry.address, "new", "v1")


def test_everything_in_the_storage_belongs_to_the_registry(
    mount: MountedRegistry, registry: DockerRegistry
) -> None:
    """[S5.5] What the mount stores has the owner, the group and the mode of the directory that it
    is put in, whoever runs the mount.
    """
    (mount.path / "other").mkdir()
    (mount.path / "other/_uploads/file").write_bytes(b"content")
    [layer] = (mount.path / "other/_layers/sha256").iterdir()
    paths = list(registry.root.rglob("*"))
    user = pwd.getpwnam(USER).pw_uid
    assert [path for path in paths if path.stat().st_uid != user] == []
    blob = registry.root / f"docker/registry/v2/blobs/sha256/{layer.name[:2]}/{layer.name}/data"
    assert blob.stat().st_mode & 0o222 == 0
