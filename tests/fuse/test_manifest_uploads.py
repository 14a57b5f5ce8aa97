"""Manifests put through a mount: validated, stored verbatim, tagged."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.storage.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.support import images as test_images
from tests.support.layout import as_bytes, descriptor, image, index, manifest
from tests.support.mounts import MountedRegistry, failing_with, mounted
from tests.support.repositories import layers, put_layer, put_manifest, revision, shell, upload
from tests.support.services import DockerRegistry, run
from tests.support.writers import state

pytestmark = pytest.mark.fuse

RCLONE = str(Path(sys.executable).with_name("rclone"))

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
    """[S8.2] The bytes are stored as they are.
    [S8.3] If the file's name is a tag, the manifest is tagged with it.
    """
    content = manifest(media_type, blob, blob) + b"\n \n"
    (_uploads(repository) / "v1").write_bytes(content)
    digest = Digest.of(content)
    assert revision(repository, digest).read_bytes() == content
    assert os.readlink(_tag(repository, "v1")) == f"../revisions/sha256/{digest.encoded}"
    assert state(_uploads(repository) / "v1") == "committed"


@pytest.mark.parametrize("media_type", [DOCKER_LIST, OCI_INDEX])
def test_index_is_put_after_its_manifests(repository: Path, blob: Digest, media_type: str) -> None:
    """[S8.2] All that it refers to must be linked in the repository."""
    child = put_manifest(repository, image(blob))
    content = manifest(media_type, child)
    (_uploads(repository) / "v1").write_bytes(content)
    assert _tag(repository, "v1").read_bytes() == content


def test_digest_as_the_name_is_no_tag(repository: Path, blob: Digest) -> None:
    """[S8.3] A digest as the name is held to, and is no tag."""
    put_manifest(repository, image(blob))
    assert os.listdir(repository / "_manifests/tags") == []
    assert os.listdir(repository / "_manifests/revisions/sha256") == [
        Digest.of(image(blob)).encoded
    ]


def test_reason_names_a_file_whose_name_is_not_utf_8(repository: Path) -> None:
    """[S8.2] Else EINVAL, with the reason in the log and in `user.blobfs.state`."""
    file = _uploads(repository) / os.fsdecode(b"caf\xe9")
    with failing_with(errno.EINVAL):
        file.write_bytes(b"no manifest")
    assert b"caf\xe9" in os.getxattr(file, "user.blobfs.state")


def test_other_digest_as_the_name_is_refused(repository: Path, blob: Digest) -> None:
    """[S8.3] A digest as the name is held to."""
    with failing_with(errno.EBADMSG):
        (_uploads(repository) / str(UNKNOWN)).write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/revisions/sha256") == []


def test_name_that_is_no_tag_tags_nothing(repository: Path, blob: Digest) -> None:
    """[S8.3] If the file's name is a tag, the manifest is tagged with it."""
    (_uploads(repository) / ".hidden").write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/tags") == []
    assert revision(repository, Digest.of(image(blob))).exists()


def test_mv_of_a_receipt_tags(repository: Path, blob: Digest) -> None:
    """[S8.3] `mv` of a committed one to another tag moves the tag that its file has made."""
    file = _uploads(repository) / str(Digest.of(image(blob)))
    file.write_bytes(image(blob))
    file.rename(_uploads(repository) / "v1")
    assert _tag(repository, "v1").read_bytes() == image(blob)


def test_mv_of_a_receipt_takes_its_tag_along(repository: Path, blob: Digest) -> None:
    """[S8.3] `mv` of a committed one to another tag moves the tag that its file has made."""
    (_uploads(repository) / "v1").write_bytes(image(blob))
    shell("mv", _uploads(repository) / "v1", _uploads(repository) / "v2")
    assert os.listdir(repository / "_manifests/tags") == ["v2"]


