"""``blobfs sync``, ``backup`` and ``restore``."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobfs import mountinfo, paths
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.command import invoke
from tests.support.copies import Copies, Noted
from tests.support.layout import APP, Layout

OTHER = RepositoryName("other")


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """A target that is a copy of the source, whose tag ``v2`` and repository ``other`` go then."""
    copies = Copies(tmp_path)
    copies.put_image("v1", b"config", b"layer")
    copies.put_image("v2", b"config", b"another layer")
    copies.put_image("v1", b"config", b"layer", name=OTHER)
    assert copies.cp().exit_code == 0
    copies.layout.driver.delete(paths.tag(APP, Tag("v2")))
    copies.layout.driver.delete(paths.repository(OTHER))
    return copies


def test_sync_deletes_what_the_source_lost_only_where_asked(copies: Copies) -> None:
    """[S22.8] `blobfs sync` copies as `cp` does. With `--delete` it then removes the tags"""
    assert copies.run("sync").exit_code == 0
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"}
    result = copies.run("sync", "--delete", "--dry-run")
    assert "would remove other" in result.stderr
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"}
    result = copies.run("sync", "--delete")
    assert result.exit_code == 0
    assert "removed team/app:v2" in result.stderr
    assert set(copies.tags()) == {"team/app:v1"}
    assert not any(path.startswith("repositories/other/") for path in copies.files(copies.target))


def test_only_what_is_selected_is_deleted(copies: Copies) -> None:
    """[S22.8] that the selection has and the source does not"""
    assert copies.run("sync", "--delete", "--include", "*:v1").exit_code == 0
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2"}
    assert copies.run("sync", "--delete", source="!/team/").exit_code == 0
    assert set(copies.tags()) == {"team/app:v1"}


def test_nothing_is_deleted_after_a_failure(copies: Copies) -> None:
    """[S22.8] Nothing is removed if something could not be copied, or without images"""
    copies.put_image("bad", b"config", b"missing")
    copies.blob(copies.source, Digest.of(b"missing")).unlink()
    result = copies.run("sync", "--delete")
    assert result.exit_code == 1
    assert "nothing was deleted" in result.stderr
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"}


@pytest.mark.parametrize("state", ["empty", "missing", "no registry"])
def test_an_empty_source_empties_no_target(copies: Copies, state: str) -> None:
    """[S22.8] Nothing is removed if something could not be copied, or without images"""
    copies.source.rename(copies.directory / "unmounted")
    if state != "missing":
        copies.source.mkdir()
    if state == "empty":
        (copies.source / "docker/registry/v2/repositories").mkdir(parents=True)
    result = copies.run("sync", "--delete")
    assert result.exit_code == 1
    assert result.stderr
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"}


def test_a_part_that_is_not_mounted_deletes_nothing(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.29] Nor is anything while a directory of the source that is in fstab(5)"""
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdz {copies.source}{paths.repository(OTHER)} ext4 defaults 0 0\n")
    monkeypatch.setattr(mountinfo, "FSTAB", fstab)
    result = copies.run("sync", "--delete")
    assert result.exit_code == 1
    assert "omit --delete" in result.stderr
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"}
    assert copies.run("sync").exit_code == 0


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_more_deletions_than_are_allowed_delete_nothing(
    copies: Copies, options: Sequence[str]
) -> None:
    """[S22.30] With `--max-delete N` nothing is removed if more than N tags would be"""
    copies.put_image("v3", b"config", b"layer")
    result = copies.run("sync", "--delete", "--max-delete", 1, *options)
    assert result.exit_code == int(not options)
    assert "nothing was deleted, as 2 tags would go" in result.stderr
    assert ("would remove other" in result.stderr) == bool(options)
    copied = set() if options else {"team/app:v3"}
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "other:v1"} | copied
    assert copies.run("sync", "--delete", "--max-delete", 2).exit_code == 0
    assert set(copies.tags()) == {"team/app:v1", "team/app:v3"}


def test_a_limit_of_deletions_without_deletions_is_refused(copies: Copies) -> None:
    """It may stand for ``--delete``, or for a copy that deletes nothing."""
    result = copies.run("sync", "--max-delete", 1)
    assert result.exit_code == 2
    assert "give both" in result.stderr


def test_a_tag_that_the_source_got_meanwhile_stays(copies: Copies) -> None:
    """A push into both places beside a sync."""
    with copies.opened() as copy:
        copy.run(Noted())
        copies.put_image("v2", b"config", b"another layer")
        removed: list[str] = []
        assert copy.delete(lambda found: removed.append(str(found))) == []
    assert removed == ["other"]
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2"}


def test_a_backup_to_the_standard_output_has_its_summary_on_stderr(copies: Copies) -> None:
    """[S22.47] The summary is printed on stderr."""
    copies.put_image("bad", b"config", b"missing")
    copies.blob(copies.source, Digest.of(b"missing")).unlink()
    result = copies.between("backup", copies.source, "oci-archive:-")
    assert result.exit_code == 1
    assert "left out: team/app:bad" in result.stderr
    assert "blob " in result.stderr
    (copies.directory / "backup.tar").write_bytes(result.stdout_bytes)
    restored = copies.directory / "restored"
    assert invoke("restore", f"oci-archive:{copies.directory}/backup.tar", restored).exit_code == 0
    assert set(copies.tags(restored)) == {"team/app:v1"}
    assert not copies.has_journal()


def test_an_archive_in_a_terminal_is_refused(copies: Copies) -> None:
    """[S22.47] an archive goes through the standard output or input, but for terminals"""
    primary, terminal = os.openpty()
    for command in ("backup", copies.source, "oci-archive:-"), ("cp", "oci-archive:-", "x"):
        done = subprocess.run(
            [sys.executable, "-m", "blobfs", *command], stdin=terminal, stdout=terminal,
            stderr=subprocess.PIPE, text=True, check=False, cwd=copies.directory,
        )  # fmt: skip
        assert done.returncode == 1
        assert "is a terminal; give it" in done.stderr
    os.close(primary)
    os.close(terminal)


def test_a_backup_has_all_but_what_is_damaged(copies: Copies) -> None:
    """[S22.4] Everything else is copied, and the exit code is 1"""
    left_over, damaged = copies.layout.layer(b"left over"), copies.layout.layer(b"damaged")
    copies.blob(copies.source, left_over).unlink()  # as garbage collections do: no damage
    assert copies.run("backup").exit_code == 0
    link = f"{copies.source}{paths.layers(APP)}/sha256/{damaged.encoded}/link"
    Path(link).write_text("no digest")
    copies.put_image("v3", b"config", b"the third layer")
    result = copies.run("backup")
    assert result.exit_code == 1
    assert f"blob {damaged}: " in result.stderr
    assert "repository" not in result.stderr
    assert set(copies.tags()) == {"team/app:v1", "team/app:v2", "team/app:v3", "other:v1"}


def test_a_tag_that_lists_referrers_is_not_deleted(copies: Copies) -> None:
    """[S22.14] A registry without the referrers API keeps referrers"""
    subject = copies.put_image("v1", b"config", b"layer")
    copies.put_referrer(subject, b"attestation")
    target = Layout(FilesystemDriver.below(copies.target))
    names = [f"sha256-{digest.encoded}" for digest in (subject, Digest.of(b"gone"))]
    for name in names:
        target.tag(subject, Tag(name))
    assert copies.run("sync", "--delete").exit_code == 0
    assert set(copies.tags()) == {"team/app:v1", f"team/app:{names[0]}"}
