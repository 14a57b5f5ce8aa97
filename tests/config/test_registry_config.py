"""What is read in a registry's configuration file, and how a mistake in it is told."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs.cache.redis.options import Address, RedisOptions
from blobfs.config.registry_config import RegistryConfig, check_storage, read_config
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.notifications.options import Endpoint, NotificationOptions

FULL = """
version: 0.1
log: {level: debug, fields: {service: registry}}
storage:
  cache: {blobdescriptor: redis}
  filesystem: {rootdirectory: /var/lib/registry}
http:
  addr: :5000
  host: https://registry.example.com
redis: {addr: redis.example.com:6380, password: 0123, db: 4, tls: {enabled: true}}
notifications:
  events: {includereferences: true, pulls: true}
  endpoints:
    - name: full
      disabled: false
      url: https://user:secret@example.com/events?token=1
      headers: {Authorization: [Bearer secret], X-Two: [one, two]}
      timeout: 1m30s
      threshold: 5
      backoff: 500ms
      ignoredmediatypes: [application/octet-stream]
      ignore: {mediatypes: [text/plain], actions: [pull, delete]}
    - name: short
      url: http://example.com
    - name: off
      disabled: true
      url: none
"""


def read(tmp_path: Path, text: str) -> RegistryConfig:
    path = tmp_path / "config.yml"
    path.write_text(text)
    return read_config(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(MountRefused) as caught:
        read(tmp_path, text)
    told = str(caught.value).removeprefix(str(tmp_path / "config.yml"))
    return re.sub(r"^:\d+(?=:)", "", told).lstrip(": ")


def endpoint(text: str) -> str:
    """A file with one endpoint, of which *text* is added."""
    return f"notifications: {{endpoints: [{{name: a, url: 'http://secret/', {text}}}]}}"


def test_notifications_are_read(tmp_path: Path) -> None:
    full = Endpoint(
        "full",
        "https://user:secret@example.com/events?token=1",
        (("Authorization", "Bearer secret"), ("X-Two", "one"), ("X-Two", "two")),
        90.0,
        5,
        0.5,
        frozenset({"application/octet-stream", "text/plain"}),
        frozenset({"pull", "delete"}),
    )
    assert read(tmp_path, FULL).notifications == NotificationOptions(
        (full, Endpoint("short", "http://example.com")),
        include_references=True,
        pulls=True,
        base_url="https://registry.example.com",
    )


def test_an_endpoint_has_the_defaults_of_distribution(tmp_path: Path) -> None:
    text = endpoint("timeout: 0, threshold: 0, headers: , backoff: null")
    [found] = read(tmp_path, text).notifications.endpoints
    assert (found.timeout_s, found.threshold, found.backoff_s) == (1.0, 10, 1.0)


def test_a_password_is_what_is_written(tmp_path: Path) -> None:
    cache = read(tmp_path, FULL).cache
    assert cache == "rediss://:0123@redis.example.com:6380/4"


def test_a_password_may_have_any_characters(tmp_path: Path) -> None:
    text = (
        "storage: {cache: {blobdescriptor: redis}}\nredis: {addr: '[::1]:1', password: 'p@/:?#%'}"
    )
    cache = read(tmp_path, text).cache
    assert cache is not None
    assert RedisOptions.parse(cache).password == "p@/:?#%"


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("{}", None),
        ("{blobdescriptor: inmemory}", "memory"),
        ("{layerinfo: inmemory}", "memory"),
        ("{blobdescriptor: redis}", "redis://localhost:6379/0"),
    ],
)
def test_the_cache_is_what_the_registry_has(
    tmp_path: Path, cache: str, expected: str | None
) -> None:
    text = f"storage: {{cache: {cache}}}\nredis: {{addr: ':6379'}}"
    assert read(tmp_path, text).cache == expected


def _redis(tmp_path: Path, text: str) -> RedisOptions:
    cache = read(tmp_path, f"storage: {{cache: {{blobdescriptor: redis}}}}\nredis: {text}").cache
    assert cache is not None
    return RedisOptions.parse(cache)


HERE = Address("localhost", 1)
THERE = Address("::1", 2)
OF_3 = RedisOptions(addresses=(HERE,))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("{addrs: [':1'], dialtimeout: 10ms, tls: {rootcas: []}}", OF_3),
        ("{addrs: [':1'], addr: ':1', db: 3}", replace(OF_3, database=3)),
        (
            "{addrs: [':1'], username: u@, password: 'p:/'}",
            replace(OF_3, username="u@", password="p:/"),
        ),
        (
            "{addrs: [':1', '[::1]:2'], db: 3}",
            RedisOptions(addresses=(HERE, THERE), is_cluster=True),
        ),
        (
            "{addrs: [':1', '[::1]:2'], db: 3, mastername: a/b, password: p,"
            " sentinelusername: s, sentinelpassword: q@}",
            RedisOptions(
                addresses=(HERE, THERE),
                master="a/b",
                database=3,
                password="p",
                sentinel_username="s",
                sentinel_password="q@",
            ),
        ),
        ("{addrs: [/run/redis.sock], db: 3}", RedisOptions(path="/run/redis.sock", database=3)),
        (
            "{addrs: [':1'], tls: {certificate: /a, key: /b, rootcas: ['/c&', /d]}}",
            replace(OF_3, tls=True, certfile="/a", keyfile="/b", ca_certs=("/c&", "/d")),
        ),
        ("{addrs: [':1'], tls: {certificate: /a}}", replace(OF_3, tls=True)),
    ],
)
def test_redis_of_distribution_3_is_read(tmp_path: Path, text: str, options: RedisOptions) -> None:
    """[S14.9] `--config` reads the Redis of a registry of version 2.8 (`redis.addr`) or 3."""
    found = _redis(tmp_path, text)
    assert found == options


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, "")
    assert (found.notifications, found.cache, found.warnings) == (NotificationOptions(), None, ())


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("2000000000", 2), ("10us", 1e-5)],
)
def test_durations_are_those_of_go(tmp_path: Path, duration: str, seconds: float) -> None:
    [found] = read(tmp_path, endpoint(f"timeout: {duration}")).notifications.endpoints
    assert found.timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- list", "the configuration must be a mapping"),
        ("a: [", "is not YAML in line 1"),
        ("a: !!int secret", "is not YAML"),
        ("a: !!timestamp secret", "is not YAML"),
        ("a: !!bool secret", "is not YAML"),
        ('a: "\\UFFFFFFFF"', "is not YAML"),
        ("notifications: secret", "notifications must be a mapping"),
        ("notifications: {endpoints: secret}", "notifications.endpoints must be a list"),
        (
            "notifications: {endpoints: [secret]}",
            "notifications.endpoints[0] must be a mapping",
        ),
        (
            "notifications: {endpoints: [{url: 'http://secret'}]}",
            "notifications.endpoints[0].name is missing: the queue of the endpoint needs it",
        ),
        (
            "notifications: {endpoints: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]}",
            "notifications.endpoints[1].name is used by another endpoint; choose another name",
        ),
        (
            "notifications: {endpoints: [{name: a, url: 'ftp://secret'}]}",
            "notifications.endpoints[0].url must be http://host[:port]/path or https://…",
        ),
        (
            endpoint("timeout: 1 secret"),
            "notifications.endpoints[0].timeout must be a duration such as 500ms or 1m30s",
        ),
        (
            endpoint("backoff: 24h1s"),
            "notifications.endpoints[0].backoff must be 24h at most",
        ),
        (endpoint("threshold: secret"), "notifications.endpoints[0].threshold must be a number"),
        (
            endpoint(f"threshold: {'9' * 5000}"),
            "notifications.endpoints[0].threshold must be a number",
        ),
        (
            'notifications: {endpoints: [{name: "\\ud800"}]}',
            "notifications.endpoints[0].name must be a text",
        ),
        (endpoint("disabled: secret"), "notifications.endpoints[0].disabled must be true or false"),
        (
            endpoint("headers: {Authorization: secret}"),
            "notifications.endpoints[0].headers.Authorization must be a list",
        ),
        (
            endpoint('headers: {Authorization: ["secret\\nsecret"]}'),
            "notifications.endpoints[0].headers.Authorization must be a list of printable texts",
        ),
        (
            endpoint("headers: {Authorization: [{secret: secret}]}"),
            "notifications.endpoints[0].headers.Authorization must be a list of texts",
        ),
        (
            endpoint("ignore: {actions: [secret]}"),
            "notifications.endpoints[0].ignore.actions can be push, pull, mount, delete",
        ),
        (
            "storage: {cache: {blobdescriptor: secret}}",
            "storage.cache.blobdescriptor must be redis or inmemory",
        ),
        (
            "storage: {cache: {blobdescriptor: redis}}\nredis: {addr: secret}",
            "redis.addr must be host:port",
        ),
        (
            "storage: {cache: {blobdescriptor: redis}}\nredis: {addr: 'secret:1', db: secret}",
            "redis.db must be a number",
        ),
        (
            "storage: {cache: {blobdescriptor: redis}}\nredis: {addrs: ['secret:1', secret]}",
            "redis.addrs must be host:port",
        ),
        (
            "storage: {cache: {blobdescriptor: redis}}\nredis: {addr: 'a:1', addrs: ['b:1']}",
            "redis.addr is not the server of addrs: keep addr for distribution 2.8, addrs for 3",
        ),
        (
            "storage: {cache: {blobdescriptor: redis}}\nredis: {addrs: [/a], mastername: secret}",
            "redis.addrs can be one socket only, without mastername and tls",
        ),
    ],
)
def test_a_mistake_is_told_by_its_key(tmp_path: Path, text: str, why: str) -> None:
    """[S15.8] A mistake in the file is told by its key."""
    assert refusal(tmp_path, text) == why


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountRefused, match="No such file"):
        read_config(tmp_path / "none.yml")


def test_what_was_read_shows_no_secret(tmp_path: Path) -> None:
    """[S15.8] What may be secret, which is any URL, header or password, is in no log, no error and
    no file of `.blobfs`.
    """
    shown = repr(read(tmp_path, FULL))
    assert "secret" not in shown
    assert "0123" not in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("storge: {}", "storge is not known; storage is: correct or remove it"),
        ("Redis: {}", "Redis is not known; redis is: correct or remove it"),
        (
            "storage: {cache: {blobdescripter: redis}}",
            "storage.cache.blobdescripter is not known; blobdescriptor is: correct or remove it",
        ),
        (
            "storage: {filesystem: {rootdir: /a, rootdirectroy: /b}}",
            "storage.filesystem.rootdirectroy is not known; rootdirectory is: correct or remove it",
        ),
        ("redis: {tls: {rootca: []}}", "redis.tls.rootca is not known; rootcas is"),
        ("notifications: {event: {}}", "notifications.event is not known; events is"),
        (
            endpoint("thresold: 1, ignore: {action: []}"),
            "notifications.endpoints[0].thresold is not known; threshold is",
        ),
        (endpoint("ignore: {action: []}"), "endpoints[0].ignore.action is not known; actions is"),
    ],
)
def test_misspelt_key_is_told_with_the_nearest(tmp_path: Path, text: str, told: str) -> None:
    """[S15.9] A key of the file that is not known but like a known one is a warning, with that one,
    at the mount and in the log.
    """
    sentences = read(tmp_path, text).warnings
    assert any(told in sentence for sentence in sentences), sentences
    assert all(sentence.startswith(f"{tmp_path / 'config.yml'}:1: ") for sentence in sentences)


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        "x-common: {}\nmiddleware: {storge: []}\nauth: {htpaswd: {}}",
        "storage: {gcs: {bukket: a}, swift: {}, tag: {concurrencylimit: 1}}",
        "redis: {addrs: [], maxretries: 1, pool: {maxidle: 1}}",
    ],
    ids=["known keys", "other sections", "other drivers", "distribution 3 and 2.8"],
)
def test_other_keys_are_not_told_of(tmp_path: Path, text: str) -> None:
    """[S15.9] A key of the file that is not known but like a known one is a warning."""
    assert read(tmp_path, text).warnings == ()


def _checked(tmp_path: Path, text: str, storage: str) -> None:
    check_storage(read(tmp_path, f"storage: {text}"), Location.of(storage))


def test_storage_of_the_file_may_be_reached_by_another_path(tmp_path: Path) -> None:
    """[S15.10] A file that names another storage (`rootdirectory`, or S3's `bucket` and
    `rootdirectory`) than the mount shows is refused.
    """
    (tmp_path / "storage").mkdir()
    (tmp_path / "link").symlink_to("storage")
    for place in (tmp_path / "storage", tmp_path / "link", f"file://{tmp_path}/storage"):
        _checked(tmp_path, f"{{filesystem: {{rootdirectory: {tmp_path}/storage/}}}}", str(place))
    s3 = "{s3: {bucket: b, rootdirectory: /some/where/}}"
    _checked(tmp_path, s3, "s3://b/some/where?region=x")
    for unknown in ("{}", "{filesystem: {}}", "{filesystem: {rootdirectory: data}}"):
        _checked(tmp_path, unknown, str(tmp_path))


@pytest.mark.parametrize(
    ("text", "storage", "both"),
    [
        (
            "{filesystem: {rootdirectory: /var/lib/registry}}",
            "/srv/registry",
            "storage.filesystem.rootdirectory is /var/lib/registry, and STORAGE is /srv/registry:"
            " give /var/lib/registry as STORAGE, or give --config a copy of the file",
        ),
        (
            "{filesystem: {rootdirectory: /var/lib/registry}}",
            "s3://b/x?region=y",
            "storage.filesystem.rootdirectory is /var/lib/registry, and STORAGE is s3://b/x:",
        ),
        ("{s3: {bucket: b}}", "/srv", "storage.s3.bucket is s3://b, and STORAGE is /srv:"),
        (
            "{s3aws: {bucket: b, rootdirectory: a}}",
            "s3://b",
            "storage.s3aws.bucket is s3://b/a, and STORAGE is s3://b:",
        ),
    ],
)
def test_another_storage_in_the_file_is_an_error(
    tmp_path: Path, text: str, storage: str, both: str
) -> None:
    """[S15.10] A file that names another storage (`rootdirectory`, or S3's `bucket` and
    `rootdirectory`) than the mount shows is refused.
    """
    with pytest.raises(MountRefused) as caught:
        _checked(tmp_path, text, storage)
    assert both in str(caught.value)
