"""Programs that copy trees store what repositories share once, and never read it twice."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MountedRegistry, mounted
from tests.support.services import DockerRegistry, run

pytestmark = [pytest.mark.fuse, pytest.mark.registry, pytest.mark.backup]

_OWN_READS = 4  # what reading stats.json takes


@pytest.fixture
def mount(registry: DockerRegistry, tmp_path: Path) -> Iterator[MountedRegistry]:
    """A mount of its own, so that its reads can be counted."""
    with mounted(registry.root, tmp_path) as mount:
        yield mount


def _blob_bytes(registry: DockerRegistry) -> int:
    data = registry.root.glob("docker/registry/v2/blobs/sha256/*/*/data")
    return sum(file.stat().st_size for file in data)


def _reads(mount: MountedRegistry) -> int:
    """How often the mount was read so far, the kernel's page cache being empty from now on."""
    Path("/proc/sys/vm/drop_caches").write_text("1\n")
    return int(mount.control("stats.json")["requests"]["read"]["count"])


def test_tar_stores_a_shared_blob_once(mount: MountedRegistry, registry: DockerRegistry) -> None:
    """[S3.1] `tar`, `rsync -H`, `borg`, `restic` and `du` store or count it once."""
    archive = subprocess.run(
        ["tar", "--create", "--directory", mount.path, "."], capture_output=True, check=True
    ).stdout
    blobs = _blob_bytes(registry)
    assert blobs < len(archive) < blobs + 500_000  # headers, for each name
    [listed] = [run("tar", "--list", "--verbose", "--file", _saved(archive, mount.path.parent))]
    assert b"link to" in listed


def _saved(content: bytes, directory: Path) -> Path:
    file = directory / "archive.tar"
    file.write_bytes(content)
    return file


def test_du_counts_a_shared_blob_once(mount: MountedRegistry, registry: DockerRegistry) -> None:
    """[S3.1] `tar`, `rsync -H`, `borg`, `restic` and `du` store or count it once."""
    shown = int(run("du", "--bytes", "--summarize", mount.path).split()[0])
    assert shown == _blob_bytes(registry) + _symlink_bytes(mount.path)


def _symlink_bytes(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_symlink())


def test_second_rsync_transfers_no_file(mount: MountedRegistry, tmp_path: Path) -> None:
    """[S3.1] `tar`, `rsync -H`, `borg`, `restic` and `du` store or count it once.
    [S3.2] Every field of `stat` is the same after a remount and on another host. Also after a
    remount.
    """
    copy = tmp_path / "copy"
    command = ("rsync", "-aH", "--itemize-changes", f"{mount.path}/", copy)
    assert b">f" in run(*command)
    assert run(*command) == b""
    links = {path.stat().st_ino for path in copy.rglob("*") if path.is_file()}
    files = [path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(links) < len(files)
    with mounted(mount.storage, tmp_path) as again:
        assert run(*command[:3], f"{again.path}/", copy) == b""


def test_second_borg_create_reads_no_file_again(
    mount: MountedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S3.2] Every field of `stat` is the same after a remount and on another host."""
    monkeypatch.setenv("BORG_BASE_DIR", str(tmp_path / "borg"))
    archive = tmp_path / "archive"
    run("borg", "init", "--encryption", "none", archive)
    monkeypatch.chdir(mount.path)
    run("borg", "create", "--files-cache", "ctime,size,inode", f"{archive}::one", ".")
    reads = _reads(mount)
    listed = run("borg", "create", "--list", "--json", f"{archive}::two", ".")
    assert json.loads(listed)["archive"]["stats"]["deduplicated_size"] < 100_000
    assert _reads(mount) - reads <= _OWN_READS


def test_second_restic_backup_reads_no_file_again(
    mount: MountedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S3.2] Every field of `stat` is the same after a remount and on another host."""
    monkeypatch.setenv("RESTIC_PASSWORD", "only a test")
    monkeypatch.setenv("HOME", str(tmp_path))
    restic = ("restic", "--repo", tmp_path / "restic", "--no-cache")
    run(*restic, "init")
    run(*restic, "backup", mount.path)
    reads = _reads(mount)
    messages = run(*restic, "backup", "--json", mount.path).splitlines()
    summary = json.loads(messages[-1])
    assert (summary["files_new"], summary["files_changed"]) == (0, 0)
    assert summary["files_unmodified"] > 10
    assert _reads(mount) - reads <= _OWN_READS


def test_restored_copy_has_the_bytes(mount: MountedRegistry, tmp_path: Path) -> None:
    """[S2.1] A file's bytes are the blob's. tar and back again."""
    copy = tmp_path / "copy"
    copy.mkdir()
    run("sh", "-c", f"tar -C {mount.path} -c . | tar -C {copy} -x")
    for path in mount.path.rglob("*"):
        other = copy / path.relative_to(mount.path)
        assert path.is_symlink() == other.is_symlink()
        if path.is_file():
            assert path.read_bytes() == other.read_bytes()
    assert os.listdir(copy) != []
