"""A registry on several file systems, of which one is not mounted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.maintenance.gc.conftest import AT_ONCE, Garbage
from tests.maintenance.gc.test_collector import OTHER, once
from tests.maintenance.gc.test_no_links import stored
from tests.support.layout import APP, Layout, image
from tests.support.services import cannot, run

PLAIN = replace(AT_ONCE, layers=False, untagged=False)


class Team:
    """A directory of a registry with a file system of its own; *blobs* are those of its image."""

    def __init__(self, garbage: Garbage, directory: Path, own: Path) -> None:
        self.directory = directory
        self._own = own
        directory.mkdir(parents=True, exist_ok=True)
        self._own.mkdir()
        self.mount()
        self.blobs = stored(garbage.layout)

    def mount(self) -> None:
        run("mount", "--bind", self._own, self.directory)

    def unmount(self) -> None:
        run("umount", self.directory)


def push(layout: Layout) -> list[Digest]:
    """Store another tagged image in another repository; returns its blobs."""
    layer = layout.layer(b"pushed", OTHER)
    manifest = layout.revision(image(layer), OTHER)
    layout.tag(manifest, repository=OTHER)
    return [layer, manifest]


@pytest.fixture(params=["repositories/team", "repositories"])
def team(request: pytest.FixtureRequest, bare: Garbage, tmp_path: Path) -> Iterator[Team]:
    if os.geteuid() != 0:
        cannot("only root can mount a directory at another")
    directory = Path(bare.url) / paths.ROOT[1:] / request.param
    team = Team(bare, directory, tmp_path / "own")
    yield team
    subprocess.run(["umount", "-q", team.directory], check=False)


def test_blobs_stay_if_the_file_system_of_some_repositories_is_not_mounted(
    bare: Garbage, team: Team
) -> None:
    """[S19.38] No blob is deleted while a directory of the registry that was a mount point in an
    earlier run, or is one in fstab(5), has no file system, also after pushes into it. It stays.
    """
    with bare.collection(PLAIN).planned():
        pass
    team.unmount()
    garbage_blob = bare.layout.blob(b"of nobody")
    push(bare.layout)
    for _ in range(2):
        outcome = bare.delete(PLAIN)
        assert outcome.blocked is not None
        assert "nothing is mounted; mount it, or remove the journal" in outcome.blocked
        assert all(map(bare.has_blob, team.blobs))
        assert team.directory.exists()
    team.mount()
    assert bare.delete(PLAIN).blocked is None
    assert all(map(bare.has_blob, team.blobs))
    assert not bare.has_blob(garbage_blob)


@pytest.mark.parametrize("team", ["repositories/team"], indirect=True)
def test_removed_mount_point_is_expected_until_the_journal_is_removed(
    bare: Garbage, team: Team
) -> None:
    """[S19.38] That ends when the journal is removed, and the line in fstab(5).

    `verify --repair unlink` removes an empty directory.
    """
    used = push(bare.layout)
    bare.delete(PLAIN)
    team.unmount()
    team.directory.rmdir()
    outcome = bare.delete(PLAIN)
    assert outcome.blocked is not None
    assert f"remove the journal {bare.state}" in outcome.blocked
    bare.state.unlink()
    assert bare.delete(PLAIN).blocked is None
    assert [*map(bare.has_blob, [*team.blobs, *used])] == [False, False, True, True]


@pytest.mark.parametrize("team", ["repositories/team"], indirect=True)
def test_file_system_that_is_unmounted_meanwhile_keeps_blobs(bare: Garbage, team: Team) -> None:
    push(bare.layout)
    bare.delete(PLAIN)
    blob = bare.layout.blob(b"linked meanwhile")

    def link_and_unmount() -> None:
        bare.layout.link(paths.layers(APP), blob)
        team.unmount()

    outcome = bare.delete(PLAIN, wait=once(link_and_unmount))
    assert outcome.blocked is not None
    assert bare.has_blob(blob)
    assert not bare.has_aside(blob)


@pytest.mark.parametrize("team", ["repositories/team"], indirect=True)
def test_first_run_knows_the_mount_points_of_fstab(
    bare: Garbage, team: Team, tmp_path: Path
) -> None:
    """[S19.38] No blob is deleted while a directory of the registry that was a mount point in an
    earlier run, or is one in fstab(5), has no file system.
    """
    push(bare.layout)
    team.unmount()
    (tmp_path / "fstab").write_text(f"# {bare.url}\n/dev/sdz1 {team.directory} ext4 defaults 0 2\n")
    collect = (
        'mount --bind "$1" /etc/fstab && exec "$2" -m blobfs gc --delete --age 0s --grace 0s'
        ' --settle 0s --state "$3" "$4"'
    )
    command = ["unshare", "--mount", "sh", "-c", collect, "sh"]
    arguments: list[str | Path] = [tmp_path / "fstab", sys.executable, tmp_path / "gc", bare.url]
    found = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert "no blob can be deleted: /docker/registry/v2/repositories/team is a mount" in (
        found.stdout + found.stderr
    )
    assert all(map(bare.has_blob, team.blobs))
    assert team.directory.exists()
