"""The commands ``prune``, ``trash`` and ``undelete``."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blobfs import paths
from blobfs.cli import main
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import APP, Layout, image

DAY = 86_400
AGES = {"latest": 0, "v1": 400, "ci-1": 100, "ci-2": 50, "ci-3": 1}
"""The tags, and their ages in days."""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    layout = Layout(FilesystemDriver.below(tmp_path))
    revision = layout.revision(image(layout.layer(b"c")))
    for tag, days in AGES.items():
        layout.tag(revision, Tag(tag))
        then = time.time() - days * DAY
        os.utime(tmp_path / paths.tag_current_link(APP, Tag(tag))[1:], (then, then))
    return tmp_path


def blobfs(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, [command, *map(str, arguments)])


def tags(storage: Path) -> set[str]:
    result = blobfs("ls", storage, APP, "--json")
    return {row["tag"] for row in json.loads(result.stdout)}


def pruned(storage: Path, *options: object) -> set[str]:
    result = blobfs("prune", storage, "--delete", *options)
    assert result.exit_code == 0, result.output
    return set(AGES) - tags(storage)


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--remove", "ci-.*"], {"ci-1", "ci-2", "ci-3"}),
        (["--remove", "ci-.*", "--keep-last", 1], {"ci-1", "ci-2"}),
        (["--remove", "ci-.*", "--keep-within", "60d"], {"ci-1"}),
        (["--keep-last", 2], {"v1", "ci-1", "ci-2"}),
        (["--keep-within", "60d", "--keep", "v.*"], {"ci-1"}),
        (["--remove", "ci-.*", "--keep", ".*"], set()),
        (["--remove", "ci"], set()),
        (["--remove", ".*", "--repositories", "other"], set()),
    ],
)
def test_tags_go_by_the_rules(storage: Path, options: list[object], gone: set[str]) -> None:
    assert pruned(storage, *options) == gone


def test_preview_removes_nothing(storage: Path) -> None:
    """[S19.43] Without `--delete` they are only shown."""
    result = blobfs("prune", storage, "--remove", "ci-.*")
    assert result.stdout.count("to be removed") == 3
    assert "--delete" in result.stderr
    assert tags(storage) == set(AGES)


def test_rules_that_keep_all_say_so(storage: Path) -> None:
    for options in ((), ("--delete",)):
        result = blobfs("prune", storage, "--keep-last", "1000", *options)
        assert (result.exit_code, result.stderr) == (0, "the rules keep all tags\n")


def test_rules_come_from_a_file(storage: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text("rules:\n- remove: ['ci-.*']\n  keep-last: 1\n- keep: [ci-1]\n")
    assert pruned(storage, "--rules", file) == {"ci-2"}


def test_merged_key_can_be_replaced(storage: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(
        "rules:\n- &ci {remove: ['ci-.*'], keep: [ci-1]}\n- {<<: *ci, keep: [ci-2]}\n"
        "- {<<: *ci, remove: [latest]}\n"
    )
    assert pruned(storage, "--rules", file) == {"ci-3", "latest"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rules:\n- remov: [x]\n", "remov"),
        ("rules:\n- remove: ['(']\n", "regular expression"),
        ("rules:\n- keep-within: soon\n", "duration"),
        ("rules:\n- keep-within: 5215w\n", "100 years at most"),
        ("rules:\n- keep: [x]\n", "keep only"),
        ("rules: 1\n", "list"),
        ("rule: []\n", "rule"),
        ("rules:\n- keep: [a]\n  remove: [x]\n  keep: [b]\n", "rules.yml:4: keep is there twice"),
        ("rules: [{remove: [x]}]\nrules: [{remove: [y]}]\n", "rules.yml:2: rules is there twice"),
        ("rules:\n- <<: {keep: [a], keep: [b]}\n  remove: [x]\n", "keep is there twice"),
    ],
)
def test_wrong_file_is_refused(storage: Path, tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(text)
    result = blobfs("prune", storage, "--delete", "--rules", file)
    assert result.exit_code == 1
    assert why in result.stderr
    assert tags(storage) == set(AGES)


@pytest.mark.parametrize("options", [[], ["--keep", "v1"], ["--remove", "("]])
def test_command_without_a_rule_is_refused(storage: Path, options: list[str]) -> None:
    assert blobfs("prune", storage, "--delete", *options).exit_code == 2
    assert tags(storage) == set(AGES)


def test_damaged_tag_stays_and_is_named(storage: Path) -> None:
    (storage / paths.tag_current_link(APP, Tag("ci-1"))[1:]).write_bytes(b"")
    result = blobfs("prune", storage, "--delete", "--remove", "ci-.*")
    assert result.exit_code == 1
    assert "kept: link" in result.stdout


def test_removed_tag_is_listed_and_brought_back(storage: Path) -> None:
    pruned(storage, "--remove", "ci-.*")
    listed = json.loads(blobfs("trash", storage, "--json").stdout)
    assert [(row["tag"], row["state"]) for row in listed] == [
        (tag, "kept") for tag in ("ci-1", "ci-2", "ci-3")
    ]
    assert blobfs("undelete", storage, f"{APP}:ci-2").exit_code == 0
    assert tags(storage) == {"latest", "v1", "ci-2"}


def test_emptied_trash_is_empty(storage: Path) -> None:
    pruned(storage, "--remove", "ci-.*")
    blobfs("trash", storage, APP, "--empty")
    assert json.loads(blobfs("trash", storage, "--json").stdout) == []
    assert "unknown tag" in blobfs("undelete", storage, f"{APP}:ci-1").stderr
    assert "blobfs trash STORAGE" in blobfs("undelete", storage, f"{APP}:ci-1").stderr


@pytest.mark.parametrize("command", ["trash", "undelete"])
def test_unknown_repository_has_no_trash(storage: Path, command: str) -> None:
    result = blobfs(command, storage, "no/such" if command == "trash" else "no/such:v1")
    assert result.exit_code == 1
    assert "unknown repository: no/such" in result.stderr


def test_trash_is_no_repository_and_no_fault(storage: Path) -> None:
    pruned(storage, "--remove", "ci-.*")
    assert RepositoryName(APP) in blobfs("ls", storage).stdout
    assert blobfs("verify", storage).stdout.startswith("0 damage, 0 risk, 0 left-over")
