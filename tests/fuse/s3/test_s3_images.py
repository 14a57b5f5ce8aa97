"""Images of a docker-registry and of a mount that share a bucket, made by one and read by both."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support import images
from tests.support.command import invoke
from tests.support.mounts import MountedRegistry, mounted, run
from tests.support.repositories import shell
from tests.support.s3_servers import S3Registry, S3Server
from tests.support.services import inspect
from tests.support.services import run as run_program

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.registry]

TAGS = [
    ("library/small", "v1"),
    ("library/small", "v2"),
    ("library/multi", "latest"),
    ("team/app", "v1"),
    ("team/app/debug", "v1"),
]


@pytest.fixture(scope="module", autouse=True)
def keys(ceph: S3Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in ceph.environment().items():
            patch.setenv(variable, value)
        yield


@pytest.fixture(scope="module")
def pushed(
    s3_registry: S3Registry, keys: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    """A mount of what skopeo pushed to a registry."""
    with mounted(s3_registry.storage_url, tmp_path_factory.mktemp("pushed")) as mount:
        yield mount


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_tree_is_that_of_the_registry(pushed: MountedRegistry) -> None:
    """[S1.1] A directory shows `_layers`, `_manifests` and `_uploads` if the storage has any of the
    three below it.
    [S1.2] `_layers/sha256`, `_manifests/revisions/sha256`, `_manifests/tags` and
    `_manifests/history` are there even while they are empty.
    [S1.5] `.blobfs` is found by name and never listed.
    """
    assert sorted(os.listdir(pushed.path)) == ["library", "team"]
    assert sorted(os.listdir(pushed.path / "library")) == ["multi", "small"]
    assert sorted(os.listdir(pushed.path / "team/app")) == [
        "_layers", "_manifests", "_uploads", "debug",
    ]  # fmt: skip
    assert sorted(os.listdir(pushed.path / "library/small/_manifests/tags")) == ["v1", "v2"]
    assert os.listdir(pushed.path / "team/app/_uploads") == []


def test_every_blob_hashes_to_its_name(pushed: MountedRegistry) -> None:
    """[S2.1] A file's bytes are the blob's."""
    names = {name for name, _ in TAGS}
    files = [
        file
        for name in names
        for kind in ("_layers", "_manifests/revisions")
        for file in (pushed.path / name / kind).glob("sha256/*")
    ]
    assert len(files) > 20
    assert all(_sha256(file) == file.name for file in files)


@pytest.mark.parametrize(("name", "tag"), TAGS)
def test_tags_and_layers_are_those_that_skopeo_sees(
    pushed: MountedRegistry, s3_registry: S3Registry, name: str, tag: str
) -> None:
    """[S1.4] A tag is a symlink to its current revision.
    [S1.3] A blob is found in a repository only through that repository's link.
    """
    manifest = inspect(s3_registry.registry.address, name, tag)
    link = pushed.path / name / "_manifests/tags" / tag
    digits = manifest.digest.removeprefix("sha256:")
    assert os.readlink(link) == f"../revisions/sha256/{digits}"
    assert link.read_bytes() == manifest.content
    assert os.listdir(pushed.path / name / "_manifests/history" / tag / "sha256") == [digits]
    layers = pushed.path / name / "_layers/sha256"
    document = json.loads(manifest.content)
    for layer in [*document.get("layers", ()), *filter(None, [document.get("config")])]:
        digits = layer["digest"].removeprefix("sha256:")
        assert (layers / digits).stat().st_size == layer["size"]


def test_walk_and_stat_of_all(pushed: MountedRegistry) -> None:
    """[S3.1] A blob has one inode in the whole mount, whichever repository it is reached through,
    and a link count of 2.
    """
    done = shell("find", pushed.path, "-printf", "%y %s\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "d 0" in done.stdout


def test_ls_tells_of_a_bucket(s3_registry: S3Registry, keys: None) -> None:
    done = run("ls", s3_registry.storage_url, "--json")
    assert done.returncode == 0, done.stderr
    assert {found["repository"] for found in json.loads(done.stdout)} == {name for name, _ in TAGS}
    done = run("ls", s3_registry.storage_url, "library/small", "--json")
    assert {found["tag"] for found in json.loads(done.stdout)} == {"v1", "v2"}


def test_cat_prints_what_is_in_a_bucket(s3_registry: S3Registry) -> None:
    url = s3_registry.storage_url
    manifest = inspect(s3_registry.registry.address, "library/small", "v1")
    printed = run("cat", url, "library/small:v1").stdout
    assert printed.encode(errors="surrogateescape") == manifest.content
    for layer in json.loads(manifest.content)["layers"]:
        printed = run("cat", url, f"library/small@{layer['digest']}").stdout
        assert str(Digest.of(printed.encode(errors="surrogateescape"))) == layer["digest"]


def test_files_of_images_in_a_bucket_are_shown(s3_registry: S3Registry, tmp_path: Path) -> None:
    """[S21.23] `blobfs cat STORAGE REPOSITORY:TAG PATH` prints a file of an image.
    [S21.25] `--platform` chooses the image of an image index.
    """
    url, options = s3_registry.storage_url, ("--index-dir", tmp_path)
    done = invoke("index", url, "library/small", "library/multi", "--json", *options)
    assert [row["state"] for row in json.loads(done.stdout)] == ["ok"] * 4
    done = invoke("cat", url, "library/small:v1", "etc/os-release", *options)
    assert done.stdout == "ID=small\n"
    done = invoke(
        "ls", url, "library/multi:latest", "usr/bin", "--platform", "linux/arm64", *options
    )
    assert done.stdout == "app\n"
    assert invoke("diff", url, "library/small:v1", "library/small:v2", *options).exit_code == 0


def test_bucket_that_is_not_there_is_told(ceph: S3Server, tmp_path: Path) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s.
    """
    done = run("mount", ceph.storage_url("no-such-bucket-here"), tmp_path)
    assert done.returncode == 1
    assert "no-such-bucket-here does not exist" in done.stderr


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])
def test_image_that_was_copied_in_is_pulled(
    served: S3Registry, repository: Path, tmp_path: Path, is_declared: bool
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S8.2] A file written to `_manifests/_uploads/` is put as a manifest at its last close.
    [S8.3] If the file's name is a tag, the manifest is tagged with it. By cp alone.
    """
    layout = images.small()
    index = json.loads((layout / "index.json").read_bytes())
    manifest = _blob(layout, index["manifests"][0]["digest"])
    document = json.loads(manifest.read_bytes())
    for number, part in enumerate([document["config"], *document["layers"]]):
        name = part["digest"] if is_declared else f"part{number}"
        done = shell("cp", _blob(layout, part["digest"]), repository / "_uploads" / name)
        assert (done.returncode, done.stderr) == (0, "")
    done = shell("cp", manifest, repository / "_manifests/_uploads/v1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (repository / "_manifests/tags/v1").read_bytes() == manifest.read_bytes()
    image = f"docker://{served.registry.address}/{repository.name}:v1"
    pulled = tmp_path / "pulled"
    run_program(
        "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", image, f"oci:{pulled}:v1"
    )
    assert {manifest.name, *os.listdir(repository / "_layers/sha256")} == set(
        os.listdir(pulled / "blobs/sha256")
    )


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")
