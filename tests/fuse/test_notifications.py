"""What is done in a mount reaches the endpoints of the configuration, whatever comes between."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.layout import image
from tests.support.mounts import MountedRegistry, eventually, mounted, run, run_anew
from tests.support.notification_endpoint import Receiver
from tests.support.repositories import layer, put_layer, put_manifest, revision
from tests.support.services import free_port

pytestmark = pytest.mark.fuse

SECRETS = ("user:password", "token=hidden", "Bearer of")


@pytest.fixture
def port() -> int:
    """Where the endpoint is, once somebody serves there."""
    return free_port()


@pytest.fixture
def options(tmp_path: Path, port: int) -> tuple[str, ...]:
    """Of a mount that notifies the endpoint, and has time."""
    return configured(tmp_path, port, pulls=False)


def configured(tmp_path: Path, port: int, *, pulls: bool) -> tuple[str, ...]:
    endpoint = {
        "name": "receiver",
        "url": f"http://user:password@127.0.0.1:{port}/events?token=hidden",
        "headers": {"X-Key": ["Bearer of"]},
        "timeout": "60s",
        "threshold": 2,
        "backoff": "100ms",
    }
    config = tmp_path / "config.yml"
    config.write_text(
        json.dumps({"notifications": {"events": {"pulls": pulls}, "endpoints": [endpoint]}})
    )
    return "--config", str(config), "--state-dir", str(tmp_path / "state"), "--allow-delete"


@pytest.fixture
def receiver(port: int) -> Iterator[Receiver]:
    with Receiver.serving(port) as receiver:
        yield receiver


def made(mount: MountedRegistry, name: str) -> Path:
    """A new repository."""
    path = mount.path / name
    path.mkdir()
    return path


def test_what_is_done_is_told(
    storage: Path, tmp_path: Path, options: tuple[str, ...], receiver: Receiver
) -> None:
    """[S15.1] Told are, each once it is done and durable, never before."""
    with mounted(storage, tmp_path, *options) as mount:
        app, other = made(mount, "app"), made(mount, "other")
        blob = put_layer(app, b"layer")
        manifest = put_manifest(app, image(blob), "v1")
        (app / "_manifests/tags/v2").symlink_to(f"../revisions/sha256/{manifest.encoded}")
        os.link(layer(app, blob), layer(other, blob))
        (app / "_manifests/tags/v1").unlink()
        revision(app, manifest).unlink()
        layer(app, blob).unlink()
        eventually(lambda: len(receiver.posts) == 7)
    assert receiver.told() == [
        ("push", str(blob)),
        ("push", "v1"),
        ("push", "v2"),
        ("mount", str(blob)),
        ("delete", "v1"),
        ("delete", str(manifest)),
        ("delete", str(blob)),
    ]
    target = receiver.events()[3]["target"]
    assert (target["repository"], target["fromRepository"]) == ("other", "app")


def test_a_read_is_told_where_that_is_wanted(
    storage: Path, tmp_path: Path, port: int, receiver: Receiver
) -> None:
    """[S15.2] One for each opening of a layer or manifest."""
    with mounted(storage, tmp_path, *configured(tmp_path, port, pulls=True)) as mount:
        app = made(mount, "app")
        blob = put_layer(app, b"layer")
        manifest = put_manifest(app, image(blob))
        layer(app, blob).read_bytes()
        revision(app, manifest).read_bytes()
        eventually(lambda: len(receiver.posts) == 4)
    assert receiver.told()[2:] == [("pull", str(blob)), ("pull", str(manifest))]
    assert "manifest" in receiver.events()[3]["target"]["mediaType"]


def test_reads_are_not_told_otherwise(
    storage: Path, tmp_path: Path, options: tuple[str, ...], receiver: Receiver
) -> None:
    """[S15.2] Reads are told (`pull`) only with `pulls: true` in `notifications.events`."""
    with mounted(storage, tmp_path, *options) as mount:
        app = made(mount, "app")
        first = put_layer(app, b"first")
        layer(app, first).read_bytes()
        second = put_layer(app, b"second")
        eventually(lambda: len(receiver.posts) == 2)
    assert receiver.told() == [("push", str(first)), ("push", str(second))]


def test_what_was_closed_is_told_after_kill_9(
    storage: Path, tmp_path: Path, options: tuple[str, ...], port: int
) -> None:
    """[S15.3] What a program was told to be done is then in a queue in `--state-dir`, durable, and
    survives a crash of the daemon or the machine.
    """
    with mounted(storage, tmp_path, *options) as mount:
        app = made(mount, "app")
        digests = [put_layer(app, f"layer {number}".encode()) for number in range(20)]
        os.kill(mount.pid, signal.SIGKILL)
    with Receiver.serving(port) as receiver, mounted(storage, tmp_path, *options):
        eventually(lambda: len(receiver.posts) >= len(digests))
    assert receiver.told() == [("push", str(digest)) for digest in digests]


def test_a_program_waits_for_no_endpoint(
    storage: Path, tmp_path: Path, options: tuple[str, ...], receiver: Receiver
) -> None:
    """[S15.4] Holds up neither the mount nor other endpoints. [S15.7] For 2 s at the most."""
    receiver.answers.clear()
    with ExitStack() as stack:
        mount = stack.enter_context(mounted(storage, tmp_path, *options))
        app = made(mount, "app")
        put_layer(app, b"first")
        eventually(lambda: receiver.tries == 1)
        began = time.monotonic()
        digest = put_layer(app, b"second")
        assert layer(app, digest).read_bytes() == b"second"
        stack.close()
        assert time.monotonic() - began < 30, "nor does the end, for long"


def test_no_secret_is_shown(storage: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """[S15.8] What may be secret, which is any URL, header or password, is in no log, no error and
    no file of `.blobfs`.
    """
    with mounted(storage, tmp_path, *options, "--log-level", "debug", start=run_anew) as mount:
        put_layer(made(mount, "app"), b"layer")
        eventually(lambda: "are delayed" in mount.log.read_text())
        control = ("config.json", "stats.json", "uploads.json")
        shown = [(mount.path / ".blobfs" / name).read_text() for name in control]
        shown.append(Path(f"/proc/{mount.pid}/cmdline").read_text())
    shown.append(mount.log.read_text())
    assert not [secret for secret in SECRETS for text in shown if secret in text]


def test_a_mistake_in_the_configuration_is_told(storage: Path, tmp_path: Path) -> None:
    """[S15.8] A mistake in the file is told by its key."""
    config = tmp_path / "config.yml"
    config.write_text("notifications: {endpoints: [{name: a, url: hidden}]}")
    (tmp_path / "mnt").mkdir()
    done = run("mount", storage, tmp_path / "mnt", "--config", config)
    assert done.returncode == 1
    assert "notifications.endpoints[0].url must be http://" in done.stderr
    assert "hidden" not in done.stderr


def test_an_endpoint_that_was_down_gets_everything_in_order(
    storage: Path, tmp_path: Path, options: tuple[str, ...], port: int
) -> None:
    """[S15.3] Every endpoint gets it at least once, in the order in which it was done.
    [S15.4] Anything else, or none within `timeout`, is tried again for as long as it takes.
    """
    numbers = count()
    with mounted(storage, tmp_path, *options) as mount:
        done = uploads_in(mount, while_=lambda: next(numbers) < 20)
        arrives_in_order(done, port)


@pytest.mark.long
def test_an_endpoint_that_was_down_for_a_minute_gets_everything_in_order(
    storage: Path, tmp_path: Path, options: tuple[str, ...], port: int
) -> None:
    """[S15.3] Every endpoint gets it at least once, in the order in which it was done.
    [S15.4] Anything else, or none within `timeout`, is tried again for as long as it takes.
    """
    with mounted(storage, tmp_path, *options) as mount:
        up_at = time.monotonic() + 60
        done = uploads_in(mount, while_=lambda: time.monotonic() < up_at)
        arrives_in_order(done, port)


def uploads_in(mount: MountedRegistry, *, while_: Callable[[], bool]) -> dict[str, list[Digest]]:
    """What was uploaded to each of some repositories in turn, in order."""
    done: dict[str, list[Digest]] = {str(made(mount, name).name): [] for name in ("a", "b", "c")}
    number = 0
    while while_():
        for name, digests in done.items():
            digests.append(put_layer(mount.path / name, f"{name} {number}".encode()))
        number += 1
    return done


def arrives_in_order(done: dict[str, list[Digest]], port: int) -> None:
    expected = {name: [str(digest) for digest in digests] for name, digests in done.items()}
    total = sum(map(len, expected.values()))
    with Receiver.serving(port) as receiver:
        eventually(lambda: len(receiver.posts) >= total, within_s=60)
        arrived: dict[str, list[str]] = {name: [] for name in expected}
        for event in receiver.events():
            arrived[event["target"]["repository"]].append(event["target"]["digest"])
    assert arrived == expected
