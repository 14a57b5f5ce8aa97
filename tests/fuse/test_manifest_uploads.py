"""Manifests put through a mount: validated, stored verbatim, tagged."""

import errno
import json
import os
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.storage.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests import images as test_images
from tests.fuse.mounts import MountedRegistry, failing_with, mounted
from tests.fuse.repositories import layers, put_layer, put_manifest, revision, shell, upload
from tests.fuse.writers import state
from tests.services import DockerRegistry, run
from tests.storage.layout import as_bytes, descriptor, image, index, manifest

pytestmark = pytest.mark.fuse

UNKNOWN = Digest.of(b"pushed nowhere")


def _uploads(repository: Path) -> Path:
    return repository / "_manifests/_uploads"


def _tag(repository: Path, name: str) -> Path:
    return repository / "_manifests/tags" / name


@pytest.fixture
def blob(repository: Path) -> Digest:
    return put_layer(repository, b"a layer")


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
def test_manifest_is_stored_as_it_is_and_tagged(
    repository: Path, blob: Digest, media_type: str
) -> None:
    """[S8.2] [S8.3]"""
    content = manifest(media_type, blob, blob) + b"\n \n"
    (_uploads(repository) / "v1").write_bytes(content)
    digest = Digest.of(content)
    assert revision(repository, digest).read_bytes() == content
    assert os.readlink(_tag(repository, "v1")) == f"../revisions/sha256/{digest.encoded}"
    assert state(_uploads(repository) / "v1") == "committed"


@pytest.mark.parametrize("media_type", [DOCKER_LIST, OCI_INDEX])
def test_index_is_put_after_its_manifests(repository: Path, blob: Digest, media_type: str) -> None:
    """[S8.2]"""
    child = put_manifest(repository, image(blob))
    content = manifest(media_type, child)
    (_uploads(repository) / "v1").write_bytes(content)
    assert _tag(repository, "v1").read_bytes() == content


def test_digest_as_the_name_is_no_tag(repository: Path, blob: Digest) -> None:
    """[S8.3]"""
    put_manifest(repository, image(blob))
    assert os.listdir(repository / "_manifests/tags") == []
    assert os.listdir(repository / "_manifests/revisions/sha256") == [
        Digest.of(image(blob)).encoded
    ]


def test_reason_names_a_file_whose_name_is_not_utf_8(repository: Path) -> None:
    """[S8.2]"""
    file = _uploads(repository) / os.fsdecode(b"caf\xe9")
    with failing_with(errno.EINVAL):
        file.write_bytes(b"no manifest")
    assert b"caf\xe9" in os.getxattr(file, "user.blobfs.state")


def test_other_digest_as_the_name_is_refused(repository: Path, blob: Digest) -> None:
    """[S8.3]"""
    with failing_with(errno.EBADMSG):
        (_uploads(repository) / str(UNKNOWN)).write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/revisions/sha256") == []


def test_name_that_is_no_tag_tags_nothing(repository: Path, blob: Digest) -> None:
    """[S8.3]"""
    (_uploads(repository) / ".hidden").write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/tags") == []
    assert revision(repository, Digest.of(image(blob))).exists()


def test_mv_of_a_receipt_tags(repository: Path, blob: Digest) -> None:
    """[S8.3]"""
    file = _uploads(repository) / str(Digest.of(image(blob)))
    file.write_bytes(image(blob))
    file.rename(_uploads(repository) / "v1")
    assert _tag(repository, "v1").read_bytes() == image(blob)


