"""From an event to an HTTP server that has accepted it, whatever happens in between."""

import base64
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.metrics import REGISTRY
from blobfs.notifications.broadcaster import Broadcaster, queue_path
from blobfs.notifications.options import Endpoint, NotificationOptions
from blobfs.reference import RepositoryName
from blobfs.storage.events import Action, Event
from tests.support.mounts import eventually
from tests.support.notification_endpoint import Receiver
from tests.support.notification_events import APP, digest, push, unwritable
from tests.support.services import free_port

PULL = Event(Action.PULL, APP, push("a").target)
MANY = [f"blob {number}" for number in range(100)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver.serving() as receiver:
        yield receiver


def endpoint(url: str, name: str = "a", **options: object) -> Endpoint:
    return Endpoint(name, url, backoff_s=0.05, **options)  # type: ignore[arg-type]  # any option


@contextmanager
def broadcasting(
    tmp_path: Path, *endpoints: Endpoint, pulls: bool = False
) -> Iterator[Broadcaster]:
    options = NotificationOptions(endpoints, pulls=pulls)
    with Broadcaster.opened(options, tmp_path / "queue.db") as broadcaster:
        yield broadcaster


def tell(broadcaster: Broadcaster, names: Sequence[str], repository: RepositoryName = APP) -> None:
    for name in names:
        broadcaster.handle(push(name, repository))


def pushes(names: Sequence[str]) -> list[tuple[str, str]]:
    return [("push", digest(name)) for name in names]


def counted(kind: str, endpoint: str) -> float:
    labels = {"type": kind, "endpoint": endpoint}
    return REGISTRY.get_sample_value("blobfs_notifications_events_total", labels) or 0.0


def test_events_arrive_in_order(tmp_path: Path, receiver: Receiver) -> None:
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        tell(broadcaster, MANY)
        eventually(lambda: len(receiver.posts) == len(MANY))
    assert receiver.told() == pushes(MANY)


def test_events_wait_for_an_endpoint_that_is_down(tmp_path: Path) -> None:
    """[S15.3] Every endpoint gets it at least once, in the order in which it was done.
    [S15.4] Anything else, or none within `timeout`, is tried again for as long as it takes.
    """
    port = free_port()
    with broadcasting(tmp_path, endpoint(f"http://127.0.0.1:{port}/")) as broadcaster:
        tell(broadcaster, MANY)
        with Receiver.serving(port) as receiver:
            tell(broadcaster, ["the last"])
            eventually(lambda: len(receiver.posts) > len(MANY))
        assert receiver.told() == pushes([*MANY, "the last"])


def test_what_is_refused_is_posted_again(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.4] Anything else, or none within `timeout`, is tried again for as long as it takes."""
    receiver.status = 503
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        tell(broadcaster, ["a", "b"])
        eventually(lambda: receiver.tries > 12)
        receiver.status = 202
        eventually(lambda: len(receiver.posts) == 2)
    assert receiver.told() == pushes(["a", "b"])


def test_the_threshold_comes_before_the_backoff(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.4] `threshold` times at once, then every `backoff`."""
    receiver.status = 500
    patient = Endpoint("a", receiver.url, threshold=3, backoff_s=60)
    with broadcasting(tmp_path, patient) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: receiver.tries == 3)
        tell(broadcaster, ["b"])  # which is no reason to try
    assert receiver.tries == 3


def test_a_redirection_is_acceptance(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.4] No redirection is followed."""
    with Receiver.serving() as other:
        receiver.status, receiver.location = 307, other.url
        with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
            tell(broadcaster, ["a", "b"])
            eventually(lambda: len(receiver.posts) == 2)
        assert other.tries == 0


def test_what_is_accepted_is_not_posted_again_whatever_follows(
    tmp_path: Path, receiver: Receiver
) -> None:
    """[S15.4] An answer of 2xx or 3xx is acceptance, whatever becomes of its body."""
    receiver.finishes = False
    with broadcasting(tmp_path, endpoint(receiver.url, timeout_s=0.1)) as broadcaster:
        tell(broadcaster, ["a", "b"])
        eventually(lambda: len(receiver.posts) == 2)
    assert receiver.told() == pushes(["a", "b"])
    assert receiver.tries == 2


def test_nobody_waits_for_an_endpoint_that_does_not_answer(
    tmp_path: Path, receiver: Receiver
) -> None:
    """[S15.4] Holds up neither the mount nor other endpoints."""
    with Receiver.serving() as hanging:
        hanging.answers.clear()
        dead = endpoint(hanging.url, "dead", timeout_s=30.0)
        with broadcasting(tmp_path, dead, endpoint(receiver.url, "alive")) as broadcaster:
            began = time.monotonic()
            tell(broadcaster, MANY)
            assert time.monotonic() - began < 5
            eventually(lambda: len(receiver.posts) == len(MANY))
            hanging.answers.set()


def test_an_answer_that_takes_too_long_is_none(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers.clear()
    before = counted("Errors", "a")
    with broadcasting(tmp_path, endpoint(receiver.url, timeout_s=0.05)) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: counted("Errors", "a") > before + 1)
        receiver.answers.set()
        eventually(lambda: ("push", digest("a")) in receiver.told())


def test_what_is_left_at_the_end_is_sent_by_the_next(tmp_path: Path) -> None:
    """[S15.3] What a program was told to be done is then in a queue in `--state-dir`.
    [S15.7] The next mount sends the rest.
    """
    port = free_port()
    there = endpoint(f"http://127.0.0.1:{port}/")
    with broadcasting(tmp_path, there) as broadcaster:
        tell(broadcaster, MANY)
    with Receiver.serving(port) as receiver, broadcasting(tmp_path, there):
        eventually(lambda: len(receiver.posts) == len(MANY))
    assert receiver.told() == pushes(MANY)


def test_the_end_sends_what_is_accepted(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.7] The mount's end sends what waits as long as that is accepted, for 2 s at the most."""
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        tell(broadcaster, ["a", "b"])
    assert receiver.told() == pushes(["a", "b"])


