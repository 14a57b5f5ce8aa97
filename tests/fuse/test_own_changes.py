"""What is changed through a mount shows in it at once, however long the kernel may keep things."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.layout import image
from tests.support.mounts import eventually, mounted
from tests.support.repositories import layer, put_layer, put_manifest, revision, upload

pytestmark = pytest.mark.fuse

LAYER = Digest.of(b"a layer")
IMAGE = Digest.of(image(LAYER))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("kept")
    kept = [f"--{what}-timeout=3600" for what in ("tag", "negative", "entry", "attr")]
    with mounted(place / "storage", place, "--create", "--allow-delete", *kept) as mount:
        yield mount.path


@pytest.fixture
def app(root: Path, request: pytest.FixtureRequest) -> Path:
    """A repository in which everything was looked for, and listed, before it is there."""
    path = root / f"app{len(os.listdir(root))}"
    assert not path.exists()
    path.mkdir()
    assert path.name in os.listdir(root)
    tags = path / "_manifests/tags"
    for name in (layer(path, LAYER), revision(path, IMAGE), tags / "v1", upload(path, "new")):
        assert not name.exists()
        assert os.listdir(name.parent) == []
    return path


def test_upload_shows(app: Path) -> None:
    upload(app, "new").touch()
    assert upload(app, "new").exists()
    assert os.listdir(app / "_uploads") == ["new"]
    upload(app, "new").rename(upload(app, "newer"))
    assert os.listdir(app / "_uploads") == ["newer"]
    assert not upload(app, "new").exists()
    upload(app, "newer").unlink()
    assert os.listdir(app / "_uploads") == []


def test_committed_layer_shows(app: Path) -> None:
    """[S7.18] What was closed before a lookup or a listing of the repository is committed before
    that is answered.
    """
    put_layer(app, b"a layer")
    assert layer(app, LAYER).read_bytes() == b"a layer"
    assert os.listdir(app / "_layers/sha256") == [LAYER.encoded]


def test_layer_that_an_upload_was_renamed_to_shows(app: Path) -> None:
    upload(app, "new").write_bytes(b"a layer")
    os.rename(upload(app, "new"), layer(app, LAYER))
    assert layer(app, LAYER).read_bytes() == b"a layer"
    assert os.listdir(app / "_layers/sha256") == [LAYER.encoded]
    assert os.listdir(app / "_uploads") == ["new"], "rename(2) leaves two names of one file alone"


def test_linked_layer_shows(root: Path, app: Path) -> None:
    other = root / f"{app.name}-too"
    other.mkdir()
    put_layer(app, b"a layer")
    assert not layer(other, LAYER).exists()
    assert os.listdir(other / "_layers/sha256") == []
    os.link(layer(app, LAYER), layer(other, LAYER))
    assert layer(other, LAYER).read_bytes() == b"a layer"
    assert os.listdir(other / "_layers/sha256") == [LAYER.encoded]


def test_deleted_layer_is_gone(app: Path) -> None:
    """[S9.1] With it, the repository's link goes."""
    put_layer(app, b"a layer")
    assert layer(app, LAYER).read_bytes() == b"a layer"
    layer(app, LAYER).unlink()
    assert not layer(app, LAYER).exists()
    assert os.listdir(app / "_layers/sha256") == []
    put_layer(app, b"a layer")
    assert layer(app, LAYER).read_bytes() == b"a layer"


def test_first_layer_of_another_algorithm_shows(app: Path) -> None:
    """[S1.7] A link to a digest of another algorithm is followed, and logged."""
    digest = Digest.of(b"a layer", "sha512")
    assert not layer(app, digest).exists()
    put_layer(app, b"a layer", "sha512")
    assert layer(app, digest).read_bytes() == b"a layer"
    assert set(os.listdir(app / "_layers")) == {"sha256", "sha512"}


def test_manifest_its_tag_and_its_history_show(app: Path) -> None:
    """[S8.3] If the file's name is a tag, the manifest is tagged with it."""
    put_layer(app, b"a layer")
    history = app / "_manifests/history/v1/sha256"
    assert not history.exists()
    put_manifest(app, image(LAYER), "v1")
    assert revision(app, IMAGE).read_bytes() == image(LAYER)
    assert (app / "_manifests/tags/v1").read_bytes() == image(LAYER)
    assert os.listdir(app / "_manifests/tags") == ["v1"]
    assert os.listdir(history) == [IMAGE.encoded]


def test_moved_tag_leads_to_the_other_revision(app: Path) -> None:
    """[S8.5] `ln -sfn` and `mv` retag.
    [S8.6] Who reads a tag while it is moved sees the old or the new revision, never none.
    """
    put_layer(app, b"a layer")
    tag, following = app / "_manifests/tags/v1", app / "_manifests/tags/next"
    history = app / "_manifests/history/v1/sha256"
    for number in range(5):
        content = image(LAYER) + b" " * number
        digest = put_manifest(app, content)
        following.symlink_to(f"../revisions/sha256/{digest.encoded}")
        following.rename(tag)
        assert tag.read_bytes() == content
        assert os.listdir(tag.parent) == ["v1"]
        assert len(os.listdir(history)) == number + 1
    tag.unlink()
    assert not os.path.lexists(tag)
    assert os.listdir(tag.parent) == []


def test_removed_repository_is_gone(root: Path, app: Path) -> None:
    """[S8.1] `rmdir` of an empty one works."""
    (app / "below").mkdir()
    assert "below" in os.listdir(app)
    (app / "below").rmdir()
    assert "below" not in os.listdir(app)
    app.rmdir()
    assert not app.exists()
    assert app.name not in os.listdir(root)
    app.mkdir()
    assert os.listdir(app / "_uploads") == []


def test_growing_upload_shows_its_size(app: Path) -> None:
    """[S7.7] Reading it meanwhile works."""
    with upload(app, "new").open("wb", buffering=0) as opened:
        for size in range(1, 4):
            opened.write(b"x")
            assert upload(app, "new").stat().st_size == size
    eventually(lambda: layer(app, Digest.of(b"xxx")).exists())
