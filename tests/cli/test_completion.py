"""The words that a shell offers for arguments."""

from collections.abc import Iterable
from pathlib import Path

import click
import pytest

from blobfs.cli import main
from blobfs.cli.completion import complete, complete_place, names, references, repositories
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import Layout, image


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    layout = Layout(BaseDriver(FilesystemDriver.below(tmp_path)))
    for name in ("a", "a/b", "a/c", "a-z", "b/only"):
        layout.layer(b"layer", RepositoryName(name))
    revision = layout.revision(image(layout.blob(b"{}")), RepositoryName("b/only"))
    for tag in ("v1", "v2", "latest"):
        layout.tag(revision, Tag(tag), RepositoryName("b/only"))
    return tmp_path


def _context(storage: object) -> click.Context:
    ctx = click.Context(main)
    ctx.params["storage"] = str(storage)
    return ctx


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", {"a", "a/b", "a/c", "a-z", "b/only"}),
        ("a", {"a", "a/b", "a/c", "a-z"}),
        ("a/", {"a/b", "a/c"}),
        ("a/b", {"a/b"}),
        ("b/o", {"b/only"}),
        ("c", set()),
        ("Not a name", set()),
    ],
)
def test_repositories_are_offered(typed: str, offered: Iterable[str], storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    items = complete(_context(storage), typed, repositories)
    assert {item.value for item in items} == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("a", ["a", "a-z", "a/b", "a/c"]),
        ("b", ["b/only:latest", "b/only:v1", "b/only:v2"]),
        ("b/only:v", ["b/only:v1", "b/only:v2"]),
        ("b/only:w", []),
        ("none:v", []),
        ("../x:v", []),
    ],
)
def test_tags_are_offered(typed: str, offered: list[str], storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    items = complete(_context(storage), typed, references)
    assert sorted(item.value for item in items) == offered


@pytest.mark.parametrize(
    ("typed", "offered"), [("b", ["b/only"]), ("b/only:v", ["b/only:v1", "b/only:v2"])]
)
def test_tags_are_offered_after_a_colon(typed: str, offered: list[str], storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    assert [item.value for item in complete(_context(storage), typed, names)] == offered


def test_parts_of_places_are_offered(storage: Path) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    parameter = click.Argument(["source"])
    items = complete_place(_context(""), parameter, f"{storage}!/b/only:v")
    assert [item.value for item in items] == [f"{storage}!/b/only:v1", f"{storage}!/b/only:v2"]
    assert [item.type for item in complete_place(_context(""), parameter, "/tm")] == ["file"]
    assert complete_place(_context(""), parameter, "docker://host!/") == []


@pytest.mark.parametrize("storage", ["/nonexistent", "s3://bucket/x", "ftp://x", "", "/etc/passwd"])
def test_other_storages_offer_nothing(storage: str) -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    assert complete(_context(storage), "", repositories) == []


def test_commands_and_options_are_offered() -> None:
    """[S19.69] Commands, options, and repositories and tags of a local STORAGE are completed."""
    ctx = main.make_context("blobfs", [], resilient_parsing=True)
    assert [item.value for item in main.shell_complete(ctx, "un")] == ["undelete", "untag"]
    assert "--version" in [item.value for item in main.shell_complete(ctx, "--")]