def test_the_end_does_not_wait_for_what_fails(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.7] For 2 s at the most."""
    receiver.status = 500
    with ExitStack() as stack:
        late = Endpoint("a", receiver.url, threshold=1, backoff_s=60)
        broadcaster = stack.enter_context(broadcasting(tmp_path, late))
        tell(broadcaster, ["a"])
        eventually(lambda: receiver.tries == 1)
        began = time.monotonic()
        stack.close()
        assert time.monotonic() - began < 1


def test_one_mount_sends_at_a_time(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.5] One of them sends at a time."""
    there = endpoint(receiver.url)
    receiver.status = 500
    with broadcasting(tmp_path, there) as other, ExitStack() as first:
        broadcaster = first.enter_context(broadcasting(tmp_path, there))
        for name in MANY:
            tell(broadcaster, [f"{name} of one"])
            tell(other, [f"{name} of the other"])
        receiver.status = 200
        eventually(lambda: len(receiver.posts) == 2 * len(MANY))
    names = [f"{name} of {who}" for name in MANY for who in ("one", "the other")]
    assert receiver.told() == pushes(names), "each once, in the order of both"


def test_another_mount_takes_over(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.5] Another goes on when that one ends."""
    there = endpoint(receiver.url)
    with ExitStack() as first:
        broadcaster = first.enter_context(broadcasting(tmp_path, there))
        tell(broadcaster, ["a"])
        eventually(lambda: len(receiver.posts) == 1)
        with broadcasting(tmp_path, there) as other:
            tell(other, ["b"])
            first.close()
            tell(other, ["c"])
            eventually(lambda: len(receiver.posts) == 3)
    assert receiver.told() == pushes(["a", "b", "c"])


def test_endpoints_get_what_they_do_not_ignore(tmp_path: Path, receiver: Receiver) -> None:
    with Receiver.serving() as other:
        no_deletes = endpoint(receiver.url, "a", ignored_actions=frozenset({"delete"}))
        no_blobs = endpoint(
            other.url, "b", ignored_media_types=frozenset({"application/octet-stream"})
        )
        with broadcasting(tmp_path, no_deletes, no_blobs) as broadcaster:
            tell(broadcaster, ["a"])
            broadcaster.handle(Event(Action.DELETE, APP, Digest.of(b"a")))
        assert receiver.told() == [("push", digest("a"))]
        assert other.told() == [("delete", digest("a"))]


def test_pulls_are_heard_only_if_they_are_wanted(tmp_path: Path, receiver: Receiver) -> None:
    """[S15.2] Reads are told (`pull`) only with `pulls: true` in `notifications.events`."""
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        assert Action.PULL not in broadcaster.actions
    with broadcasting(tmp_path, endpoint(receiver.url), pulls=True) as broadcaster:
        assert Action.PULL in broadcaster.actions
        broadcaster.handle(PULL)
        eventually(lambda: receiver.told() == [("pull", digest("a"))])


def test_headers_are_those_of_the_configuration(tmp_path: Path, receiver: Receiver) -> None:
    headers = (("X-Token", "secret"), ("User-Agent", "of the configuration"))
    url = receiver.url.replace("//", "//user:p%40%E2%82%ACß%FF@") + "?key=1"
    with broadcasting(tmp_path, endpoint(url, headers=headers)) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: len(receiver.posts) == 1)
    [post] = receiver.posts
    assert post.path == "/events?key=1"
    assert post.headers["x-token"] == "secret"
    assert post.headers["user-agent"] == "of the configuration"
    login = b"user:p@" + "€ß".encode() + b"\xff"
    assert post.headers["authorization"] == f"Basic {base64.b64encode(login).decode()}"


def test_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """[S15.8] What may be secret, which is any URL, header or password, is in no log, no error and
    no file of `.blobfs`.
    """
    caplog.set_level(logging.DEBUG)
    url = f"http://user:secret@127.0.0.1:{free_port()}/secret?key=secret"
    secretive = endpoint(url, headers=(("Authorization", "Bearer secret"),), threshold=1)
    with broadcasting(tmp_path, secretive) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: bool(caplog.records))
    assert "notifications to a are delayed: Connection refused" in caplog.messages
    assert "secret" not in caplog.text + repr(secretive)


def test_a_failure_is_logged_once(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """[S15.4] That is one warning."""
    caplog.set_level(logging.INFO, "blobfs")
    receiver.status = 503
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        tell(broadcaster, ["a", "b"])
        eventually(lambda: receiver.tries > 12)
        receiver.status = 200
        eventually(lambda: len(receiver.posts) == 2)
    assert caplog.messages == [
        "notifications to a are delayed: it responded with 503",
        "notifications to a are accepted again",
    ]


def test_what_cannot_be_kept_is_counted_and_hurts_nobody(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """[S15.3] The program's work succeeds, and the event is lost: a warning and a count say so."""
    before = counted("Lost", "a")
    with broadcasting(tmp_path, endpoint(receiver.url)) as broadcaster:
        with unwritable(tmp_path / "queue.db"):
            tell(broadcaster, ["a", "b"])
        tell(broadcaster, ["c"])
        eventually(lambda: receiver.told() == pushes(["c"]))
    assert counted("Lost", "a") - before == 2
    assert sum("notifications are lost" in message for message in caplog.messages) == 1


