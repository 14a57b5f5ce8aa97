"""A registry's configuration file as a storage: what it gives, and how mistakes are reported."""

import gzip
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from blobfs.cli.mount_defaults import with_defaults
from blobfs.cli.storage import Storage
from blobfs.config.key_table import taken_keys
from blobfs.config.known_keys import unknown
from blobfs.config.model import Model
from blobfs.config.registry_config import RegistryConfig, read_config
from blobfs.config.report import ConfigReport
from blobfs.config.schema import Seconds, fields_of, item_section
from blobfs.config.yaml_file import read as read_yaml
from blobfs.drivers.s3.options import Credentials
from blobfs.errors import MountRefused
from blobfs.host.preflight import Preflight
from tests.support.services import cannot

DEBIAN = Path("/etc/docker/registry/config.yml")
DEBIAN_DOCUMENTATION = Path("/usr/share/doc/docker-registry/configuration.md.gz")

# As in the reference of distribution 3, docs/content/about/configuration.md: all sections.
VERSION_3 = """
version: 0.1
log:
  accesslog: {disabled: true}
  level: warn
  formatter: logstash
  fields: {service: registry, environment: staging}
  hooks:
    - type: mail
      disabled: true
      levels: [panic]
      options:
        smtp: {addr: 'mail.test:25', username: u, password: p, insecure: true}
        from: from@mail.test
        to: [to@mail.test]
storage:
  s3:
    accesskey: AKHUSH
    secretkey: SKHUSH
    region: us-west-1
    regionendpoint: http://objects.test
    forcepathstyle: true
    accelerate: false
    bucket: images
    encrypt: true
    keyid: arn
    secure: true
    v4auth: true
    chunksize: 5242880
    multipartcopychunksize: 33554432
    multipartcopymaxconcurrency: 1000
    multipartcopythresholdsize: 33554432
    rootdirectory: /some/where
    usedualstack: false
    usefipsendpoint: false
    loglevel: debug
  tag: {concurrencylimit: 8}
  delete: {enabled: true}
  redirect: {disable: false}
  cache: {blobdescriptor: redis, blobdescriptorsize: 10000}
  maintenance:
    uploadpurging: {enabled: true, age: 48h, interval: 24h, dryrun: false}
    readonly: {enabled: false}
auth:
  htpasswd: {realm: r, path: /p}
middleware:
  storage:
    - {name: cloudfront, options: {baseurl: 'https://cdn.test/', duration: 3000s}}
catalog: {maxentries: 1000}
tags: {maxtags: 1000}
http:
  addr: localhost:5000
  prefix: /nested/
  host: https://registry.test:5000
  secret: HUSH
  relativeurls: false
  draintimeout: 60s
  tls:
    certificate: /c
    key: /k
    clientcas: [/ca]
    clientauth: require-and-verify-client-cert
    letsencrypt: {cachefile: /f, email: e, hosts: [h], directoryurl: 'https://acme.test'}
  debug: {addr: 'localhost:5001', prometheus: {enabled: true, path: /metrics}}
  headers: {X-Content-Type-Options: [nosniff]}
  http2: {disabled: false}
  h2c: {enabled: false}
notifications:
  events: {includereferences: true}
  endpoints:
    - name: listener
      disabled: false
      url: https://listener.test/event?token=HUSH
      headers: {Authorization: [Bearer HUSH]}
      timeout: 1s
      threshold: 10
      backoff: 1s
      ignoredmediatypes: [application/octet-stream]
      ignore: {mediatypes: [application/octet-stream], actions: [pull]}
redis:
  tls: {certificate: /c, key: /k, rootcas: [/ca]}
  addrs: ['localhost:6379']
  password: HUSH
  db: 0
  dialtimeout: 10ms
  maxidleconns: 16
  poolsize: 64
  connmaxidletime: 300s
health:
  storagedriver: {enabled: true, interval: 10s, threshold: 3}
  file: [{file: /f, interval: 10s}]
  http: [{uri: 'http://a.test', headers: {A: [b]}, statuscode: 200, timeout: 3s, interval: 1s}]
  tcp: [{addr: 'redis.test:6379', timeout: 3s, interval: 10s, threshold: 3}]
proxy:
  remoteurl: https://remote.test
  username: u
  password: p
  exec: {command: helper, lifetime: 1h}
  ttl: 168h
validation:
  manifests:
    urls: {allow: ['^https://a/'], deny: ['^https://b/']}
    indexes: {platforms: List, platformlist: [{architecture: amd64, os: linux}]}
"""


def config(tmp_path: Path, text: str, variables: Mapping[str, str] | None = None) -> RegistryConfig:
    file = tmp_path / "config.yml"
    file.write_text(text)
    return read_config(file, variables)


