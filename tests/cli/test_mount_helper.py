"""``mount.blobfs``: the options of fstab, and mounts that mount(8) makes by it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from blobfs.cli.mount_helper_command import translate
from blobfs.host.preflight import create_storage
from blobfs.mountinfo import mount_at
from tests.support.mounts import eventually
from tests.support.s3_servers import S3Server
from tests.support.services import cannot

HELPER = Path(sys.executable).with_name("mount.blobfs")


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("rw", []),
        ("ro,allow_other", ["--read-only", "--allow-other"]),
        ("tag_timeout=5,attr-timeout=7", ["--tag-timeout=5", "--attr-timeout=7"]),
        ("no_read_only,no-allow-delete", ["--no-read-only", "--no-allow-delete"]),
        ('log_file="/a,b",uid=1', ["--log-file=/a,b", "--uid=1"]),
        ("cache=redis://host:1/2?a=b", ["--cache=redis://host:1/2?a=b"]),
        ("", []),
        (",,", []),
    ],
)
def test_options_become_those_of_blobfs_mount(options: str, arguments: list[str]) -> None:
    """[S19.61] An option is one of `blobfs mount` without the dashes at its start; `_` and `-` are
    the same.
    """
    assert translate([options]) == (arguments, {})


@pytest.mark.parametrize(
    "options",
    [
        "defaults,_netdev,nofail",
        "noauto,user,x-systemd.automount,x-systemd.requires=docker-registry.service",
        "rw,noexec,nosuid,nodev,user,X-mount.mkdir",  # as mount(8) gives them for "user"
        "noatime,relatime,async",
    ],
)
def test_options_for_mount_and_systemd_are_accepted(options: str) -> None:
    """[S19.61] Options for mount(8) and systemd are accepted."""
    assert translate([options]) == ([], {})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("allow_others", "unknown option 'allow_others'; known are .*allow-other, .*tag-timeout=…"),
        ("--allow-other", "unknown option"),
        ("foreground", "unknown option"),
        ("help", "unknown option"),
        ("remount", "unknown option"),
        ("tag_timeout", "option tag_timeout needs a value: tag_timeout=…"),
        ("ro=1", "option ro takes no value"),
    ],
)
def test_unknown_option_is_refused_with_the_known_ones(option: str, message: str) -> None:
    """[S19.61] An unknown option is refused, and the known ones are named."""
    with pytest.raises(click.UsageError, match=message):
        translate(["ro", option])
    assert translate([f"ro,{option}"], sloppy=True) == (["--read-only"], {})


def test_variables_are_set_but_for_secrets() -> None:
    """[S19.62] `env.NAME=VALUE` sets a variable. A password or a key is refused in the options."""
    assert translate(["env.AWS_PROFILE=backup"]) == ([], {"AWS_PROFILE": "backup"})
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "BLOBFS_MOUNT_CACHE", ""):
        with pytest.raises(click.UsageError, match="every user can read"):
            translate([f"env.{name}=x"])


def _helped(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(HELPER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_exit_codes_are_those_of_mount(tmp_path: Path) -> None:
    """[S19.62] The helper ends with 1 for a wrong option, and with 32 if the mount fails."""
    for options, code, message in [
        ("umask=9", 1, "9' is not an octal number"),
        ("cache=redis://:hidden@host", 32, "can be seen by every user"),
        ("ro", 32, "does not exist"),
    ]:
        done = _helped(tmp_path / "none", tmp_path / "mnt", "-o", options)
        assert done.returncode == code, done.stderr
        assert re.match(r"mount\.blobfs: .*" + message, done.stderr)
        assert "hidden" not in done.stderr
    assert _helped(tmp_path).returncode == 1


def test_fake_mount_checks_the_options_only(tmp_path: Path) -> None:
    """[S19.62] With `-f` the options are checked, and nothing is mounted."""
    assert _helped(tmp_path, tmp_path, "-f", "-o", "ro").returncode == 0
    assert _helped(tmp_path, tmp_path, "-f", "-o", "umask=x").returncode == 1


@pytest.fixture
def fstype() -> Iterator[str]:
    """A type of mount(8) whose helper is ours: a name of its own, as /sbin is that of all."""
    if os.geteuid() != 0:
        cannot("needs root, to link the helper in /sbin")
    name = f"blobfs{os.getpid()}"
    link = Path(f"/sbin/mount.{name}")
    link.symlink_to(HELPER)
    yield name
    link.unlink()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    root = tmp_path / "my storage"
    create_storage(root)
    return root


class Fstab:
    """A file of mounts, and the mount of its only line."""

    def __init__(self, place: Path, spec: str, fstype: str, options: str) -> None:
        self.mountpoint = place / "mnt"
        self.mountpoint.mkdir()
        self.file = place / "fstab"
        fields = [spec.replace(" ", r"\040"), self.mountpoint, fstype, options, 0, 0]
        self.file.write_text("# mounts\n" + "\t".join(map(str, fields)) + "\n")

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount and unmount by the line; the daemon must end."""
        try:
            self._run("mount", "-T", self.file, self.mountpoint)
            pid = json.loads((self.mountpoint / ".blobfs/config.json").read_text())["pid"]
            yield self.mountpoint
        except BaseException:
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=False)
            raise
        self._run("umount", self.mountpoint)
        assert mount_at(self.mountpoint) is None
        eventually(lambda: not Path(f"/proc/{pid}").exists())

    def _run(self, *command: object) -> None:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout + done.stderr == ""


@pytest.mark.fuse
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_line_of_fstab_mounts_and_umount_ends_the_daemon(
    kind: str, fstype: str, storage: Path, tmp_path: Path
) -> None:
    """[S19.60] With `mount.blobfs` in `/sbin`, `mount MOUNTPOINT` works with a line of fstab(5) of
    the type `blobfs`. `umount MOUNTPOINT` ends the daemon.
    """
    spec = str(storage)
    if kind == "file":
        spec = str(tmp_path / "config.yml")
        root = f"storage: {{filesystem: {{rootdirectory: {storage}}}}}"
        Path(spec).write_text(f"version: 0.1\n{root}\n")
    log = tmp_path / "log"
    options = f"defaults,_netdev,nofail,x-test,ro,umask=022,log_file={log}"
    with Fstab(tmp_path, spec, fstype, options).mounted() as mountpoint:
        found = mount_at(mountpoint)
        assert found is not None
        assert found.fstype == "fuse.blobfs"
        assert found.source == str(storage)
        assert os.statvfs(mountpoint).f_flag & os.ST_RDONLY
    assert f"unmounted {mountpoint}" in log.read_text()


@pytest.mark.fuse
@pytest.mark.s3
def test_line_of_fstab_mounts_a_bucket_with_keys_of_a_file(
    moto: S3Server, fstype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.60] STORAGE is that of `blobfs mount`."""
    keys = tmp_path / "credentials"
    keys.write_text(
        f"[default]\naws_access_key_id={moto.access_key}\naws_secret_access_key={moto.secret_key}\n"
    )
    with moto.bucket() as bucket:
        for variable in moto.environment():
            monkeypatch.delenv(variable, raising=False)
        options = f"_netdev,create,log_file={tmp_path}/log,env.AWS_SHARED_CREDENTIALS_FILE={keys}"
        url = moto.storage_url(bucket, "some/where")
        with Fstab(tmp_path, url, fstype, options).mounted() as mountpoint:
            (mountpoint / "demo").mkdir()
            found = mount_at(mountpoint)
            assert found is not None
            assert found.source == f"s3://{bucket}/some/where"
