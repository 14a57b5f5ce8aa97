"""What a Redis that fails does to the bare cache: it says so, in time, and tells no password."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Thread
from typing import Final

import pytest

from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.errors import StorageTimeout, StorageUnavailable
from tests.support.cache_samples import ONE, PATIENT_S, described, eventually
from tests.support.redis_server import RedisServer
from tests.support.services import free_port

BLOB = described(b"a layer")

IN_TIME_S: Final = 1.0
"""50 ms, on a machine that is busy."""

CALLS: Final = [
    pytest.param(lambda cache: cache.stat(BLOB.digest, ONE), id="stat"),
    pytest.param(lambda cache: cache.set(BLOB.digest, BLOB, ONE), id="set"),
    pytest.param(lambda cache: cache.clear(BLOB.digest, ONE), id="clear"),
]
Call = Callable[[RedisCache], object]


@contextmanager
def _taking_no_longer_than(most_s: float) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    assert time.monotonic() - start_s < most_s


@contextmanager
def _answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that is none: *answer* serves each connection."""

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:  # the cache has gone
            answer(connection)

    def listen() -> None:
        with suppress(OSError):  # the test is over
            while True:
                Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=listen, daemon=True).start()
        yield f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}"


def _slowly(server: RedisServer) -> Callable[[socket.socket], None]:
    """Let *server* answer, which does at once what it is told, a few bytes at a time."""

    def answer(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as redis:
            Thread(target=_pass_on, args=(connection, redis), daemon=True).start()
            while drop := redis.recv(4):
                connection.sendall(drop)
                time.sleep(0.01)

    return answer


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while told := source.recv(65536):
            target.sendall(told)


def _drop_by_drop(connection: socket.socket) -> None:
    """Answer AUTH and all else at once, and then nothing whole for 20 s."""
    while b"HMGET" not in connection.recv(65536):
        connection.sendall(b"+OK\r\n" * 3)
    connection.sendall(b"*3\r\n$1000\r\n")
    for _ in range(1000):
        connection.sendall(b".")
        time.sleep(0.02)


def _talk_of_the_password(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(
            b"-ERR unknown command 'AUTH', with args beginning with: 'secret' \r\n" * 3
        )


def _speak_http(connection: socket.socket) -> None:
    while connection.recv(65536):
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


@pytest.mark.parametrize("call", CALLS)
def test_nobody_listens(call: Call) -> None:
    with closing(RedisCache.at(f"redis://:secret@127.0.0.1:{free_port()}")) as cache:
        with _taking_no_longer_than(IN_TIME_S), pytest.raises(StorageUnavailable) as failure:
            call(cache)
        assert "redis://127.0.0.1:" in str(failure.value)
        assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    "url", ["unix:///nowhere/redis.sock", "redis://a..b", "redis://nowhere.invalid"]
)
def test_there_is_no_such_place(url: str) -> None:
    with (
        closing(RedisCache.at(url)) as cache,
        _taking_no_longer_than(IN_TIME_S),
        pytest.raises(StorageUnavailable),
    ):
        cache.stat(BLOB.digest)


@pytest.mark.parametrize(
    "answer",
    [_drop_by_drop, _talk_of_the_password, _speak_http, _hang_up],
    ids=lambda a: a.__name__,
)
def test_server_is_none(answer: Callable[[socket.socket], None]) -> None:
    with _answering(answer) as url, closing(RedisCache.at(url)) as cache:
        with _taking_no_longer_than(IN_TIME_S), pytest.raises(StorageUnavailable) as failure:
            cache.stat(BLOB.digest, ONE)
        assert "secret" not in str(failure.value)


@pytest.mark.redis
def test_server_speaks_no_tls(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis:", "rediss:")
    with (
        closing(RedisCache.at(url)) as cache,
        _taking_no_longer_than(IN_TIME_S),
        pytest.raises(StorageUnavailable),
    ):
        cache.stat(BLOB.digest)


@pytest.mark.redis
@pytest.mark.parametrize("call", CALLS)
def test_server_does_not_answer(call: Call, own_redis: RedisServer) -> None:
    with closing(RedisCache.at(own_redis.url)) as cache:
        own_redis.pause()
        with _taking_no_longer_than(IN_TIME_S), pytest.raises(StorageTimeout):
            call(cache)


@pytest.mark.redis
def test_what_was_set_too_late_is_cleared(own_redis: RedisServer) -> None:
    """It may land after the clear of a delete, and nothing expires."""
    with closing(own_redis.client()) as client, _answering(_slowly(own_redis)) as url:
        client.config_set("requirepass", "secret")

        def is_told() -> bool:
            return "cmdstat_hsetnx" in client.info("commandstats")

        with closing(RedisCache.at(url)) as cache:
            with pytest.raises(StorageTimeout):
                cache.set(BLOB.digest, BLOB, ONE)
            assert eventually(is_told, PATIENT_S)
            assert eventually(lambda: client.dbsize() == 0, PATIENT_S)


@pytest.mark.redis
@pytest.mark.parametrize("call", CALLS)
def test_server_wants_a_password(call: Call, own_redis: RedisServer) -> None:
    with closing(own_redis.client()) as client:
        client.config_set("requirepass", "the right one")
    url = own_redis.url.replace("//", "//:secret@")
    with closing(RedisCache(RedisOptions.parse(url), PATIENT_S)) as cache:
        with pytest.raises(StorageUnavailable, match="password") as failure:
            call(cache)
        assert "secret" not in str(failure.value)


@pytest.mark.redis
def test_right_password_opens(own_redis: RedisServer) -> None:
    with closing(own_redis.client()) as client:
        client.config_set("requirepass", "p@ss/word")
    url = own_redis.url.replace("//", "//:p%40ss%2Fword@")
    with closing(RedisCache(RedisOptions.parse(url), PATIENT_S)) as cache:
        cache.set(BLOB.digest, BLOB, ONE)
        assert cache.stat(BLOB.digest, ONE) == BLOB


@pytest.mark.redis
def test_server_is_full(own_redis: RedisServer) -> None:
    with closing(RedisCache(RedisOptions.parse(own_redis.url), PATIENT_S)) as cache:
        cache.set(BLOB.digest, BLOB, ONE)
        with closing(own_redis.client()) as client:
            client.config_set("maxmemory", "1mb")
        with pytest.raises(StorageUnavailable, match="maxmemory"):
            cache.set_many({blob.digest: blob for blob in (BLOB, described(b"another"))}, ONE)
        assert cache.stat(BLOB.digest, ONE) == BLOB
        cache.clear(BLOB.digest, ONE)
        assert cache.stat(BLOB.digest, ONE) is None


@pytest.mark.redis
def test_server_that_was_started_again_is_used_at_once(own_redis: RedisServer) -> None:
    with closing(RedisCache(RedisOptions.parse(own_redis.url), PATIENT_S)) as cache:
        cache.set(BLOB.digest, BLOB)
        own_redis.kill()
        own_redis.start()
        assert cache.stat(BLOB.digest) is None
        cache.set(BLOB.digest, BLOB)
        assert cache.stat(BLOB.digest) == BLOB
