"""What a person may type for a cache, and what it gives; a password is never shown."""

from contextlib import closing

import pytest

from blobfs.cache.base import DescriptorCache
from blobfs.cache.factory import cache_for
from blobfs.cache.memory import MemoryCache, NoCache
from blobfs.cache.redis.options import Address, RedisOptions
from blobfs.cache.resilient import ResilientCache
from blobfs.errors import MountRefused
from tests.support.cache_samples import described
from tests.support.redis_server import RedisServer

HOST = (Address("host", 6379),)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("none", NoCache),
        ("memory", MemoryCache),
        ("Memory", MemoryCache),
        ("redis://localhost", ResilientCache),
        ("rediss://localhost", ResilientCache),
        ("unix:///run/redis.sock", ResilientCache),
        ("redis+sentinel://localhost/master", ResilientCache),
        ("redis+cluster://localhost", ResilientCache),
    ],
)
def test_text_gives_a_cache_that_does_not_fail(text: str, kind: type[DescriptorCache]) -> None:
    with closing(cache_for(text)) as cache:
        assert type(cache) is kind


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://host", RedisOptions(HOST)),
        ("redis://host/", RedisOptions(HOST)),
        ("redis://host:7/3", RedisOptions((Address("host", 7),), database=3)),
        ("redis://host?db=3", RedisOptions(HOST, database=3)),
        ("REDIS://host", RedisOptions(HOST)),
        ("redis://[::1]:7", RedisOptions((Address("::1", 7),))),
        ("unix:/run/r", RedisOptions(path="/run/r")),
        ("redis://:p%40ss@host", RedisOptions(HOST, password="p@ss")),
        ("redis://me:p@host", RedisOptions(HOST, username="me", password="p")),
        ("rediss://host", RedisOptions(HOST, tls=True)),
        (
            "rediss://host?ssl_cert_reqs=none&ssl_ca_certs=/a&ssl_certfile=/b&ssl_keyfile=/c&ssl_ca_certs=/d",
            RedisOptions(
                HOST, tls=True, verify_tls=False, ca_certs=("/a", "/d"), certfile="/b", keyfile="/c"
            ),
        ),
        (
            "redis+sentinel://:p@host,[::1]:7/the%20master/3?sentinel_password=q",
            RedisOptions(
                (Address("host", 26379), Address("::1", 7)),
                master="the master",
                database=3,
                password="p",
                sentinel_password="q",
            ),
        ),
        (
            "rediss+sentinel://host:7/master",
            RedisOptions((Address("host", 7),), master="master", tls=True),
        ),
        (
            "redis+cluster://me:p@host,other:7",
            RedisOptions(
                (*HOST, Address("other", 7)), is_cluster=True, username="me", password="p"
            ),
        ),
        ("unix:///run/a%20b.sock", RedisOptions(path="/run/a b.sock")),
        (
            "unix://me:p@/run/r?db=2",
            RedisOptions(path="/run/r", database=2, username="me", password="p"),
        ),
    ],
)
def test_url_says_where_redis_is(url: str, options: RedisOptions) -> None:
    assert RedisOptions.parse(url) == options


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host", "redis://host:6379/0"),
        ("rediss://:secret@[::1]:7/2", "rediss://[::1]:7/2"),
        ("unix://:secret@/run/r?db=2", "unix:///run/r?db=2"),
        (
            "redis+sentinel://:secret@a,[::1]:7/m?sentinel_password=secret",
            "redis+sentinel://a:26379,[::1]:7/m/0",
        ),
        ("rediss+cluster://:secret@a,b:7", "rediss+cluster://a:6379,b:7"),
    ],
)
def test_url_is_shown_without_its_password(url: str, shown: str) -> None:
    options = RedisOptions.parse(url)
    assert str(options) == shown
    assert "secret" not in repr(options)
    with closing(cache_for(url)) as cache:
        assert "secret" not in repr(cache)
        assert shown in repr(cache)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "memcached",
        "memory:7",
        "none:",
        "http://:secret@host",
        "redis",
        "redis:",
        "redis://",
        "redis:///0",
        "redis://:secret@",
        "redis://host/secret@x",
        "redis://host/-1",
        "redis://host/1/2",
        "redis://host#secret",
        "redis://host:secret@",
        "redis://u:1?secret@host",
        "redis://host:99999",
        "redis://[secret",
        "redis://host?socket_timeout=60",
        "redis://host?ssl_cert_reqs=none",
        "rediss://host?ssl_cert_reqs=optional",
        "redis://host?password=secret",
        "unix://",
        "unix://host/run/r",
        "unix:///run/r?db=x",
        "redis://host,other",
        "redis+sentinel://:secret@host",
        "redis+sentinel://host/master/0/1",
        "redis+sentinel://host/master?secret@x",
        "redis+cluster://:secret@host/1",
        "redis+cluster://host,",
        "redis+cluster://host:0",
        "redis+cluster://host?sentinel_password=secret",
        "unix+cluster:///run/r",
        "redis+secret://host@",
        "redis://:secret@ho st",
        "redis://host:" + "7" * 5000,
    ],
)
def test_anything_else_is_refused_without_showing_a_password(text: str) -> None:
    with pytest.raises(MountRefused) as refusal:
        cache_for(text)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memcached", r"'memcached' is not a descriptor cache; give none, memory, redis://host"),
        ("redis://", r"redis://\[\[user\]:password@\]host\[:port\]\[/database\]"),
        ("redis://host?socket_timeout=60", r"unknown option 'socket_timeout'"),
        ("redis+cluster://host/1", r"a Redis cluster has only the database 0"),
        ("redis+sentinel://host", r"redis\+sentinel://host\[:port\]\[,host…\]/master"),
    ],
)
def test_refusal_says_what_to_give(text: str, said: str) -> None:
    with pytest.raises(MountRefused, match=said):
        cache_for(text)


@pytest.mark.redis
@pytest.mark.parametrize("form", ["{url}", "unix://{socket}", "unix://{socket}?db=5"])
def test_cache_is_in_the_server(redis_server: RedisServer, form: str) -> None:
    blob = described(b"a layer")
    url = form.format(url=redis_server.url, socket=redis_server.socket)
    with closing(redis_server.client()) as client, closing(cache_for(url)) as cache:
        client.flushall()
        assert isinstance(cache, ResilientCache)
        cache.set(blob.digest, blob)
        assert cache.stat(blob.digest) == blob
        assert (cache.stats()["hits"], cache.stats()["errors"]) == (1, 0)
        assert not cache.is_local
        assert client.dbsize() == (0 if "db=5" in form else 1)


def test_what_is_kept_in_memory_is_kept_for_a_time() -> None:
    blob = described(b"a layer")
    for ttl_s, known in ((3600.0, blob), (0.0, None)):
        cache = cache_for("memory", ttl_s)
        cache.set(blob.digest, blob)
        assert cache.stat(blob.digest) == known
