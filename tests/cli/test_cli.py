"""The command line, as a person uses it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from blobfs.cli import main
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.command import invoke
from tests.support.layout import APP, Layout, image
from tests.support.mounts import BLOBFS, run
from tests.support.services import DockerRegistry, inspect

pytestmark = pytest.mark.registry


def test_ls_shows_repositories_as_a_table(registry: DockerRegistry) -> None:
    done = run("ls", registry.root)
    header, *rows = done.stdout.splitlines()
    assert header.split() == [
        "repository", "tags", "manifests", "layers", "bytes", "tagged", "damaged",
    ]  # fmt: skip
    assert [row.split()[0] for row in rows] == [
        "library/multi", "library/small", "team/app", "team/app/debug", "total",
    ]  # fmt: skip


def test_ls_of_damage_ends_with_1(tmp_path: Path) -> None:
    layout = Layout(BaseDriver(FilesystemDriver.below(tmp_path)))
    layout.tag(layout.revision(image(layout.blob(b"{}"))))
    done = run("ls", tmp_path, APP)
    assert done.returncode == 1
    assert "has no link" in done.stdout


def test_show_prints_an_image_with_readable_sizes(registry: DockerRegistry) -> None:
    done = run("show", "-h", registry.root, "library/small:v2")
    assert done.returncode == 0
    assert "linux/amd64" in done.stdout
    assert "1.0M  sha256:" in done.stdout
    shown = json.loads(run("show", "--json", registry.root, "library/small:v2").stdout)
    manifest = inspect(registry.address, "library/small", "v2")
    assert shown["digest"] == manifest.digest
    layers = [step["digest"] for step in shown["images"][0]["steps"] if step["digest"]]
    assert tuple(layers) == manifest.blobs[1:]


def test_ls_json_has_an_object_a_repository(registry: DockerRegistry) -> None:
    rows = json.loads(run("ls", registry.root, "--json").stdout)
    found = {row["repository"]: row for row in rows}
    assert found["library/small"]["tags"] == 2
    assert found["team/app"]["bytes"] > 10**6


def test_ls_of_a_repository_shows_its_tags(registry: DockerRegistry) -> None:
    tags = json.loads(run("ls", registry.root, "library/small", "--json").stdout)
    assert {row["tag"]: row["digest"] for row in tags} == {
        tag: inspect(registry.address, "library/small", tag).digest for tag in ("v1", "v2")
    }


def test_cat_of_a_tag_prints_the_manifest(registry: DockerRegistry) -> None:
    manifest = inspect(registry.address, "team/app", "v1")
    assert run("cat", registry.root, "team/app:v1").stdout.encode() == manifest.content


def test_cat_of_a_digest_prints_the_blob(registry: DockerRegistry) -> None:
    digest = inspect(registry.address, "team/app", "v1").blobs[-1]
    command = [*BLOBFS, "cat", str(registry.root), f"team/app@{digest}"]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert f"sha256:{hashlib.sha256(printed).hexdigest()}" == digest


def test_cat_into_a_closed_pipe_ends_quietly(registry: DockerRegistry) -> None:
    digest = inspect(registry.address, "team/app", "v1").blobs[-1]
    command = f"{' '.join(BLOBFS)} cat {registry.root} team/app@{digest} | head -c 10 | wc -c"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("10", "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("ls", "/nowhere"), 1, "/nowhere"),
        (("ls", "{root}/docker"), 1, "its root is {root}"),
        (("cat", "{root}", "no/such:v1"), 1, "unknown repository: no/such"),
        (("ls", "{root}", "no/such"), 1, "unknown repository: no/such"),
        (("ls", "{root}", "no/such"), 1, "blobfs ls STORAGE lists the repositories"),
        (("ls", "{root}", "NO"), 2, "not a repository name"),
        (("cat", "{root}", "team/app"), 2, "neither a :tag nor a @digest"),
        (("cat", "{root}", "team/app:none"), 1, "unknown tag: none"),
        (("cat", "{root}", "team/app:none"), 1, "blobfs ls STORAGE REPOSITORY lists the tags"),
        (("ls", "/no\x1bwhere"), 1, "/no\\x1bwhere does not exist"),
        (("cat", "{root}", "team/app@sha256:12"), 2, "not a digest"),
        (("mount", "{root}", "/mnt", "--umask", "9"), 2, "not an octal number"),
        (("mount", "{root}", "/mnt", "--tag-timeout", "-1"), 2, "--tag-timeout"),
        (("mount", "{root}", "/mnt", "--uid", "no-one"), 2, "there is no user 'no-one'"),
        (("mount", "{root}", "/mnt", "--gid", "no-one"), 2, "there is no group 'no-one'"),
        (("mount", "{root}", "/mnt", "--gid", "4294967295"), 2, "too large for a group"),
        (("unmount", "/nowhere"), 1, "no blobfs is mounted at /nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_mistake_is_told_in_a_sentence(
    registry: DockerRegistry, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = invoke(*(argument.format(root=registry.root) for argument in arguments))
    assert done.exit_code == code
    assert told.format(root=registry.root) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", "mount", "umount", "unmount", "cat", "uploads"])
def test_h_is_help(command: str) -> None:
    done = invoke(*command.split(), "-h")
    assert (done.exit_code, done.stdout.split()[0]) == (0, "Usage:")


def test_help_has_every_command() -> None:
    shown = [line.split()[0] for line in run("--help").stdout.splitlines() if line[:2] == "  "]
    assert set(main.list_commands(click.Context(main))) <= set(shown)


@pytest.mark.parametrize("command", ["", "uploads", "config"])
def test_no_command_is_described_by_half_a_sentence(command: str) -> None:
    lines = invoke(*command.split(), "--help").stdout.splitlines()
    assert not [line for line in lines if line.startswith(" ") and line.endswith("...")]


@pytest.mark.parametrize("command", ["ls", "uploads"])
@pytest.mark.parametrize("name", ["", "nowhere"], ids=["no registry", "missing"])
def test_only_mount_advises_to_create(tmp_path: Path, command: str, name: str) -> None:
    done = invoke(command, tmp_path / name)
    assert done.exit_code == 1
    assert "root directory" in done.stderr
    assert "--create" not in done.stderr


def test_options_can_be_given_by_the_environment(registry: DockerRegistry) -> None:
    command = [*BLOBFS, "mount", str(registry.root), "/nowhere/at/all"]
    done = subprocess.run(
        command, env={"BLOBFS_MOUNT_UMASK": "9"}, capture_output=True, text=True, check=False
    )
    assert "not an octal number" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--serve",), "add --http PORT"),
        (("--http", "0", "--serve", "--serve-redirect"), "s3://"),
        (("--serve-redirect",), "--serve"),
        (("--cache", "redis://:secret@localhost"), "BLOBFS_MOUNT_CACHE"),
        (("--cache", "redis://localhost/?password=secret"), "BLOBFS_MOUNT_CACHE"),
        (("--cache", "disk"), "'disk' is not a descriptor cache"),
        (("--config", "/nowhere.yml"), "/nowhere.yml: No such file"),
        (("--read-only", "--allow-delete"), "refuses what --allow-delete allows; give one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mount_is_refused_in_a_sentence(
    tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "mnt").mkdir()
    done = run("mount", "--create", tmp_path / "storage", tmp_path / "mnt", *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mnt").is_mount()


def test_module_and_program_are_the_same_command(tmp_path: Path) -> None:
    programs = [[sys.executable, "-m", "blobfs"], [str(Path(sys.executable).with_name("blobfs"))]]
    done = [
        subprocess.run(
            [*program, "ls", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
        )
        for program in programs
    ]
    assert [each.returncode for each in done] == [1, 1]
    assert done[0].stderr == done[1].stderr == run("ls", tmp_path).stderr


def test_the_help_imports_no_command() -> None:
    code = (
        "import sys; from blobfs.cli import main; main(['--help'], standalone_mode=False);"
        "print(*(name for name in sys.modules if name.endswith('_command')), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Bring back a removed tag." in done.stdout
    assert done.stdout.splitlines()[-1] == "end"
