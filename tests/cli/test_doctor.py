"""``blobfs doctor`` and ``blobfs --version``."""

import json
import os
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from blobfs.cli import checkup
from blobfs.cli.checkup import OK, PROBLEM, WARNING, Finding
from blobfs.drivers.capacity import Capacity
from blobfs.drivers.s3 import account
from blobfs.fuse import device
from blobfs.host.preflight import create_storage
from tests.support.mounts import run
from tests.support.redis_server import RedisServer
from tests.support.s3_servers import S3Server


def _states(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def _storage(place: Path) -> Path:
    create_storage(place)
    return place


def test_machine_and_storage_are_checked(tmp_path: Path) -> None:
    """[S19.63] `blobfs doctor` shows a state for each check.
    [S19.64] With STORAGE it also checks that the storage answers, is a registry, can be written and
    has free space.
    """
    done = run("doctor", _storage(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    found = {row["check"]: row["state"] for row in json.loads(done.stdout)}
    del found["log"]  # not every machine has one
    assert found.pop("free space") in (OK, WARNING)
    assert found == dict.fromkeys(
        (
            *("versions", "fuse device", "right to mount", "other users", "open files", "fstab"),
            *("storage", "writing"),
        ),
        OK,
    )


def test_problem_ends_with_1_and_says_what_to_do(tmp_path: Path) -> None:
    """[S19.65] It ends with 1 if there is a problem."""
    done = run("doctor", tmp_path / "none")
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("storage")]
    assert line.split()[1] == PROBLEM
    assert line.endswith("give a registry's root directory")


def test_faulty_file_of_a_registry_is_a_problem(tmp_path: Path) -> None:
    """[S19.65] It ends with 1 if there is a problem."""
    file = tmp_path / "config.yml"
    file.write_text("version: 0.1\nstorage: {azure: {}}\n")
    [finding] = checkup.of_storage(str(file), None)
    assert (finding.check, finding.state) == ("storage", PROBLEM)
    assert "azure" in finding.found


@pytest.mark.parametrize(
    ("offset_s", "state"),
    [(None, OK), (0, OK), (59, OK), (-61, WARNING), (899, WARNING), (901, PROBLEM)],
)
def test_clock_is_judged_by_the_limit_of_s3(offset_s: float | None, state: str) -> None:
    """[S19.64] For a bucket it checks the credentials, and the clock against that of the server."""
    finding = checkup.of_clock(offset_s)
    assert finding.state == state
    assert ("NTP" in finding.advice) == (state != OK)


@pytest.mark.parametrize(
    ("available", "files", "files_free", "state"),
    [
        (2**40, 0, 0, OK),
        (2**40, 10**6, 10**5, OK),
        (2**20, 10**6, 10**5, WARNING),
        (2**40, 10**6, 100, WARNING),
        (0, 0, 0, PROBLEM),
        (2**40, 10**6, 0, PROBLEM),
    ],
)
def test_little_space_is_a_warning_and_none_a_problem(
    available: int, files: int, files_free: int, state: str
) -> None:
    """[S19.64] With STORAGE it also checks that the storage answers, is a registry, can be written
    and has free space.
    """
    assert checkup.of_space(Capacity(2**41, 0, available, files, files_free)).state == state


@pytest.mark.s3
def test_bucket_is_checked_with_its_credentials_and_clock(
    ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.64] For a bucket it checks the credentials, and the clock against that of the server."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with ceph.bucket() as bucket:
        url = ceph.storage_url(bucket)
        empty = {"credentials": OK, "clock": OK, "storage": PROBLEM}
        assert _states(checkup.of_storage(url, None)) == empty
        with closing(ceph.client()) as client:
            client.put_object(Bucket=bucket, Key="docker/registry/v2/repositories/a", Body=b"")
        found = list(checkup.of_storage(url, None))
        assert _states(found) == dict.fromkeys(
            ("credentials", "clock", "storage", "writing", "free space"), OK
        )
        assert [finding.found for finding in found[:2]] == [
            "from the environment",
            "0 s from the server's",
        ]
        with monkeypatch.context() as late:
            late.setattr(account, "time", SimpleNamespace(time=lambda: time.time() - 1000))
            assert _states(checkup.of_storage(url, None))["clock"] == PROBLEM
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        without = {"credentials": PROBLEM, "storage": PROBLEM}
        assert _states(checkup.of_storage(url, None)) == without


@pytest.mark.redis
def test_redis_is_checked_with_its_password_kept_secret(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.64] With `--cache` or a registry's file it checks the Redis."""
    storage = str(_storage(tmp_path))
    assert _states(checkup.of_storage(storage, redis_server.url))["Redis"] == OK
    monkeypatch.setenv("BLOBFS_MOUNT_CACHE", "redis://:hidden@127.0.0.1:1")
    done = run("doctor", storage)
    assert done.returncode == 1
    assert "Redis           problem" in done.stdout
    assert "hidden" not in done.stdout + done.stderr
    refused = run("doctor", storage, "--cache", "redis://:hidden@127.0.0.1:1")
    assert "can be seen by every user" in refused.stderr
    assert "hidden" not in refused.stderr


def test_line_of_fstab_without_the_helper_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.63] The checks are those of the FUSE device, the right to mount, `user_allow_other`, the
    limit of open files, the log, and the helper for fstab.
    """
    fstab = tmp_path / "fstab"
    fstab.write_text("/srv/storage /srv/registry blobfs ro 0 0\n")
    monkeypatch.setattr(checkup, "_FSTAB", fstab)
    monkeypatch.setattr(checkup, "_HELPER_PLACES", (str(tmp_path),))
    [finding] = [found for found in checkup.of_machine() if found.check == "fstab"]
    assert finding.state == PROBLEM
    assert finding.advice.startswith("as root: ln -s")
    (tmp_path / "mount.blobfs").touch(mode=0o755)
    assert _states(checkup.of_machine())["fstab"] == OK


@pytest.mark.parametrize("line", ["#/srv/storage /srv/registry blobfs ro", " # /srv blobfs blobfs"])
def test_comment_in_fstab_needs_no_helper(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.63] The checks are those of the FUSE device, the right to mount, `user_allow_other`, the
    limit of open files, the log, and the helper for fstab.
    """
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{line}\n")
    monkeypatch.setattr(checkup, "_FSTAB", fstab)
    monkeypatch.setattr(checkup, "_HELPER_PLACES", (str(tmp_path),))
    assert _states(checkup.of_machine())["fstab"] == OK


def test_missing_user_allow_other_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S19.63] The checks are those of the FUSE device, the right to mount, `user_allow_other`, the
    limit of open files, the log, and the helper for fstab.
    """
    config = tmp_path / "fuse.conf"
    config.write_text("#user_allow_other\n")
    monkeypatch.setattr(device, "_CONFIG", str(config))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert _states(checkup.of_machine())["other users"] == WARNING
    config.write_text("user_allow_other\n")
    assert _states(checkup.of_machine())["other users"] == OK


def test_version_names_what_blobfs_runs_on() -> None:
    """[S19.66] `blobfs --version` prints the versions of blobfs, Python, pyfuse3, libfuse and the
    kernel.
    """
    first, second = run("--version").stdout.splitlines()
    assert first.startswith("blobfs ")
    names = [part.split()[0] for part in second.split(", ")]
    assert names == ["Python", "pyfuse3", "libfuse", os.uname().sysname]
    assert "unknown" not in second