def defaults(found: RegistryConfig) -> dict[str, Any]:
    """The options of a mount that the file stands for."""
    given = dict.fromkeys(("read_only", "allow_delete", "log_level", "log_format", "cache"))
    checks = Preflight("memory:", print)
    return with_defaults(given, Storage(found.location(), found, checks))


@pytest.mark.registry
def test_debian_s_file_gives_its_directory_and_defaults() -> None:
    """[S20.1] A command uses the storage that a registry with this file uses."""
    found = read_config(DEBIAN)
    assert found.location().root == Path("/var/lib/docker-registry")
    assert found.warnings == ()
    assert found.cache == "memory"
    assert defaults(found)["allow_delete"] is True


def test_file_of_version_3_gives_its_bucket_and_defaults(tmp_path: Path) -> None:
    """[S20.1] A command uses the storage that a registry with this file uses.

    [S20.3] `delete.enabled` is the default of `--allow-delete`.
    """
    found = config(tmp_path, VERSION_3)
    assert found.warnings == ()
    bucket = found.location().bucket
    assert bucket is not None
    assert bucket.credentials == Credentials("AKHUSH", "SKHUSH")
    assert (bucket.bucket, bucket.root, bucket.region) == ("images", "some/where", "us-west-1")
    assert (bucket.endpoint, bucket.addressing_style) == ("http://objects.test", "path")
    assert bucket.for_writes == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn"}
    assert (bucket.chunk_size, bucket.copy_streams) == (5 * 2**20, 256)
    assert found.model.storage.maintenance.uploadpurging.age == Seconds(48 * 3600)
    options = defaults(found)
    assert (options["log_level"], options["log_format"]) == ("warning", "json")
    assert (options["allow_delete"], options["read_only"]) == (True, False)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """[S20.6] The keys of a bucket and the passwords in the file are in no log, no error."""
    found = config(tmp_path, VERSION_3)
    report = ConfigReport.of(found)
    location = found.location()
    shown = [repr(found), repr(location), str(location), location.url, location.address]
    shown += [report.as_json(), str(report.rows), report.as_yaml()]
    assert not [text for text in shown if "HUSH" in text]
    assert "accesskey: '********'" in report.as_yaml()


def test_report_as_yaml_is_a_file_with_the_same_effect(tmp_path: Path) -> None:
    masked = re.sub(r"(Bearer |https://listener\S+=|[AS]K)?HUSH", "'********'", VERSION_3)
    found = config(tmp_path, masked.replace("disabled: false", "disabled: true"))
    again = config(tmp_path, ConfigReport.of(found).as_yaml())
    assert again.warnings == ()
    assert again.model == found.model