@pytest.mark.parametrize("name", [".v1.swp", "v1~", "v1.orig", str(Digest.of(b"x"))])
def test_mv_of_a_receipt_to_what_is_no_tag_leaves_its_tag(
    repository: Path, blob: Digest, name: str
) -> None:
    """[S8.3] `mv` of a committed one to another tag moves the tag that its file has made. As
    editors do with what they are about to replace.
    """
    name = str(Digest.of(image(blob))) if ":" in name else name
    (_uploads(repository) / "v1").write_bytes(image(blob))
    (_uploads(repository) / "v1").rename(_uploads(repository) / name)
    assert os.listdir(repository / "_manifests/tags") == ["v1"]


def test_mv_leaves_a_tag_that_was_there_before_or_has_moved(repository: Path, blob: Digest) -> None:
    """[S8.3] One that was there before stays."""
    first = put_manifest(repository, image(blob))
    for name in ("old", "moved"):
        if name == "old":
            _tag(repository, name).symlink_to(f"../revisions/sha256/{first.encoded}")
        (_uploads(repository) / name).write_bytes(image(blob, blob))
        if name == "moved":
            target = f"../revisions/sha256/{first.encoded}"
            shell("ln", "-sfn", target, _tag(repository, name))
        (_uploads(repository) / name).rename(_uploads(repository) / f"new-{name}")
    found = set(os.listdir(repository / "_manifests/tags"))
    assert found == {"old", "moved", "new-old", "new-moved"}
    assert _tag(repository, "moved").read_bytes() == image(blob)


PROGRAMS = {
    "rclone": [[RCLONE, "--config", "/dev/null", "copyto", "{new}", "{uploads}/v1"]],
    "rsync": [["rsync", "{new}", "{uploads}/v1"]],
    "sed": [["cp", "{new}", "{uploads}/v1"], ["sed", "-i.bak", "$a\\ ", "{uploads}/v1"]],
    "vim": [
        ["cp", "{new}", "{uploads}/v1"],
        ["vim", "--clean", "-nes", "-c", "set backupskip= backupcopy=no", "-c", "%!cat {new}",
         "-c", "wq", "{uploads}/v1"],
    ],
    "mv from outside": [["cp", "{new}", "{new}.copy"], ["mv", "{new}.copy", "{uploads}/v1"]],
    "mktemp": [["cp", "{new}", "{uploads}/tmp.aBcDeFgHiJ"],
               ["mv", "{uploads}/tmp.aBcDeFgHiJ", "{uploads}/v1"]],
}  # fmt: skip


@pytest.mark.parametrize("commands", PROGRAMS.values(), ids=PROGRAMS)
def test_program_leaves_no_tag_but_the_one_it_was_told(
    repository: Path, blob: Digest, tmp_path: Path, commands: list[list[str]]
) -> None:
    """[S8.3] Nor is a name that programs give to a file until it is finished, or to what they
    replace.
    """
    new = tmp_path / "new"
    new.write_bytes(image(blob))
    for command in commands:
        names = {"new": new, "uploads": _uploads(repository)}
        done = shell(*(argument.format(**names) for argument in command))
        assert (done.returncode, done.stderr) == (0, ""), command
    assert os.listdir(repository / "_manifests/tags") == ["v1"]
    assert json.loads(_tag(repository, "v1").read_bytes()) == json.loads(image(blob))


@pytest.mark.parametrize(
    "name",
    ["sedAb12Cd", "v1.1a2b3c4d.partial", "v1.part", "v1.tmp", "v1.TMP", "v1.swp", "tmp.0aB1cD2eF3"],
)
def test_name_of_an_unfinished_file_is_no_tag(repository: Path, blob: Digest, name: str) -> None:
    """[S8.3] Nor is a name that programs give to a file until it is finished, or to what they
    replace.
    """
    (_uploads(repository) / name).write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/tags") == []
    assert state(_uploads(repository) / name) == "committed"
    assert revision(repository, Digest.of(image(blob))).exists()


@pytest.mark.parametrize("name", ["4913", "sed", "sed-4.9", "tmp", "partial", "v1.partial.2"])
def test_name_that_only_looks_like_one_is_a_tag(repository: Path, blob: Digest, name: str) -> None:
    """[S8.3] If the file's name is a tag, the manifest is tagged with it."""
    (_uploads(repository) / name).write_bytes(image(blob))
    assert os.listdir(repository / "_manifests/tags") == [name]


