"""How a mount begins and ends."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from blobfs.errors import MountRefused
from blobfs.fuse.device import obstacle
from blobfs.host.preflight import check_mountpoint, unwritable
from blobfs.mountinfo import mount_at
from tests.support.layout import APP, Layout
from tests.support.mounts import (
    BLOBFS,
    MountedRegistry,
    eventually,
    failing_with,
    has_ended,
    mounted,
    run,
)
from tests.support.services import free_port

pytestmark = pytest.mark.fuse


def _is_dead(place: Path) -> bool:
    """What was under way while the daemon died may fail otherwise; what comes later does not."""
    try:
        os.listdir(place)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def test_mount_answers_when_the_command_returns(
    layout: Layout, storage: Path, tmp_path: Path
) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s.
    """
    layout.layer(b"x")
    (tmp_path / "m").mkdir()
    done = run("mount", storage, tmp_path / "m")
    assert (done.returncode, done.stdout) == (0, f"{storage} is mounted at {tmp_path / 'm'}\n")
    assert os.listdir(tmp_path / "m") == ["team"]
    assert run("umount", tmp_path / "m").returncode == 0
    assert os.listdir(tmp_path / "m") == []


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("{tmp}/nowhere", "{mnt}"), "--create"),
        (("{tmp}", "{mnt}"), "--create"),
        (("{storage}/docker/registry", "{mnt}"), "its root is {storage}"),
        (("ftp://x/y", "{mnt}"), "give a directory"),
        (("{storage}", "{tmp}/nowhere"), "mkdir -p"),
        (("{storage}", "{tmp}/file"), "not a directory"),
        (("{storage}", "{tmp}"), "not empty"),
        (("{storage}", "{storage}/empty"), "inside the storage"),
        (("{tmp}/around/storage", "{tmp}/around"), "not empty"),
        (("{storage}", "{mnt}", "--log-file", "{tmp}/nowhere/log"), "cannot write the log"),
    ],
    ids=["missing storage", "no registry", "inside a registry", "unknown storage",
         "missing mount point", "file as mount point", "mount point in use",
         "inside the storage", "around the storage", "log that cannot be written"],
)  # fmt: skip
def test_what_cannot_be_mounted_is_refused_with_advice(
    storage: Path, tmp_path: Path, arguments: tuple[str, ...], advice: str
) -> None:
    """[S6.2] It refuses a storage that is no registry (without `--create`), and a mount point that
    is missing, not empty, mounted already, inside the storage or around it.
    """
    (tmp_path / "mnt").mkdir()
    (storage / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "around/storage/docker/registry/v2").mkdir(parents=True)
    names = {"tmp": tmp_path, "storage": storage, "mnt": tmp_path / "mnt"}
    done = run("mount", *(argument.format(**names) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert advice.format(**names) in done.stderr


def test_storage_bound_elsewhere_is_told_to_be_around_the_mount_point(
    storage: Path, tmp_path: Path
) -> None:
    """[S6.2] It refuses a storage that is no registry (without `--create`), and a mount point that
    is missing, not empty, mounted already, inside the storage or around it. The same directory
    under another name.
    """
    (storage / "empty").mkdir()
    alias = tmp_path / "alias"
    alias.mkdir()
    subprocess.run(["mount", "--bind", storage, alias], check=True)
    try:
        done = run("mount", storage, alias / "empty")
    finally:
        subprocess.run(["umount", alias], check=True)
    assert "inside the storage" in done.stderr


@pytest.mark.parametrize("name", ["stör-日本", os.fsdecode(b"n\xff")], ids=["UTF-8", "bytes"])
def test_paths_need_not_be_ascii(layout: Layout, storage: Path, tmp_path: Path, name: str) -> None:
    """[S6.7] The paths of the storage and of the mount point may have any bytes."""
    layout.layer(b"x")
    there = tmp_path / name / "storage"
    there.parent.mkdir()
    storage.rename(there)
    with mounted(there, there.parent) as mount:
        assert os.listdir(mount.path) == ["team"]


def test_second_mount_at_the_same_place_is_refused(mount: MountedRegistry) -> None:
    """[S6.2] It refuses a storage that is no registry (without `--create`), and a mount point that
    is missing, not empty, mounted already, inside the storage or around it.
    """
    done = run("mount", mount.storage, mount.path)
    assert done.returncode == 1
    assert "is a mount already" in done.stderr


def test_create_begins_a_registry_that_is_there_after_a_remount(tmp_path: Path) -> None:
    """[S6.8] `--create` begins a registry that is there after a remount."""
    for options in (["--create"], [], ["--create"]):
        with mounted(tmp_path / "new", tmp_path, *options) as mount:
            assert os.listdir(mount.path) == []
    root = tmp_path / "new/docker/registry/v2"
    assert sorted(path.name for path in root.rglob("*")) == ["blobs", "repositories"]


def test_create_where_nothing_can_be_made_says_so(tmp_path: Path) -> None:
    """[S6.8] `--create` begins a registry that is there after a remount."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "file").touch()
    done = run("mount", "--create", tmp_path / "file/storage", tmp_path / "mnt")
    assert done.returncode == 1
    assert "give a directory that you may write" in done.stderr


@pytest.fixture
def read_only(storage: Path, layout: Layout, tmp_path: Path) -> Iterator[Path]:
    """``storage``, which holds a layer, bound to another place where nothing can be written."""
    layout.layer(b"x")
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "--bind", storage, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_read_only_storage_is_mounted_read_only_and_says_so(
    read_only: Path, tmp_path: Path
) -> None:
    """[S6.9] A line on stderr and in the log says why, and `.blobfs/config.json` has it."""
    place, log = tmp_path / "m", tmp_path / "log"
    place.mkdir()
    done = run("mount", "--create", read_only, place, "--log-file", log)
    try:
        why = f"{read_only}/docker/registry/v2/blobs is on a read-only file system"
        assert done.stderr == f"{why}: the mount is read-only\n"
        assert f"WARNING blobfs.cli.notices: {why}" in log.read_text()
        assert json.loads((place / ".blobfs/config.json").read_text())["read_only"] is True
        with failing_with(errno.EROFS):
            (place / "new").mkdir()
        [layer] = (place / APP / "_layers/sha256").iterdir()
        assert layer.read_bytes() == b"x"
    finally:
        assert run("umount", place).returncode == 0


def test_storage_that_becomes_read_only_is_an_error_with_a_warning(
    read_only: Path, tmp_path: Path
) -> None:
    """[S6.9] A storage that becomes read-only later answers changes with EROFS, and the log says
    so.
    """
    subprocess.run(["mount", "-o", "remount,bind,rw", read_only], check=True)
    with mounted(read_only, tmp_path) as mount:
        subprocess.run(["mount", "-o", "remount,bind,ro", read_only], check=True)
        with failing_with(errno.EROFS):
            (mount.path / APP / "_uploads/new").write_bytes(b"new")
        assert "EROFS" in mount.warnings()[0]  # another tells of the release, a moment later


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("name", ["", "blobs", "repositories"])
def test_storage_that_the_user_may_not_write_is_known(name: str) -> None:
    """[S6.9] A directory on a read-only file system, or in which the user who mounts may not write,
    is mounted as with `--read-only`.
    """
    with TemporaryDirectory() as place, _as_another_user(place):
        root = Path(place, "storage")
        for directory in ("blobs", "repositories") if name else ("",):
            (root / "docker/registry/v2" / directory).mkdir(parents=True)
        assert unwritable(root) is None
        refused = root / "docker/registry/v2" / name
        refused.chmod(0o555)
        assert unwritable(root) == f"{refused} cannot be written by this user"
        refused.chmod(0o755)


@contextmanager
def _as_another_user(place: str) -> Iterator[None]:
    """Be a user whom the permissions of *place* hold for, who owns it."""
    os.chown(place, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_memory_is_a_storage(tmp_path: Path) -> None:
    with mounted("memory:", tmp_path) as mount:
        assert os.listdir(mount.path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts_and_ends_with_0(
    storage: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """[S6.3] SIGTERM and SIGINT unmount, and the daemon exits 0."""
    place = tmp_path / "m"
    place.mkdir()
    with subprocess.Popen([*BLOBFS, "mount", "--foreground", storage, place]) as process:
        eventually(place.is_mount)
        eventually((place / ".blobfs").exists)
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not place.is_mount()


def test_signal_while_files_are_open_unmounts_too(
    layout: Layout, storage: Path, tmp_path: Path
) -> None:
    """[S6.3] SIGTERM and SIGINT unmount, and the daemon exits 0."""
    digest = layout.layer(b"x")
    place = tmp_path / "m"
    place.mkdir()
    with subprocess.Popen([*BLOBFS, "mount", "--foreground", storage, place]) as process:
        eventually((place / ".blobfs").exists)
        fd = os.open(place / APP / "_layers/sha256" / digest.encoded, os.O_RDONLY)
        process.terminate()
        assert process.wait(10) == 0
    assert not place.is_mount()
    with failing_with(errno.ENOTCONN):
        os.close(fd)


def test_crash_leaves_a_dead_mount_that_umount_clears(storage: Path, tmp_path: Path) -> None:
    """[S6.4] A crash leaves the mount point dead (ENOTCONN)."""
    place = tmp_path / "m"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    pid = MountedRegistry(storage, place, tmp_path / "log").pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _is_dead(place))
    assert "is a mount already" in run("mount", storage, place).stderr
    assert run("umount", place).returncode == 0
    assert os.listdir(place) == []


def test_umount_returns_when_the_daemon_has_ended(storage: Path, tmp_path: Path) -> None:
    """[S6.5] `blobfs umount` returns when the daemon has ended."""
    place = tmp_path / "m"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    pid = MountedRegistry(storage, place, tmp_path / "log").pid
    assert run("umount", place).returncode == 0
    assert has_ended(pid)


def test_unmount_leaves_no_descriptor_open(storage: Path, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with mounted(storage, tmp_path) as mount:
        pass
    assert not mount.path.is_mount()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_umount_of_a_mount_in_use_says_by_whom(storage: Path, tmp_path: Path) -> None:
    """[S6.5] Where the mount is in use it says by whom."""
    with mounted(storage, tmp_path) as mount:
        with subprocess.Popen(["sleep", "60"], cwd=mount.path) as user:
            done = run("umount", mount.path)
            user.kill()
        assert done.returncode == 1
        assert f"sleep ({user.pid})" in done.stderr


def test_umount_names_a_bind_mount_that_keeps_the_daemon(storage: Path, tmp_path: Path) -> None:
    """[S6.6] `blobfs umount` says at once where that is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "m"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    pid = MountedRegistry(storage, place, tmp_path / "log").pid
    subprocess.run(["mount", "--bind", place, elsewhere], check=True)
    began = time.monotonic()
    done = run("umount", place)
    taken = time.monotonic() - began
    subprocess.run(["umount", elsewhere], check=True)
    assert done.returncode == 1
    assert f"also shows at {elsewhere}" in done.stderr
    assert taken < 10
    eventually(lambda: has_ended(pid))


def test_lazy_umount_detaches_a_mount_in_use(storage: Path, tmp_path: Path) -> None:
    """[S6.6] `blobfs umount --lazy` detaches a mount that is in use."""
    place = tmp_path / "m"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    pid = MountedRegistry(storage, place, tmp_path / "log").pid
    with subprocess.Popen(["sleep", "60"], cwd=place) as user:
        done = run("umount", "--lazy", place)
        assert mount_at(place) is None
        user.kill()
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: has_ended(pid))


def test_umount_of_what_is_no_mount_is_refused(tmp_path: Path) -> None:
    done = run("umount", tmp_path)
    assert done.returncode == 1
    assert "no blobfs is mounted" in done.stderr


def test_pid_file_is_there_while_the_mount_is(storage: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with mounted(storage, tmp_path, "--pid-file", str(pid_file)) as mount:
        assert int(pid_file.read_text()) == mount.pid
    assert not pid_file.exists()


@pytest.mark.usefixtures("as_root")
def test_user_without_the_device_or_fusermount3_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """[S6.11] A mount that cannot be made says what is missing."""
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o777
    monkeypatch.setenv("PATH", "/nowhere")
    with TemporaryDirectory() as place, _as_another_user(place):
        told = obstacle(allow_other=False)
    if mode & 0o006 == 0o006:
        assert told == "fusermount3 is missing, and only root can mount without it; install fuse3"
    else:
        assert told is not None
        assert told.startswith("/dev/fuse cannot be used: Permission denied; as root: chmod 666")


def test_fusermount3_that_is_missing_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """[S6.11] A mount that cannot be made says what is missing."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install fuse3" in str(obstacle(allow_other=False))


def test_container_without_the_capability_is_told_so(storage: Path, tmp_path: Path) -> None:
    """[S6.11] A mount that cannot be made says what is missing."""
    (tmp_path / "m").mkdir()
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin",
               *BLOBFS, "mount", str(storage), str(tmp_path / "m")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a container needs docker run --cap-add SYS_ADMIN" in done.stderr


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=["not writable", "sticky"])
def test_mount_point_of_another_user_is_refused(mode: int) -> None:
    """[S6.11] A mount point of the user's own."""
    with TemporaryDirectory() as place:
        theirs, own = Path(place, "theirs"), Path(place, "own")
        for directory in (theirs, own):
            directory.mkdir()
        theirs.chmod(mode)
        os.chown(own, 65534, 65534)
        with _as_another_user(place):
            assert check_mountpoint(own, None) == own
            with pytest.raises(MountRefused, match="belongs to the user root, and only root or"):
                check_mountpoint(theirs, None)


def test_owner_may_be_given_by_name(storage: Path, tmp_path: Path) -> None:
    with mounted(storage, tmp_path, "--uid", "nobody", "--gid", "daemon") as mount:
        st = mount.path.stat()
        assert (st.st_uid, st.st_gid) == (65534, 1)


def test_redis_that_is_down_is_told_at_the_mount(storage: Path, tmp_path: Path) -> None:
    """[S6.12] A mount whose log nobody keeps, or whose Redis does not answer, is made all the same,
    and says so on stderr.
    """
    place, log = tmp_path / "m", tmp_path / "log"
    place.mkdir()
    address = f"127.0.0.1:{free_port()}"
    done = run("mount", storage, place, "--cache", f"redis://{address}", "--log-file", log)
    assert run("umount", place).returncode == 0
    assert done.returncode == 0
    told = (
        f"the cache cannot be used; the mount works without it until it answers: redis://{address}"
    )
    assert done.stderr.startswith(told)
    assert told in log.read_text()


def test_daemon_that_fails_unexpectedly_says_why(
    tmp_path: Path,
) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s.
    """
    log_file = tmp_path / "log"
    script = (
        "import logging; from blobfs.host.daemon import daemonize\n"
        f"logging.basicConfig(filename={str(log_file)!r})\n"
        "daemonize(lambda ready: {}['no such key'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "MountRefused: unexpected: KeyError: 'no such key'; the log has the traceback" in (
        done.stderr
    )
    assert "Traceback" in log_file.read_text()


def test_daemon_that_is_killed_is_told_of() -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s.
    """
    script = (
        "import os; from blobfs.host.daemon import daemonize\n"
        "daemonize(lambda ready: os.kill(os.getpid(), 9))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "MountRefused: SIGKILL ended the daemon before it answered" in done.stderr


def test_pid_file_that_cannot_be_written_leaves_no_mount(storage: Path, tmp_path: Path) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s.
    """
    place = tmp_path / "m"
    place.mkdir()
    done = run("mount", storage, place, "--pid-file", tmp_path / "nowhere/pid")
    assert done.returncode == 1
    assert "nowhere/pid" in done.stderr
    assert mount_at(place) is None


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
def test_interrupted_mount_is_whole_or_not_there(
    storage: Path, tmp_path: Path, after_s: float
) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s. As by ^C, which goes to all of the terminal's processes.
    """
    place = tmp_path / "m"
    place.mkdir()
    with subprocess.Popen(
        [*BLOBFS, "mount", storage, place], process_group=0, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        code = process.wait(30)
    if code == 0:
        assert run("umount", place).returncode == 0
    eventually(lambda: mount_at(place) is None)


def test_log_lines_are_json_objects_if_asked(storage: Path, tmp_path: Path) -> None:
    with mounted(storage, tmp_path, "--log-format", "json") as mount:
        [line] = map(json.loads, mount.log.read_text().splitlines())
    assert line["level"] == "INFO"
    assert "is mounted at" in line["message"]