@pytest.mark.registry
def test_every_key_of_debian_s_documentation_is_known(tmp_path: Path) -> None:
    if not DEBIAN_DOCUMENTATION.exists():
        cannot("the machine has no documentation of docker-registry")
    text = gzip.decompress(DEBIAN_DOCUMENTATION.read_bytes()).decode()
    blocks = re.findall(r"^```none\n(version: 0\.1\nlog:.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        file = tmp_path / "config.yml"
        file.write_text(block)
        assert list(unknown(read_yaml(file))) == []


OTHER: dict[object, str] = {str: "other", bool: "true", int: "7", Seconds: "7s"}
SPECIAL = {
    "version": None,  # has one value only
    "log.level": "debug",
    "log.formatter": "json",
    "loglevel": "debug",
    "storage.filesystem.rootdirectory": "/other",
    "storage.s3.secure": "false",
    "storage.s3.regionendpoint": "http://other.test",
    "storage.s3.keyid": "other",
    "storage.s3.chunksize": "6000000",
    "storage.s3.multipartcopychunksize": "6000000",
    "storage.s3.encrypt": "false",
    "storage.cache.blobdescriptor": "inmemory",
    "storage.cache.layerinfo": None,  # only without blobdescriptor
    "http.host": "https://other.test",
    "notifications.endpoints[].url": "https://other.test",
    "notifications.endpoints[].headers": "{B: [other]}",
    "notifications.endpoints[].ignoredmediatypes": "[other]",
    "notifications.endpoints[].ignore.mediatypes": "[other]",
    "notifications.endpoints[].ignore.actions": "[mount]",
    "redis.addr": None,  # only without addrs
    "redis.addrs": "['other:1']",
    "redis.tls.rootcas": "[other]",
    "redis.tls.enabled": None,  # only without files
}
FULL = """
storage:
  %s
  cache: {blobdescriptor: redis}
redis: {addrs: ['localhost:6379'], mastername: m, tls: {certificate: /c, key: /k}}
notifications: {endpoints: [{name: a, url: 'https://a.test'}]}
"""
DRIVERS = {
    True: "s3: {bucket: b, accesskey: a, secretkey: s, encrypt: true, keyid: k}",
    False: "filesystem: {}",
}
TAKEN = re.findall(r"^\| `(.+?)` \|", taken_keys(), re.MULTILINE)


def _types(cls: type, section: str) -> Iterator[tuple[str, object]]:
    for field in fields_of(cls):
        name = f"{section}.{field.name}".strip(".")
        item = item_section(field.type)
        if item is None and field.key is not None:
            yield name, field.type
        else:
            yield from _types(item or field.type, f"{name}[]" if item else name)


TYPES = dict(_types(Model, ""))


def _effects(found: RegistryConfig) -> list[object]:
    purging = found.model.storage.maintenance.uploadpurging.age
    location = found.location()
    options = (purging, defaults(found), found.health_files)
    return [location, location.url, found.notifications, found.cache, options]


@pytest.mark.parametrize("key", [key for key in TAKEN if SPECIAL.get(key, "") is not None])
def test_key_that_is_taken_has_an_effect(tmp_path: Path, key: str) -> None:
    text = SPECIAL.get(key) or OTHER.get(TYPES[key], "true")
    full = FULL % DRIVERS["storage.s3" in key]
    variable = key.replace("notifications.events", "notifications.eventconfig")
    variable = variable.replace("health.file", "health.filecheckers")
    name = "REGISTRY_" + variable.replace("[]", ".0").replace(".", "_").upper()
    before = _effects(config(tmp_path, full))
    after = config(tmp_path, full, {name: text})
    assert after.warnings == ()
    assert _effects(after) != before


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/b"}, "/b"),
        ({"REGISTRY_STORAGE": "s3", "REGISTRY_STORAGE_S3_BUCKET": "b"}, "s3://b"),
        ({"REGISTRY_STORAGE": "{s3aws: {bucket: b, rootdirectory: r}}"}, "s3://b/r"),
        ({"REGISTRY_CONFIGURATION_PATH": "/b"}, "/a"),
    ],
)
def test_variable_overrides_the_storage(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    """[S20.2] `REGISTRY_…` variables override the file as they do for a registry."""
    found = config(tmp_path, "storage: {filesystem: {rootdirectory: /a}}", variables)
    assert str(found.location()) == expected
    assert found.warnings == ()


def test_variable_that_replaces_the_storage_erases_the_rest_of_the_section(tmp_path: Path) -> None:
    """[S20.2] `REGISTRY_STORAGE=s3` replaces the whole section."""
    text = "storage: {filesystem: {}, delete: {enabled: true}}"
    assert config(tmp_path, text, {"REGISTRY_STORAGE": "filesystem"}).model.storage.delete == (
        Model().storage.delete
    )


def test_variable_sets_an_item_of_a_list_by_its_index(tmp_path: Path) -> None:
    """[S20.2] With the index of an item in a list."""
    variables = {
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_NAME": "a",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_URL": "http://a.test",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_HEADERS_AUTHORIZATION": "[Bearer x]",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_1": "{name: b, url: 'http://b.test'}",
        "REGISTRY_REDIS_ADDRS_0": "localhost:1",
        "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "redis",
    }
    found = config(tmp_path, "storage: {filesystem: {}}", variables)
    assert [endpoint.name for endpoint in found.notifications.endpoints] == ["a", "b"]
    assert found.notifications.endpoints[0].headers == (("authorization", "Bearer x"),)
    assert found.cache == "redis://localhost:1/0"


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        ("REGISTRY_STORGE", "STORGE is not known; STORAGE is"),
        ("REGISTRY_NOTIFICATIONS_EVENTS_INCLUDEREFERENCES", "EVENTS is not known"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "change storage.maintenance.readonly"),
        ("REGISTRY_CATALOG_MAXENTRIES_X", "catalog.maxentries has no keys"),
    ],
)
def test_variable_that_a_registry_ignores_is_a_warning(
    tmp_path: Path, variable: str, why: str
) -> None:
    """[S20.2] A variable that a registry ignores is a warning."""
    text = "storage: {filesystem: {}, maintenance: {readonly: {enabled: false}}}"
    found = config(tmp_path, text, {variable: "true"})
    [warning] = found.warnings
    assert warning.startswith(f"{variable} is ignored, as by a registry: {why}")
    assert found.model.storage.maintenance.readonly.enabled is False


