"""The commands ``tag``, ``untag``, ``rm``, ``tags`` and ``stat``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blobfs import paths
from blobfs.cli import main
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import Layout, image

APP, BELOW = RepositoryName("team/app"), RepositoryName("team/app/debug")
V1, V2 = Tag("v1"), Tag("v2")


class Stored:
    """Two images in a repository, ``v1`` and one without a tag, and one in a repository below."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(FilesystemDriver.below(root))
        layer = self.layout.layer(b"l")
        self.v1 = self.layout.revision(image(self.layout.layer(b"c"), layer))
        self.untagged = self.layout.revision(image(self.layout.layer(b"d"), layer))
        self.layout.tag(self.v1, V1)
        below = self.layout.revision(image(self.layout.layer(b"b", BELOW)), BELOW)
        self.layout.tag(below, V1, BELOW)

    def blobfs(self, command: str, *arguments: object) -> Result:
        return CliRunner().invoke(main, [command, str(self.root), *map(str, arguments)])

    def done(self, command: str, *arguments: object) -> str:
        result = self.blobfs(command, *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def tags(self) -> dict[str, str]:
        rows = json.loads(self.done("tags", APP, "--json"))
        return {row["tag"]: row["digest"] for row in rows}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_tag_is_set(stored: Stored, by: str) -> None:
    stored.done("tag", f"{APP}:v1" if by == "tag" else f"{APP}@{stored.v1}", V2)
    assert stored.tags() == {"v1": str(stored.v1), "v2": str(stored.v1)}


def test_tag_that_exists_is_replaced_only_on_request(stored: Stored) -> None:
    result = stored.blobfs("tag", f"{APP}@{stored.untagged}", V1)
    assert (result.exit_code, stored.tags()["v1"]) == (1, str(stored.v1))
    assert "--replace" in result.stderr
    stored.done("tag", f"{APP}@{stored.untagged}", V1, "--replace")
    assert stored.tags()["v1"] == str(stored.untagged)


@pytest.mark.parametrize(
    "reference",
    [f"{APP}:none", f"{APP}@{Digest.of(b'none')}", f"{APP}@{Digest.of(b'l')}", "none:v1"],
)
def test_tag_of_no_manifest_is_refused(stored: Stored, reference: str) -> None:
    result = stored.blobfs("tag", reference, V2)
    assert result.exit_code == 1
    assert "unknown" in result.stderr
    assert "v2" not in stored.tags()


@pytest.mark.parametrize("command", ["untag", "rm"])
def test_removed_tag_can_be_brought_back(stored: Stored, command: str) -> None:
    said = stored.done(command, f"{APP}:v1")
    assert said == f"{APP}:v1 is removed; its manifest stays until blobfs gc --untagged\n"
    assert stored.tags() == {}
    stored.done("undelete", f"{APP}:v1")
    assert stored.tags() == {"v1": str(stored.v1)}


def test_manifest_with_a_tag_is_removed_only_by_force(stored: Stored) -> None:
    result = stored.blobfs("rm", f"{APP}@{stored.v1}")
    assert result.exit_code == 1
    assert "is tagged v1" in result.stderr
    stored.done("rm", "-f", f"{APP}@{stored.v1}")
    assert stored.tags() == {}
    assert "unknown manifest" in stored.blobfs("show", f"{APP}@{stored.v1}").stderr


def test_manifest_without_a_tag_is_removed(stored: Stored) -> None:
    name = f"{APP}@{stored.untagged}"
    assert stored.done("rm", name) == f"{name} is removed; its blobs stay until blobfs gc\n"
    assert stored.tags() == {"v1": str(stored.v1)}
    assert "unknown manifest" in stored.blobfs("rm", name).stderr
    assert stored.blobfs("verify").stdout.startswith("0 damage")


def test_repository_is_removed_with_all_it_has_and_those_below_it_stay(stored: Stored) -> None:
    """[S19.45] Repositories below a removed one stay."""
    stored.layout.put(paths.upload_startedat(APP, "id"), b"2026-01-01T00:00:00Z")
    stored.done("untag", f"{APP}:v1")
    assert "give -r" in stored.blobfs("rm", APP).stderr
    stored.done("rm", "-r", APP)
    found = json.loads(stored.done("ls", "--json"))
    assert [row["repository"] for row in found] == [BELOW]
    assert sorted(path.name for path in (stored.root / paths.repository(APP)[1:]).iterdir()) == [
        "debug"
    ]


def test_unknown_repository_is_not_removed(stored: Stored) -> None:
    assert "unknown repository" in stored.blobfs("rm", "-r", "none").stderr


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{APP}@sha256:12", "not a digest"),
        (f"{APP}:a b", "not a tag"),
        ("NO", "not a repository name"),
        ("", "not a repository name"),
    ],
)
def test_invalid_name_is_not_removed(stored: Stored, name: str, why: str) -> None:
    result = stored.blobfs("rm", "-r", name)
    assert result.exit_code == 2
    assert why in result.stderr


def test_tag_whose_manifest_is_gone_cannot_be_brought_back(stored: Stored) -> None:
    stored.done("rm", "-f", f"{APP}@{stored.v1}")
    result = stored.blobfs("undelete", f"{APP}:v1")
    assert result.exit_code == 1
    assert f"unknown manifest: {stored.v1}; it was removed after its tag" in result.stderr


def test_stat_has_a_line_for_each_platform(stored: Stored) -> None:
    [row] = json.loads(stored.done("stat", f"{APP}:v1", "--json"))
    assert (row["layers"], row["digest"], row["state"]) == (1, str(stored.v1), "ok")


@pytest.mark.parametrize("command", ["gc", "rm", "doctor"])
@pytest.mark.parametrize("url", ["redis://:hidden@localhost", "redis://localhost?password=hidden"])
def test_password_on_the_command_line_is_refused(stored: Stored, command: str, url: str) -> None:
    arguments = [f"{APP}:v1"] if command == "rm" else []
    result = stored.blobfs(command, *arguments, "--cache", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"give the URL as BLOBFS_{command.upper()}_CACHE" in result.stderr
    assert "hidden" not in result.stderr
    assert stored.tags().keys() == {"v1"}


def test_password_of_the_environment_is_accepted(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOBFS_GC_CACHE", "redis://:hidden@127.0.0.1:1")
    result = stored.blobfs("gc")
    assert "Connection refused" in result.stderr
    assert ".;" not in result.stderr
    assert "hidden" not in result.stderr
