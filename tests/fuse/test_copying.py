"""Repositories that real programs copy from a mount into another one."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.copying_programs import (
    PROGRAMS,
    copy,
    differences,
    kill,
    make_registry,
    sent_files,
    start,
)
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted, run
from tests.support.repositories import shell
from tests.support.services import DockerRegistry

pytestmark = [pytest.mark.fuse, pytest.mark.backup]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mount of a registry that is copied."""
    place = tmp_path_factory.mktemp("source")
    make_registry(place / "storage")
    with mounted(place / "storage", place, "--read-only") as mount:
        yield mount.path


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount into which tests copy."""
    place = tmp_path_factory.mktemp("targets")
    with mounted(place / "storage", place, "--create") as mount:
        yield mount


@pytest.fixture
def target(targets: MountedRegistry) -> Path:
    """A new directory of a test's own."""
    path = targets.path / f"to-{uuid.uuid4()}"
    path.mkdir()
    return path


@pytest.mark.parametrize("program", ["cp -a", "tar"])
def test_program_copies_a_tree_of_repositories(
    source: Path, target: Path, tmp_path: Path, program: str
) -> None:
    """[S8.17] A file that a program makes in `_layers/<algorithm>/` is an upload."""
    copy(program, source, target, tmp_path)
    assert differences(source, target) == ""


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_copies_a_tree_of_repositories(
    source: Path, target: Path, tmp_path: Path, program: str
) -> None:
    """[S8.17] A file that a program makes in `_layers/<algorithm>/` is an upload."""
    copy(program, source, target, tmp_path)
    assert differences(source, target) == ""


def test_cp_makes_the_repository(source: Path, target: Path) -> None:
    """[S8.21] `mkdir` of a directory that a repository always has succeeds, and changes nothing.
    [S8.24] A second copy of the same files changes no layer and no manifest.
    """
    done = shell("cp", "-a", source / "team", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(source / "team", target / "team") == ""
    for again in ("-au", "-an"):
        done = shell("cp", again, source / "team", target)
        assert (done.returncode, done.stderr) == (0, "")
    assert differences(source / "team", target / "team") == ""
    os.mkdir(target / "team/_layers")
    with failing_with(1):
        os.mkdir(target / "team/_layers/new")


def test_second_rsync_sends_nothing(registry: DockerRegistry, tmp_path: Path) -> None:
    """[S8.22] In a directory, a second `rsync -aH` sends nothing, nor does one with `--checksum`.
    What is copied is right: blobfs finds no fault, and a registry serves it.
    """
    with (
        mounted(registry.root, tmp_path, "--read-only") as source,
        mounted(tmp_path / "copy", tmp_path, "--create") as target,
    ):
        paths = (f"{source.path}/", f"{target.path}/")
        assert sent_files("-aH", *paths) > 0
        assert differences(source.path, target.path) == ""
        assert sent_files("-aH", *paths) == 0
        assert sent_files("-aH", "--checksum", *paths) == 0
        assert shell("rsync", "-aHX", "--itemize-changes", *paths).stderr == ""
    assert run("verify", tmp_path / "copy", "--content").returncode == 0
    with DockerRegistry.serving(tmp_path / "copy") as copied:
        for image in ("library/multi:latest", "team/app:v1"):
            subprocess.run(
                ["skopeo", "--insecure-policy", "copy", "--all", "--quiet",
                 "--src-tls-verify=false", f"docker://{copied.address}/{image}",
                 f"dir:{tmp_path}/{uuid.uuid4()}"],
                check=True,
            )  # fmt: skip


def test_rsync_that_was_killed_is_finished_by_another(source: Path, target: Path) -> None:
    """[S8.17] What was left of an earlier copy is replaced."""
    running = start("rsync", "-aH", "--bwlimit=100", f"{source}/", f"{target}/")
    eventually(lambda: any(target.glob("team/_uploads/.sha256:*")) or running.poll() is not None)
    kill(running)
    assert differences(source, target) != ""
    assert shell("rsync", "-aH", "--delete", f"{source}/", f"{target}/").returncode == 0
    assert differences(source, target) == ""


def test_copy_goes_on_after_a_crash_of_the_mount(source: Path, tmp_path: Path) -> None:
    """[S8.19] The end of the mount or a crash does not lose it."""
    place = tmp_path / "mnt"
    place.mkdir()
    run("mount", "--create", tmp_path / "copy", place, "--log-file", tmp_path / "log")
    shell("rsync", "-rl", "--exclude=_layers", f"{source}/", f"{place}/")
    os.kill(MountedRegistry(tmp_path, place, tmp_path).pid, signal.SIGKILL)
    subprocess.run(["umount", "-l", place], check=True)
    with mounted(tmp_path / "copy", tmp_path) as again:
        assert any(again.path.rglob("_manifests/_uploads/sha256:*"))
        assert shell("rsync", "-aH", f"{source}/", f"{again.path}/").returncode == 0
        assert differences(source, again.path) == ""


def test_next_mount_goes_on_with_tags_that_wait(tmp_path: Path) -> None:
    """[S8.25] Tags that wait at the end of a mount are kept in `--state-dir` for the next one at
    the same place, which goes on.
    """
    options = ("--create", "--state-dir", str(tmp_path / "state"))
    target = f"../revisions/sha256/{'0' * 64}"
    with mounted(tmp_path / "copy", tmp_path, *options) as first:
        (first.path / "app").mkdir()
        (first.path / "app/_manifests/tags/v1").symlink_to(target)
    first.path.rmdir()  # so that the next one is at the same place
    with mounted(tmp_path / "copy", tmp_path, *options) as again:
        assert json.loads((again.path / ".blobfs/waiting.json").read_text()) == [
            {"repository": "app", "kind": "tag", "name": "v1", "waits_for": f"sha256:{'0' * 64}"}
        ]
        (again.path / "app").mkdir()
        (again.path / "app/_manifests/tags/v1").unlink()
    assert os.listdir(tmp_path / "state") == []