@pytest.mark.parametrize(
    ("text", "variables", "why"),
    [
        (
            "storage:\n  s3:\n    bucket: b\n    chunksize: 1SECRET",
            {},
            "{}:4: storage.s3.chunksize must be a number",
        ),
        (
            "storage:\n  s3:\n    bucket: b\n    chunksize: 1",
            {},
            "{}:4: storage.s3.chunksize must be between 5242880 and 5368709120",
        ),
        (
            "storage: {s3: {bucket: b,\n accesskey: 'SECRET SECRET'}}",
            {},
            "{}:2: storage.s3.accesskey must be printable, without spaces",
        ),
        (
            "storage: {s3: {bucket: b,\n regionendpoint: 'http://SECRET:SECRET@s3.test'}}",
            {},
            "{}:2: storage.s3.regionendpoint must not hold keys",
        ),
        ("storage: {s3: {region: SECRET}}", {}, "{}:1: storage.s3.bucket is missing"),
        (
            "storage: {filesystem: {}}",
            {"REGISTRY_STORAGE_DELETE_ENABLED": "SECRET"},
            "REGISTRY_STORAGE_DELETE_ENABLED: storage.delete.enabled must be true or false",
        ),
        (
            "storage: {filesystem: {}}",
            {"REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME": "SECRET"},
            "REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME: 1 must be an index, 0 at most",
        ),
        (
            "storage: {filesystem: {}}",
            {"REGISTRY_LOG_LEVEL": "[SECRET"},
            "REGISTRY_LOG_LEVEL is not YAML; quote the value",
        ),
        ("storage: {filesystem: {}}\nlog: {level: SECRET}", {}, "{}:2: log.level must be error or"),
        ("version: 0.2", {}, "{}:1: version must be 0.1"),
        ("storage: SECRET\nredis: {db: x}", {}, "{}:2: redis.db must be a number"),
        (
            "storage:\n  filesystem: {rootdirectory: data}",
            {},
            "{}:2: storage.filesystem.rootdirectory must be absolute: a relative path depends on"
            " the registry's working directory; set REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY",
        ),
        ("log: {level: info}", {}, "{}: storage names no driver; add one, or give the storage as"),
        ("storage: {cache: {}}", {}, "{}:1: storage names no driver"),
        (
            "storage: {filesystem: {}, s3: {}}",
            {},
            "{}:1: storage must have one driver, and has filesystem, s3; REGISTRY_STORAGE=DRIVER",
        ),
        (
            "storage: {azure: {accountkey: SECRET}}",
            {},
            "{}:1: storage.azure cannot be used: blobfs",
        ),
        ("storage: gcs", {}, "{}:1: storage.gcs cannot be used: blobfs has the drivers filesystem"),
        ("storage: inmemory", {}, "{}:1: storage.inmemory is in the memory of the registry's"),
        ("storage: {inmemory: }", {}, "{}:1: storage.inmemory is in the memory of the registry's"),
    ],
)
def test_mistake_is_reported_by_its_place_and_not_by_its_value(
    tmp_path: Path, text: str, variables: dict[str, str], why: str
) -> None:
    """[S20.4] A wrong value is an error with the file, the line, the key, and what is expected.

    [S20.5] A driver that blobfs lacks, no driver, and several drivers are errors that name them.
    """
    with pytest.raises(MountRefused) as caught:
        config(tmp_path, text, variables).location()
    assert str(caught.value).startswith(why.format(tmp_path / "config.yml"))
    assert "SECRET" not in str(caught.value).replace("AWS_SECRET", "")


def test_half_of_the_keys_is_ignored_as_by_a_registry(tmp_path: Path) -> None:
    bucket = config(tmp_path, "storage: {s3: {bucket: b, accesskey: a}}").location().bucket
    assert bucket is not None
    assert bucket.credentials is None


def test_key_of_encryption_without_encryption_is_ignored_as_by_a_registry(tmp_path: Path) -> None:
    bucket = config(tmp_path, "storage: {s3: {bucket: b, keyid: k}}").location().bucket
    assert bucket is not None
    assert bucket.for_writes == {}


def test_unknown_keys_share_one_warning(tmp_path: Path) -> None:
    """[S15.9] All other unknown keys share one warning."""
    text = "storage: {filesystem: {xyzzy: 1}}\nplugh: 1\nx-anchors: {}\n"
    [warning] = config(tmp_path, text).warnings
    assert warning.endswith(
        "keys that no registry has are ignored: storage.filesystem.xyzzy (1), plugh (2)"
    )


def test_anchors_and_merges_are_resolved(tmp_path: Path) -> None:
    text = "x-common: &c {bucket: b}\nstorage: {s3: {<<: *c, rootdirectory: r}}"
    assert str(config(tmp_path, text).location()) == "s3://b/r"
