"""The deadline of the checks before a mount or a command, and how a silent storage is reported."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from blobfs import open_registry
from blobfs.errors import MountRefused
from blobfs.host.preflight import Preflight
from tests.support.mounts import BLOBFS, run
from tests.support.services import free_port


@pytest.fixture
def silent() -> Iterator[str]:
    """A storage whose endpoint accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield _storage(listener.getsockname()[1])


def _storage(port: int) -> str:
    return f"s3://bucket/prefix?regionendpoint=http://127.0.0.1:{port}&region=us-east-1"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def _ignore(_: str) -> None:
    pass


def test_check_that_answers_gives_its_result_and_leaves_no_thread() -> None:
    before = threading.active_count()
    assert Preflight("/storage", _ignore).run(lambda: 7) == 7
    assert threading.active_count() == before


def test_check_that_fails_raises_its_error() -> None:
    def refuse() -> None:
        raise MountRefused("the mount point is not empty")

    with pytest.raises(MountRefused, match="the mount point is not empty"):
        Preflight("/storage", _ignore).run(refuse)


def test_file_system_that_hangs_is_reported_at_the_deadline() -> None:
    """[S6.10] `mount` and every command that reads a storage give up within 30 s if the storage
    does not answer their checks.
    """
    with pytest.raises(MountRefused) as caught:
        Preflight("/storage", _ignore, limit_s=0.1).run(threading.Event().wait)
    assert str(caught.value) == (
        "/storage did not answer within 0.1 s: the file system hangs; findmnt shows its mount"
    )


def test_checks_share_one_deadline() -> None:
    """[S6.10] `mount` and every command that reads a storage give up within 30 s if the storage
    does not answer their checks.
    """
    checks = Preflight("/storage", _ignore, limit_s=0.1)
    with pytest.raises(MountRefused):
        checks.run(threading.Event().wait)
    began = time.monotonic()
    with pytest.raises(MountRefused):
        checks.run(threading.Event().wait)
    assert time.monotonic() - began < 0.1


def test_endpoint_that_does_not_answer_is_reported_at_the_deadline(silent: str) -> None:
    """[S6.10] The error names the endpoint and the failed requests."""
    with pytest.raises(MountRefused) as caught:
        Preflight(silent, _ignore, limit_s=1.0).run(partial(open_registry, silent))
    endpoint = silent.partition("regionendpoint=")[2].partition("&")[0]
    assert str(caught.value).startswith(
        f"s3://bucket/prefix at {endpoint} did not answer within 1 s: "
    )
    assert "check regionendpoint and AWS_ENDPOINT_URL" in str(caught.value)


def test_host_that_cannot_be_reached_is_reported_at_once() -> None:
    """[S6.10] An S3 endpoint that refuses connections or has no address is an error at once."""
    began = time.monotonic()
    done = run("ls", _storage(free_port()))
    assert time.monotonic() - began < 5
    assert done.returncode == 1
    assert done.stderr.startswith(
        "Error: s3://bucket/prefix cannot be reached; check regionendpoint and AWS_ENDPOINT_URL: "
        "Could not connect to the endpoint URL"
    )
    assert "/:" not in done.stderr.replace("://", "")


def test_host_without_an_address_is_reported_at_once() -> None:
    """[S6.10] An S3 endpoint that refuses connections or has no address is an error at once."""
    began = time.monotonic()
    done = run("ls", "s3://bucket?regionendpoint=http://host.invalid&region=us-east-1")
    assert time.monotonic() - began < 5
    assert "Could not connect to the endpoint URL" in done.stderr


def test_wait_is_told_on_a_terminal(silent: str, tmp_path: Path) -> None:
    """[S6.10] On a terminal a line says after 2 s what is waited for."""
    typed = tmp_path / "typescript"
    command = f"{' '.join(BLOBFS)} ls '{silent}'"
    with subprocess.Popen(
        ["script", "--quiet", "--flush", "--command", command, typed],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.terminate()
    assert first.startswith(b"waiting for s3://bucket/prefix at http://127.0.0.1:")


@pytest.mark.long
@pytest.mark.alone
def test_commands_end_within_30_s(silent: str, tmp_path: Path) -> None:
    """[S6.10] `mount` and every command that reads a storage give up within 30 s if the storage
    does not answer their checks.
    """
    place = tmp_path / "m"
    place.mkdir()
    arguments: dict[str, list[str | Path]] = {
        "ls": [], "uploads": [], "cat": ["a:b"], "show": ["a:b"], "mount": [place]
    }  # fmt: skip
    began = time.monotonic()
    commands = [
        subprocess.Popen([*BLOBFS, name, silent, *more], stderr=subprocess.PIPE, text=True)
        for name, more in arguments.items()
    ]
    said = [command.communicate(timeout=60)[1] for command in commands]
    assert time.monotonic() - began < 30
    for error in said:
        assert "did not answer within 25 s: ListObjectsV2 ended 1× with ReadTimeoutError" in error
