"""The command ``blobfs gc``, as a person uses it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from blobfs.cli.commands import main
from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.layout import APP, Layout, image
from tests.support.mounts import run

ZERO = ("--age", "0s", "--grace", "0s", "--settle", "0s")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with an image that no tag leads to, and a blob without a link."""
    root = tmp_path / "storage"
    root.mkdir()
    layout = Layout(BaseDriver(FilesystemDriver.below(root)))
    layout.revision(image(layout.layer(b"config")))
    layout.blob(b"of nobody")
    return root


def test_plan_without_entries_says_so(storage: Path, tmp_path: Path) -> None:
    done = run("gc", storage, "--state", tmp_path / "state")
    assert (done.returncode, done.stderr) == (0, "there is nothing to delete\n")
    done = run("gc", storage, "--delete", "--state", tmp_path / "state")
    assert (done.returncode, done.stderr) == (0, "there is nothing to delete\n")


def test_plan_is_a_table_and_a_file_that_can_be_applied(storage: Path, tmp_path: Path) -> None:
    options = ("--state", tmp_path / "state", *ZERO)
    plan = tmp_path / "plan"
    done = run("gc", storage, "--layers", "--untagged", "--plan", plan, *options)
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    size = len(image(Digest.of(b"config")))
    assert rows == [
        ["repository", "kind", "count", "bytes", "when"],
        ["(unlinked)", "blob", "1", "9", "now"],
        [APP, "layer", "1", "0", "now"],
        [APP, "revision", "1", "0", "now"],
        [APP, "blob", "2", str(size + 6), "now"],
        ["total", "5", str(size + 15)],
    ]
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["layer", "revision", "blob", "blob", "blob"]
    done = run("gc", storage, "--layers", "--untagged", "--apply", plan, "--json", *options)
    assert done.returncode == 0, done.stderr
    found = {(row["repository"], row["kind"], row["count"]) for row in json.loads(done.stdout)}
    assert found == {
        ("(unlinked)", "blob", 1), (APP, "layer", 1), (APP, "revision", 1), (APP, "blob", 2),
    }  # fmt: skip
    assert not list(storage.rglob("data*"))


def test_repository_that_cannot_be_read_ends_with_1(storage: Path, tmp_path: Path) -> None:
    [link] = (storage / "docker/registry/v2/repositories" / APP / "_layers").rglob("link")
    link.write_bytes(b"")
    done = run("gc", storage, "--layers", "--state", tmp_path / "state")
    assert done.returncode == 1
    assert f"repository {APP} keeps its links: " in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cache", "redis://127.0.0.1:1"), "--cache"),
        (("--apply", "{}"), "plan:1: not an entry of a plan"),
        (("--plan", "{}", "--delete"), "deletes nothing"),
        (("--age", "999999d"), "100 years at most"),
    ],
)
def test_unfit_options_are_refused(
    storage: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    plan = tmp_path / "plan"
    plan.write_text("{}\n")
    given = [str(plan) if text == "{}" else text for text in options]
    state = str(tmp_path / "state")
    done = CliRunner().invoke(main, ["gc", str(storage), "--state", state, *given])
    assert done.exit_code != 0
    assert message in done.stderr
    assert done.stdout == ""
