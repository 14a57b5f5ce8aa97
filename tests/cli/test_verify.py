"""The output of ``blobfs verify``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blobfs import paths
from blobfs.cli import main
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import Tag
from tests.support.layout import Layout, image


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(FilesystemDriver.below(tmp_path))
    layout.tag(layout.revision(image(layout.layer(b"c"), layout.layer(b"l"))), Tag("v1"))
    return layout


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


@pytest.mark.usefixtures("layout")
def test_healthy_storage_ends_with_0(tmp_path: Path) -> None:
    result = verify(tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("0 damage, 0 risk, 0 left-over in 1 repositories, 5 links")


def test_damage_ends_with_1_and_names_the_image(layout: Layout, tmp_path: Path) -> None:
    """[S19.1] It exits with 1 if there is damage."""
    layout.driver.delete(paths.blob_data(layout.blob(b"l")))
    result = verify(tmp_path)
    assert result.exit_code == 1
    assert "damage: blob-missing" in result.stdout
    assert "needed by team/app:v1" in result.stdout


def test_left_over_ends_with_0(layout: Layout, tmp_path: Path) -> None:
    layout.put(f"{paths.REPOSITORIES}/stray")
    result = verify(tmp_path, "--json")
    assert result.exit_code == 0
    [fault] = json.loads(result.stdout)["faults"]
    assert (fault["severity"], fault["kind"]) == ("risk", "stray")


def test_name_with_control_characters_is_escaped(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / paths.REPOSITORIES[1:] / "a\x1b[2Jb").write_bytes(b"")
    assert "\x1b" not in verify(tmp_path).stdout
