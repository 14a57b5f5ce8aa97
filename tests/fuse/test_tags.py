"""Tags set, moved and removed through a mount."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.layout import image
from tests.support.mounts import failing_with
from tests.support.repositories import put_layer, put_manifest, revision, shell

pytestmark = pytest.mark.fuse

RETAGS = 100


def _target(digest: Digest) -> str:
    return f"../revisions/{digest.algorithm}/{digest.encoded}"


@pytest.fixture
def tags(repository: Path) -> Path:
    return repository / "_manifests/tags"


@pytest.fixture
def first(repository: Path) -> Digest:
    return put_manifest(repository, image(put_layer(repository, b"first")))


@pytest.fixture
def second(repository: Path) -> Digest:
    return put_manifest(repository, image(put_layer(repository, b"second")))


def test_ln_tags(tags: Path, first: Digest) -> None:
    """[S8.5] `ln -s ../revisions/<algorithm>/<hex> tags/<tag>` tags."""
    assert shell("ln", "-s", _target(first), tags / "v1").returncode == 0
    assert os.readlink(tags / "v1") == _target(first)
    assert (tags / "v1").read_bytes() == image(Digest.of(b"first"))
    assert os.listdir(tags) == ["v1"]


def test_ln_does_not_replace_a_tag_unasked(tags: Path, first: Digest, second: Digest) -> None:
    """[S8.5] `ln -s ../revisions/<algorithm>/<hex> tags/<tag>` tags."""
    (tags / "v1").symlink_to(_target(first))
    with failing_with(errno.EEXIST):
        (tags / "v1").symlink_to(_target(second))
    assert os.readlink(tags / "v1") == _target(first)


def test_ln_sfn_moves_a_tag(repository: Path, tags: Path, first: Digest, second: Digest) -> None:
    """[S8.5] `ln -sfn` and `mv` retag."""
    (tags / "v1").symlink_to(_target(first))
    done = shell("ln", "-sfn", _target(second), tags / "v1")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.readlink(tags / "v1") == _target(second)
    assert os.listdir(tags) == ["v1"]
    history = os.listdir(repository / "_manifests/history/v1/sha256")
    assert set(history) == {first.encoded, second.encoded}


def test_mv_moves_a_tag_over_another(tags: Path, first: Digest, second: Digest) -> None:
    """[S8.5] `ln -sfn` and `mv` retag."""
    (tags / "v1").symlink_to(_target(first))
    (tags / "v2").symlink_to(_target(second))
    os.rename(tags / "v2", tags / "v1")
    assert os.readlink(tags / "v1") == _target(second)
    assert os.listdir(tags) == ["v1"]


def test_rm_untags_and_forgets_the_history(repository: Path, tags: Path, first: Digest) -> None:
    """[S8.5] `rm` untags, and forgets the history."""
    (tags / "v1").symlink_to(_target(first))
    (tags / "v1").unlink()
    assert os.listdir(tags) == os.listdir(repository / "_manifests/history") == []
    assert not os.path.lexists(tags / "v1")
    assert revision(repository, first).exists()


def test_tag_of_an_unknown_revision_waits_for_it(tags: Path) -> None:
    """[S8.5] One whose revision is not there yet waits for it: see S8.20."""
    (tags / "v1").symlink_to(_target(Digest.of(b"unknown")))
    assert os.listdir(tags) == ["v1"]
    assert not (tags / "v1").exists()
    (tags / "v1").unlink()
    assert os.listdir(tags) == []


@pytest.mark.parametrize(
    "target",
    [
        "revisions/sha256/{encoded}",
        "../revisions/sha256/{encoded}/",
        "../revisions/sha256/../sha256/{encoded}",
        "../revisions/sha256/{encoded}0",
        "../../_layers/sha256/{encoded}",
        "/etc/passwd",
        "./v1",
        ".hidden",
    ],
)
def test_what_is_no_revision_of_the_repository_is_not_tagged(
    tags: Path, first: Digest, target: str
) -> None:
    """[S8.5] EINVAL for what is neither a revision of the repository nor a tag."""
    with failing_with(errno.EINVAL):
        (tags / "v1").symlink_to(target.format(encoded=first.encoded))
    assert os.listdir(tags) == []


def test_ln_to_a_tag_beside_it_tags(tags: Path, first: Digest, second: Digest) -> None:
    """[S8.9] `ln -s <tag> tags/<new tag>` tags what the first tag stands for now (ENOENT for an
    unknown tag). What it stands for is copied, and does not follow the other tag.
    """
    (tags / "v1").symlink_to(_target(first))
    done = shell("ln", "-s", "v1", tags / "latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.readlink(tags / "latest") == _target(first)
    assert shell("ln", "-sfn", _target(second), tags / "v1").returncode == 0
    assert os.readlink(tags / "latest") == _target(first)
    assert shell("ln", "-sfn", "v1", tags / "latest").returncode == 0
    assert os.readlink(tags / "latest") == _target(second)
    with failing_with(errno.ENOENT):
        (tags / "v2").symlink_to("unknown")


@pytest.mark.parametrize("name", [".hidden", "-v1", "a b", "é", "v1\n", "x" * 129, "sha256:00"])
def test_what_is_no_tag_is_not_made(tags: Path, first: Digest, name: str) -> None:
    """[S8.5] EINVAL for what is neither a revision of the repository nor a tag."""
    with failing_with(errno.EINVAL):
        (tags / name).symlink_to(_target(first))
    (tags / "v1").symlink_to(_target(first))
    with failing_with(errno.EINVAL):
        os.rename(tags / "v1", tags / name)
    assert os.listdir(tags) == ["v1"]


def test_tag_is_not_moved_to_another_directory(repository: Path, tags: Path, first: Digest) -> None:
    (tags / "v1").symlink_to(_target(first))
    with failing_with(errno.EXDEV):
        os.rename(tags / "v1", repository / "_uploads/v1")
    assert os.listdir(tags) == ["v1"]


def test_manifest_put_under_a_tag_moves_it(repository: Path, tags: Path, first: Digest) -> None:
    """[S8.3] If the file's name is a tag, the manifest is tagged with it."""
    (tags / "v1").symlink_to(_target(first))
    second = put_manifest(repository, image(put_layer(repository, b"second")), "v1")
    assert os.readlink(tags / "v1") == _target(second)


_READER = """
import os, sys
tag, expected = sys.argv[1], set(sys.argv[2:])
print("ready", flush=True)
count = 0
while os.getppid() != 1 and not os.path.exists(os.environ["STOP"]):
    assert os.readlink(tag) in expected
    with open(tag, "rb") as file:
        assert file.read().startswith(b"{")
    count += 1
print(count)
"""


def test_readers_of_a_moving_tag_never_miss_it(
    tags: Path, first: Digest, second: Digest, tmp_path: Path
) -> None:
    """[S8.6] Who reads a tag while it is moved sees the old or the new revision, never none. By ln
    -sfn, by mv, and by a manifest that is put, while four read.
    """
    (tags / "v1").symlink_to(_target(first))
    stop = tmp_path / "stop"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, tags / "v1", _target(first), _target(second)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"STOP": str(stop)},
        )
        for _ in range(4)
    ]  # fmt: skip
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for number in range(RETAGS):
        (tags / "next").symlink_to(_target((second, first)[number % 2]))
        os.rename(tags / "next", tags / "v1")
    stop.touch()
    for reader in readers:
        out, err = reader.communicate(timeout=30)
        assert reader.returncode == 0, err
        assert int(out) > 10
