"""What a real docker-registry keeps, seen through a mount while it runs."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.support import images as test_images
from tests.support.mounts import MountedRegistry, eventually, mounted
from tests.support.services import DockerRegistry, inspect, push

pytestmark = [pytest.mark.fuse, pytest.mark.registry]

REPOSITORIES = ("library/small", "library/multi", "team/app", "team/app/debug")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _blobs_of(root: Path) -> dict[str, bytes]:
    """Every blob in a storage directory, by its digits."""
    data = root.glob("docker/registry/v2/blobs/sha256/*/*/data")
    return {file.parent.name: file.read_bytes() for file in data}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_repositories_are_directories_with_the_three(images: MountedRegistry, name: str) -> None:
    """[S1.1] `a` and `a/b` may both be repositories. library/small is one, team/app has another
    below it.
    """
    assert {"_layers", "_manifests", "_uploads"} <= set(os.listdir(images.path / name))


def test_names_that_are_no_repositories_show_only_what_is_below(images: MountedRegistry) -> None:
    """[S1.1] A directory shows `_layers`, `_manifests` and `_uploads` if the storage has any of the
    three below it: then it is a repository. ``library`` and ``team`` are no repositories.
    """
    assert sorted(os.listdir(images.path / "library")) == ["multi", "small"]


@pytest.mark.parametrize("kind", ["_layers", "_manifests/revisions"])
def test_every_blob_hashes_to_its_name(images: MountedRegistry, kind: str) -> None:
    """[S2.1] A file's bytes are the blob's."""
    files = [file for name in REPOSITORIES for file in (images.path / name / kind).glob("sha256/*")]
    assert files
    assert {_sha256(file) for file in files} == {file.name for file in files}


def test_the_files_of_the_mount_are_the_blobs_of_the_storage(
    images: MountedRegistry, registry: DockerRegistry
) -> None:
    found: dict[str, bytes] = {}
    for directory, _, names in os.walk(images.path):
        for name in names:
            file = Path(directory, name)
            if not file.is_symlink():
                found[name] = file.read_bytes()
    assert found == _blobs_of(registry.root)


@pytest.mark.parametrize(
    ("name", "tag"),
    [("library/small", "v1"), ("library/small", "v2"), ("library/multi", "latest"),
     ("team/app", "v1"), ("team/app/debug", "v1")],
)  # fmt: skip
def test_tag_leads_to_the_revision_that_skopeo_sees(
    images: MountedRegistry, registry: DockerRegistry, name: str, tag: str
) -> None:
    """[S1.4] A tag is a symlink to its current revision."""
    link = images.path / name / "_manifests/tags" / tag
    manifest = inspect(registry.address, name, tag)
    assert os.readlink(link) == f"../revisions/{manifest.digest.replace(':', '/')}"
    assert link.read_bytes() == manifest.content


def test_layers_are_those_of_the_manifest(
    images: MountedRegistry, registry: DockerRegistry
) -> None:
    manifest = inspect(registry.address, "team/app", "v1")
    listed = os.listdir(images.path / "team/app/_layers/sha256")
    assert {f"sha256:{name}" for name in listed} == set(manifest.blobs)


def test_repository_shows_only_what_it_has_a_link_to(images: MountedRegistry) -> None:
    """[S1.3] A blob is found in a repository only through that repository's link: this is the
    access check. Multi's blobs are in the same store, and not in small.
    """
    [blob, *_] = os.listdir(images.path / "library/multi/_layers/sha256")
    assert not (images.path / "library/small/_layers/sha256" / blob).exists()


def test_exposed_store_holds_every_blob(images: MountedRegistry, registry: DockerRegistry) -> None:
    """[S1.3] `_blobs` has none, and is there only with `--expose-blobs`."""
    exposed = {file.name for file in (images.path / "_blobs/sha256").glob("*/*")}
    assert exposed == set(_blobs_of(registry.root))


def test_blobs_of_a_shared_layer_are_one_file(images: MountedRegistry) -> None:
    """[S3.1] A blob has one inode in the whole mount, whichever repository it is reached through,
    and a link count of 2.
    """
    one, other = (images.path / name / "_layers/sha256" for name in ("team/app", "team/app/debug"))
    shared = set(os.listdir(one)) & set(os.listdir(other))
    assert len(shared) == 3
    for name in shared:
        assert os.path.samefile(one / name, other / name)
        assert (one / name).stat() == (other / name).stat()


def test_media_types_are_those_of_the_manifest(
    images: MountedRegistry, registry: DockerRegistry
) -> None:
    """[S3.5] `user.blobfs.media_type`, as a manifest of the repository has it, else
    `application/octet-stream`.
    """
    config, layer, *_ = inspect(registry.address, "team/app", "v1").blobs
    layers = images.path / "team/app/_layers"

    def media_type(digest: str) -> str:
        path = layers / digest.replace(":", "/")
        return os.getxattr(path, "user.blobfs.media_type").decode()

    assert media_type(config) == "application/vnd.oci.image.config.v1+json"
    assert media_type(layer) == "application/vnd.oci.image.layer.v1.tar+gzip"


def test_push_shows_within_the_tag_timeout(tmp_path: Path) -> None:
    """[S5.1] A new repository, tag or blob is found, and a moved tag followed, within
    `--tag-timeout`. A new tag, in a repository that was listed before, and a tag that moves.
    """
    with DockerRegistry.serving(tmp_path / "storage") as registry:
        push(test_images.small(), registry.address, "app", "v1")
        with mounted(registry.root, tmp_path) as mount:
            tags = mount.path / "app/_manifests/tags"
            before = os.readlink(tags / "v1")
            assert os.listdir(tags) == ["v1"]
            assert not (tags / "new").exists()
            push(test_images.small(), registry.address, "app", "new", source_tag="v2")
            push(test_images.small(), registry.address, "app", "v1", source_tag="v2")
            eventually((tags / "new").exists, within_s=3)
            eventually(lambda: os.readlink(tags / "v1") != before, within_s=3)
            assert (tags / "new").read_bytes() == (tags / "v1").read_bytes()
            assert len(os.listdir(mount.path / "app/_manifests/history/v1/sha256")) == 2


def test_new_repository_shows_within_the_negative_timeout(tmp_path: Path) -> None:
    """[S5.1] A new repository, tag or blob is found, and a moved tag followed, within
    `--tag-timeout` (and `--negative-timeout`, for a name that was asked for before it was there).
    Also in a registry that was empty, and for a name that was asked for before.
    """
    with (
        DockerRegistry.serving(tmp_path / "storage") as registry,
        mounted(registry.root, tmp_path, "--create") as mount,
    ):
        assert os.listdir(mount.path) == []
        assert not (mount.path / "a/b").exists()
        push(test_images.small(), registry.address, "a/b", "v1")
        eventually((mount.path / "a/b/_manifests/tags/v1").exists, within_s=3)


def test_large_layer_hashes_to_its_name(tmp_path: Path) -> None:
    """[S2.1] A file's bytes are the blob's."""
    with DockerRegistry.serving(tmp_path / "registry") as registry:
        push(test_images.large(), registry.address, "large", "v1")
    assert_layers_hash_to_their_names(registry, tmp_path, "large", 24 * 10**6)


@pytest.mark.long
def test_large_layers_of_a_debian_image_hash_to_their_names(
    debian_registry: DockerRegistry, tmp_path: Path
) -> None:
    """[S2.1] A file's bytes are the blob's."""
    assert_layers_hash_to_their_names(debian_registry, tmp_path, "debian", 50 * 10**6)


def assert_layers_hash_to_their_names(
    registry: DockerRegistry, tmp_path: Path, name: str, size: int
) -> None:
    with mounted(registry.root, tmp_path, "--verify", "first") as mount:
        layers = list((mount.path / name / "_layers/sha256").iterdir())
        assert sum(file.stat().st_size for file in layers) > size
        assert all(_sha256(file) == file.name for file in layers)
