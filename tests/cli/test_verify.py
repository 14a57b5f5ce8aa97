"""The output of ``blobfs verify``."""

import json
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from blobfs import paths
from blobfs.cli.inventories import take_inventory
from blobfs.cli.reading import Reading
from blobfs.drivers.factory import driver_for
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.rate_limit import RateLimits
from blobfs.host import preflight
from blobfs.inventory.scanning import close_all
from blobfs.reference import Tag
from tests.support.command import invoke
from tests.support.layout import Layout, image
from tests.support.s3_servers import S3Server


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(FilesystemDriver.below(tmp_path))
    layout.tag(layout.revision(image(layout.layer(b"c"), layout.layer(b"l"))), Tag("v1"))
    return layout


def verify(*arguments: object) -> Result:
    return invoke("verify", *arguments)


@pytest.mark.usefixtures("layout")
def test_healthy_storage_ends_with_0(tmp_path: Path) -> None:
    result = verify(tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("0 damage, 0 risk, 0 left-over in 1 repositories, 5 links")


@pytest.mark.usefixtures("layout")
def test_unknown_repository_is_an_error(tmp_path: Path) -> None:
    result = verify(tmp_path, "team/app", "team/ap")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "unknown repository: team/ap" in result.stderr


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


@pytest.mark.s3
def test_look_after_the_repairs_is_not_subject_to_the_deadline_of_the_first_checks(
    ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.4] The storage is checked again afterwards."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    with ceph.bucket() as bucket:
        url = ceph.storage_url(bucket)
        with closing(driver_for(url)) as driver:
            Layout(driver).layer(b"l")
        given = Reading(None, RateLimits()).storage(url)
        late = SimpleNamespace(monotonic=lambda: time.monotonic() + preflight.DEADLINE_S)
        monkeypatch.setattr(preflight, "time", late)
        try:
            with take_inventory(given, None, None) as inventory:
                assert sum(len(blobs) for blobs in inventory.journal.unhashed()) == 1
        finally:
            close_all()


@pytest.mark.parametrize("command", ["du", "gc", "verify"])
def test_storage_that_does_not_exist_is_refused(command: str, tmp_path: Path) -> None:
    result = invoke(command, tmp_path / "none", "--bwlimit", "50M")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "none does not exist" in result.stderr


@pytest.mark.usefixtures("layout")
def test_source_of_repairs_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    result = verify(tmp_path, "--repair", "fetch", "--repair-from", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "none does not exist" in result.stderr