def _pending(name: str) -> float | None:
    return REGISTRY.get_sample_value("blobfs_notifications_pending", {"endpoint": name})


def test_what_waits_is_exported(tmp_path: Path) -> None:
    there = endpoint(f"http://127.0.0.1:{free_port()}/", "pending")
    with broadcasting(tmp_path, there) as broadcaster:
        tell(broadcaster, ["a", "b"])
        eventually(lambda: _pending("pending") == 2)
        assert counted("Events", "pending") == 2


def test_pulls_that_cannot_be_written_wait(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """[S15.3] A pull then waits in memory until there are too many, or the mount ends. And keep
    nothing else waiting.
    """
    receiver.status = 500
    with broadcasting(tmp_path, endpoint(receiver.url), pulls=True) as broadcaster:
        tell(broadcaster, ["first"])
        eventually(lambda: receiver.tries > 0)
        with unwritable(tmp_path / "queue.db"):
            broadcaster.handle(PULL)
            eventually(lambda: "wait in memory: the queue of notifications" in caplog.text)
            receiver.status = 200
            eventually(lambda: receiver.told() == pushes(["first"]))
        eventually(lambda: receiver.told() == [*pushes(["first"]), ("pull", digest("a"))])


def test_pulls_are_written_while_their_endpoint_is_down(tmp_path: Path) -> None:
    """[S15.2] These wait up to a second in memory to be written."""
    there = endpoint(f"http://127.0.0.1:{free_port()}/", "down")
    with broadcasting(tmp_path, there, pulls=True) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: counted("Errors", "down") > 0)
        broadcaster.handle(PULL)
        eventually(lambda: _pending("down") == 2)


def test_pulls_that_are_too_many_are_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[S15.3] A pull then waits in memory until there are too many, or the mount ends."""
    before = counted("Lost", "a")
    there = endpoint(f"http://127.0.0.1:{free_port()}/")
    with (
        broadcasting(tmp_path, there, pulls=True) as broadcaster,
        unwritable(tmp_path / "queue.db"),
    ):
        for _ in range(10_002):
            broadcaster.handle(PULL)
        assert counted("Lost", "a") - before == 2
    lost = "notifications are lost: the queue of notifications: too many events wait for the disk"
    assert caplog.messages.count(lost) == 1


def test_sending_goes_on_after_what_nobody_has_thought_of(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    forever = Endpoint("a", receiver.url, threshold=1, backoff_s=1e12)
    with broadcasting(tmp_path, forever) as broadcaster:
        tell(broadcaster, ["a"])
        eventually(lambda: "OverflowError" in caplog.text)
        receiver.status = 200
        eventually(lambda: receiver.told() == pushes(["a"]))
    assert caplog.messages.count("notifications to a cannot be sent") == 1


def test_a_storage_has_one_queue(tmp_path: Path) -> None:
    """[S15.5] Mounts of one storage with the same `--state-dir` have one queue."""
    (tmp_path / "storage").mkdir()
    (tmp_path / "link").symlink_to("storage")
    one = queue_path(tmp_path, str(tmp_path / "storage"))
    assert queue_path(tmp_path, f"file://{tmp_path}/link") == one
    assert queue_path(tmp_path, str(tmp_path)) != one


def test_a_bucket_has_one_queue_whatever_its_keys(tmp_path: Path) -> None:
    """[S15.5] Mounts of one storage with the same `--state-dir` have one queue."""
    bucket = "s3://bucket/prefix?regionendpoint=http://{}&region=us-east-1"
    one = queue_path(tmp_path, bucket.format("here"))
    assert queue_path(tmp_path, bucket.format("here") + "&chunksize=10485760") == one
    assert queue_path(tmp_path, bucket.format("there")) != one