def _foreign(url: str) -> bytes:
    layer = descriptor(
        UNKNOWN, media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
    document = json.loads(manifest(DOCKER_MANIFEST, Digest.of(b"a layer")))
    return as_bytes(document | {"layers": [layer | ({"urls": [url]} if url else {})]})


def test_foreign_layer_need_not_be_here(repository: Path, blob: Digest) -> None:
    """[S8.2] The config and the layers of an image, but for those with URLs, as layers."""
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
        (image(Digest.of(b"a layer")).replace(b"{", b'{"annotations": 7, ', 1), "annotations"),
        (_foreign(""), "has no urls"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_manifest_here_is_refused(
    shared: MountedRegistry, repository: Path, blob: Digest, content: bytes, reason: str
) -> None:
    """[S8.2] Else EINVAL, with the reason in the log and in `user.blobfs.state`.
    [S8.4] A manifest that was not put stays in memory, to be corrected, until it is removed or the
    mount ends.
    [S7.1] What goes wrong is an errno of the call that can carry it and one log line with the
    repository, the upload and the reason.
    """
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
    """[S8.2] Else EINVAL, with the reason in the log and in `user.blobfs.state`."""
    (tmp_path / "m").write_bytes(b"not JSON")
    file = _uploads(repository) / "v1"
    done = shell("cp", tmp_path / "m", file)
    assert done.stderr == f"cp: failed to close '{file}': Invalid argument\n"


def test_refused_manifest_is_put_once_what_it_lacked_is_there(repository: Path) -> None:
    """[S8.4] A manifest that was not put stays in memory, to be corrected, until it is removed or
    the mount ends.
    """
    file = _uploads(repository) / "v1"
    content = image(Digest.of(b"late"))
    with failing_with(errno.EINVAL):
        file.write_bytes(content)
    put_layer(repository, b"late")
    file.write_bytes(content)
    assert _tag(repository, "v1").read_bytes() == content


def test_manifest_is_corrected_in_place(repository: Path, blob: Digest) -> None:
    """[S8.4] A manifest that was not put stays in memory, to be corrected, until it is removed or
    the mount ends.
    """
    file = _uploads(repository) / "v1"
    with failing_with(errno.EINVAL):
        file.write_bytes(image(blob)[:-1])
    with file.open("ab") as more:
        more.write(image(blob)[-1:])
    assert _tag(repository, "v1").read_bytes() == image(blob)


def test_refused_manifest_ends_with_the_mount(storage: Path, tmp_path: Path) -> None:
    """[S8.4] Until it is removed or the mount ends."""
    with mounted(storage, tmp_path) as mount:
        put_layer_in = mount.path / "app"
        put_layer_in.mkdir()
        put_layer(put_layer_in, b"a layer")
        with failing_with(errno.EINVAL):
            (_uploads(put_layer_in) / "v1").write_bytes(b"not JSON")
    with mounted(storage, tmp_path) as mount:
        assert os.listdir(_uploads(mount.path / "app")) == []


def test_refused_manifest_is_removed(repository: Path) -> None:
    """[S8.4] Until it is removed or the mount ends."""
    file = _uploads(repository) / "v1"
    with failing_with(errno.EINVAL):
        file.write_bytes(b"not JSON")
    file.unlink()
    assert os.listdir(_uploads(repository)) == []


def test_largest_manifest_is_of_4_mib(repository: Path, blob: Digest) -> None:
    """[S8.2] More than 4 MiB are EFBIG."""
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
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S8.2] A file written to `_manifests/_uploads/` is put as a manifest at its last close.
    [S8.3] If the file's name is a tag, the manifest is tagged with it. And unpacked, by programs
    that never heard of us.
    """
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
    """[S8.2] Else EINVAL, with the reason in the log and in `user.blobfs.state`."""
    with failing_with(errno.EINVAL):
        (_uploads(repository) / "v1").write_bytes(image(blob, UNKNOWN))
    assert layers(repository) == {blob.encoded: b"a layer"}
