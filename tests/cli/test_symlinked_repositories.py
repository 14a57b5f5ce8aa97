"""Symlinks in a storage, which a registry follows and blobfs does not."""

from pathlib import Path

import pytest

from blobfs import paths
from blobfs.reference import RepositoryName, Tag
from tests.support.command import invoke
from tests.support.copies import Copies
from tests.support.layout import APP

MOVED = RepositoryName("x/moved")
OTHER = RepositoryName("x/other")


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """A source whose repository ``x/moved`` and tag ``team/app:v2`` are behind symlinks."""
    copies = Copies(tmp_path)
    for name, tag in ((APP, "v1"), (APP, "v2"), (MOVED, "v1"), (OTHER, "v1")):
        copies.put_image(tag, b"config", name.encode() + tag.encode(), name=name)
    for path in paths.repository(MOVED), paths.tag(APP, Tag("v2")):
        place = Path(f"{copies.source}{path}")
        target = tmp_path / place.name
        place.rename(target)
        place.symlink_to(target)
    return copies


@pytest.mark.parametrize("command", ["verify", "du", "ls", "prune --remove v1", "uploads", "trash"])
def test_a_repository_behind_a_symlink_is_named_and_the_others_are_not_hindered(
    copies: Copies, command: str
) -> None:
    """[S1.9] Commands and copies name what they cannot read, and go on with the others."""
    result = invoke(*command.split(), copies.source)
    assert result.exit_code == int(command != "verify")
    assert "x/moved" in result.output
    assert "x/other" in result.output or command in {"verify", "uploads", "trash"}


def test_no_blob_is_deleted_that_something_behind_a_symlink_may_need(copies: Copies) -> None:
    """[S1.9] `gc` deletes no blob then."""
    blobs = sorted((copies.source / paths.BLOBS[1:]).rglob("data"))
    result = invoke("gc", "--layers", "--untagged", "--age", "0s", "--delete", copies.source)
    assert result.exit_code == 1
    assert "cannot be read, and may have links" in result.output
    assert sorted((copies.source / paths.BLOBS[1:]).rglob("data")) == blobs


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("", ["repository x/moved: ", "tag team/app:v2: "]),
        ("!/x/", ["repository x/moved: "]),
        ("!/team/app", ["tag team/app:v2: "]),
    ],
)
def test_a_backup_names_what_is_behind_a_symlink(
    copies: Copies, part: str, named: list[str]
) -> None:
    """[S1.9] Commands and copies name what they cannot read, and go on with the others."""
    result = copies.run("backup", source=part)
    assert result.exit_code == 1
    for name in named:
        assert name in result.stderr
    assert "use a bind mount" in result.stderr
    expected = {"team/app:v1", "x/other:v1"}
    assert set(copies.tags()) == {tag for tag in expected if tag.startswith(part[2:])}