def _foreign(url: str) -> bytes:
    layer = descriptor(
        UNKNOWN, media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
    document = json.loads(manifest(DOCKER_MANIFEST, Digest.of(b"a layer")))
    return as_bytes(document | {"layers": [layer | ({"urls": [url]} if url else {})]})


def test_foreign_layer_need_not_be_here(repository: Path, blob: Digest) -> None:
    """[S8.2]"""
    put_manifest(repository, _foreign("https://example.com/layer"), "v1")
    assert _tag(repository, "v1").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not JSON", "JSON"),
        (b"{", "JSON"),
        (b"[]", ""),
        (b'"text"', ""),
        (b"[" * 100_000, "JSON"),
        (b"{}", ""),
        (manifest("application/json", Digest.of(b"a layer")), "application/json"),
        (as_bytes({"schemaVersion": 1, "name": "app", "tag": "v1"}), ""),
        (as_bytes({"schemaVersion": 2, "mediaType": OCI_MANIFEST}), ""),
        (image(UNKNOWN), str(UNKNOWN)),
        (image(Digest.of(b"a layer"), UNKNOWN), str(UNKNOWN)),
        (index(UNKNOWN), str(UNKNOWN)),
        (index(Digest.of(b"a layer")), str(Digest.of(b"a layer"))),
        (_foreign(""), str(UNKNOWN)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_manifest_here_is_refused(
    shared: MountedRegistry, repository: Path, blob: Digest, content: bytes, reason: str
) -> None:
    """[S8.2] [S8.4] [S7.1]"""
    file = _uploads(repository) / "v1"
    with failing_with(errno.EINVAL):
        file.write_bytes(content)
    assert state(file).startswith("failed: ")
    assert reason in state(file)
    assert len(state(file)) < 500
    name = str(repository.relative_to(shared.path))
    [line] = [line for line in shared.warnings() if name in line]
    assert "v1" in line
    assert reason in line
    assert file.read_bytes() == content
    assert os.listdir(repository / "_manifests/revisions/sha256") == []
    assert os.listdir(repository / "_manifests/tags") == []


def test_cp_says_that_it_is_no_manifest(repository: Path, tmp_path: Path) -> None:
    """[S8.2]"""
    (tmp_path / "m").write_bytes(b"not JSON")
    file = _uploads(repository) / "v1"
    done = shell("cp", tmp_path / "m", file)
    assert done.stderr == f"cp: failed to close '{file}': Invalid argument\n"


def test_refused_manifest_is_put_once_what_it_lacked_is_there(repository: Path) -> None:
    """[S8.4]"""
    file = _uploads(repository) / "v1"
    content = image(Digest.of(b"late"))
    with failing_with(errno.EINVAL):
        file.write_bytes(content)
    put_layer(repository, b"late")
    file.write_bytes(content)
    assert _tag(repository, "v1").read_bytes() == content


def test_manifest_is_corrected_in_place(repository: Path, blob: Digest) -> None:
    """[S8.4]"""
    file = _uploads(repository) / "v1"
    with failing_with(errno.EINVAL):
        file.write_bytes(image(blob)[:-1])
    with file.open("ab") as more:
        more.write(image(blob)[-1:])
    assert _tag(repository, "v1").read_bytes() == image(blob)


def test_refused_manifest_ends_with_the_mount(storage: Path, tmp_path: Path) -> None:
    """[S8.4]"""
    with mounted(storage, tmp_path) as mount:
        put_layer_in = mount.path / "app"
        put_layer_in.mkdir()
        put_layer(put_layer_in, b"a layer")
        with failing_with(errno.EINVAL):
            (_uploads(put_layer_in) / "v1").write_bytes(b"not JSON")
    with mounted(storage, tmp_path) as mount:
        assert os.listdir(_uploads(mount.path / "app")) == []


def test_refused_manifest_is_removed(repository: Path) -> None:
    """[S8.4]"""
    file = _uploads(repository) / "v1"
    with failing_with(errno.EINVAL):
        file.write_bytes(b"not JSON")
    file.unlink()
    assert os.listdir(_uploads(repository)) == []


def test_largest_manifest_is_of_4_mib(repository: Path, blob: Digest) -> None:
    """[S8.2]"""
    content = image(blob)
    content += b" " * (4 * 2**20 - len(content))
    put_manifest(repository, content, "v1")
    with failing_with(errno.EFBIG):
        (_uploads(repository) / "v2").write_bytes(content + b" ")
    assert os.listdir(repository / "_manifests/tags") == ["v1"]


def _push(layout: Path, repository: Path, tag: str) -> None:
    """Push an image of an OCI layout by cp(1) alone."""
    layout_index = json.loads((layout / "index.json").read_bytes())
    [digest] = [
        entry["digest"]
        for entry in layout_index["manifests"]
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag
    ]
    blobs = layout / "blobs/sha256"
    content = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    for blob in [content["config"], *content["layers"]]:
        encoded = blob["digest"].removeprefix("sha256:")
        run("cp", blobs / encoded, upload(repository, blob["digest"]))
    run("cp", blobs / digest.removeprefix("sha256:"), _uploads(repository) / tag)


@pytest.mark.registry
def test_image_that_was_pushed_by_cp_is_pulled_from_a_registry(tmp_path: Path) -> None:
    """[S7.1] [S8.2] [S8.3] And unpacked, by programs that never heard of us."""
    layout = test_images.small()
    pulled = tmp_path / "pulled"
    with (
        DockerRegistry.serving(tmp_path / "storage") as registry,
        mounted(registry.root, tmp_path, "--create") as mount,
    ):
        (mount.path / "pushed").mkdir()
        (mount.path / "pushed/by-cp").mkdir()
        _push(layout, mount.path / "pushed/by-cp", "v1")
        source = f"docker://{registry.address}/pushed/by-cp:v1"
        run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--quiet",
            source, f"oci:{pulled}:v1")  # fmt: skip
    for place, target in ((layout, "expected"), (pulled, "found")):
        rootless = () if os.geteuid() == 0 else ("--rootless",)
        run("umoci", "unpack", *rootless, "--image", f"{place}:v1", tmp_path / target)
    done = shell("diff", "-r", tmp_path / "expected/rootfs", tmp_path / "found/rootfs")
    assert (done.returncode, done.stdout) == (0, "")


def test_layers_of_a_refused_manifest_stay(repository: Path, blob: Digest) -> None:
    """[S8.2]"""
    with failing_with(errno.EINVAL):
        (_uploads(repository) / "v1").write_bytes(image(blob, UNKNOWN))
    assert layers(repository) == {blob.encoded: b"a layer"}
