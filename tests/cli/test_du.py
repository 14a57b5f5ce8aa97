"""The output of ``blobfs du``."""

import json
import time
from pathlib import Path

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.inventory.scanning import close_all
from blobfs.reference import RepositoryName, Tag
from tests.support.command import invoke
from tests.support.layout import Layout, image


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    layout = Layout(FilesystemDriver.below(tmp_path))
    for name in "team/a", "team/b", "alone":
        repository = RepositoryName(name)
        layer = layout.layer(name.encode() * 1000, repository)
        layout.tag(layout.revision(image(layer), repository), Tag("v1"), repository)
    layout.blob(b"unlinked")
    return tmp_path


def du(*arguments: object) -> Result:
    return invoke("du", *arguments)


def test_largest_repository_comes_first(storage: Path) -> None:
    lines = [line.split() for line in du(storage).stdout.splitlines()]
    assert [line[0] for line in lines[:4]] == ["repository", "team/a", "team/b", "alone"]
    assert lines[-1][0] == "total"


def test_prefix_has_all_repositories_below_it(storage: Path) -> None:
    [line] = json.loads(du(storage, "team", "--json").stdout)["usage"]
    assert (line["repository"], line["tags"], line["layers"]) == ("team", 2, 2)


def test_tags_follow_their_repository(storage: Path) -> None:
    lines = du(storage, "alone", "--tags").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["repository", "alone", "alone:v1"]


def test_unknown_prefix_is_an_error(storage: Path) -> None:
    result = du(storage, "nope")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "unknown repository: nope" in result.stderr


def test_path_that_cannot_be_read_is_printed_and_ends_with_1(storage: Path) -> None:
    """[S19.47] `blobfs du` prints each path that it cannot read, and does not count it. The exit
    code is 1 then."""
    repositories = storage / paths.REPOSITORIES[1:]
    (repositories / "alone").rename(storage / "alone")
    (repositories / "alone").symlink_to(storage / "alone")
    result = du(storage)
    assert result.exit_code == 1
    assert f"{paths.REPOSITORIES}/alone cannot be read, and is not counted" in result.stderr
    assert {line.split()[0] for line in result.stdout.splitlines()[1:3]} == {"team/a", "team/b"}


@pytest.mark.parametrize("command", ["du", "verify", "gc"])
def test_state_that_cannot_be_written_is_an_error(storage: Path, command: str) -> None:
    state = storage / "missing/state.db"
    result = invoke(command, storage, "--state", state)
    assert result.exit_code == 1
    assert f"--state {state}: unable to open" in result.stderr
    assert "a directory that exists" in result.stderr


def test_directory_without_a_registry_is_an_error(tmp_path: Path) -> None:
    result = du(tmp_path / "none")
    assert result.exit_code == 1
    assert "does not exist" in result.stderr


@pytest.mark.parametrize("limit", [("--tps", "200"), ("--bwlimit", "2K")], ids=lambda each: each[0])
def test_limit_slows_a_command_down(storage: Path, limit: tuple[str, str]) -> None:
    """[S19.52] `--bwlimit` bounds the bytes per second that a process reads and writes, `--tps` the
    requests."""
    began = time.monotonic()
    assert du(storage, *limit).exit_code == 0
    close_all()
    assert time.monotonic() - began > 0.25
