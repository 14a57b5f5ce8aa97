"""The keys of a registry's configuration file that blobfs takes, with their defaults.

Source of truth: distribution 2.8.3 and 3.1.1, ``configuration/configuration.go`` and the storage
drivers. The defaults are those of blobfs, which differ from distribution's where its own way to
use a storage needs others. ``ignored_keys`` has all other keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blobfs.config.schema import BLOBFS, Headers, Seconds, taken
from blobfs.drivers.s3.options import S3Options
from blobfs.storage.events import Action

_DAY_S: Final = 24 * 3600.0
_SECOND: Final = Seconds(1)
_WEEK: Final = Seconds(7 * _DAY_S)
_NO_HEADERS: Final = Headers()
_S3: Final = S3Options("default")


@dataclass(frozen=True, slots=True)
class Log:
    """The log."""

    level: str = taken(
        "info", "the default of `--log-level`", choices=("error", "warn", "info", "debug")
    )
    formatter: str = taken(
        "text",
        "the default of `--log-format`; `logstash` is `json`",
        choices=("text", "json", "logstash"),
    )


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Parameters of the filesystem driver."""

    rootdirectory: str = taken("/var/lib/registry", "the directory of the storage")


@dataclass(frozen=True, slots=True)
class S3:
    """Parameters of the s3 driver; ``s3aws`` and ``s3goamz`` are other names of it."""

    bucket: str = taken("", "the bucket of the storage")
    rootdirectory: str = taken("", "the prefix of the storage's keys")
    accesskey: str = taken(
        "", "credentials; without both keys boto3 looks for them", is_secret=True
    )
    secretkey: str = taken("", "credentials", is_secret=True)
    sessiontoken: str = taken(
        "", "credentials; a registry ignores the key", is_secret=True, only=BLOBFS
    )
    region: str = taken("", "the region; without it boto3's, or `us-east-1`")
    regionendpoint: str = taken("", "the URL of the server, or its host and port")
    forcepathstyle: bool | None = taken(
        None, "addressing of the bucket; without it the way that suits the endpoint"
    )
    secure: bool = taken(True, "TLS, for an endpoint without `http://` or `https://`")
    skipverify: bool = taken(False, "no check of the server's certificate")
    accelerate: bool = taken(False, "Amazon's accelerated endpoint")
    usedualstack: bool = taken(False, "Amazon's IPv6 endpoint")
    usefipsendpoint: bool = taken(False, "Amazon's FIPS endpoint", only="3")
    useragent: str = taken("", "a part of the `User-Agent` of requests")
    encrypt: bool = taken(False, "encryption by the server")
    keyid: str = taken("", "the key of KMS, with `encrypt`")
    storageclass: str = taken("STANDARD", "the storage class of new objects; `NONE` sends none")
    objectacl: str = taken("", "the ACL of new objects")
    chunksize: int = taken(_S3.chunk_size, "the size of a part of an upload in bytes")
    multipartcopychunksize: int = taken(
        _S3.copy_chunk_size, "the size of a part of a copy in bytes"
    )
    multipartcopymaxconcurrency: int = taken(
        _S3.copy_streams, "concurrent requests of a copy; 256 at most"
    )
    multipartcopythresholdsize: int = taken(
        _S3.copy_threshold, "the size up to which a copy is one request"
    )
    streams: int = taken(_S3.streams, "concurrent requests", only=BLOBFS)
    profile: str = taken("", "the profile in boto3's files", only=BLOBFS)
    cabundle: str = taken("", "a file of CA certificates", only=BLOBFS)
    requestpayer: bool = taken(False, "the requester pays", only=BLOBFS)


@dataclass(frozen=True, slots=True)
class Cache:
    """The descriptor cache."""

    blobdescriptor: str = taken("", "the default of `--cache`", choices=("redis", "inmemory"))
    layerinfo: str = taken("", "the older name of `blobdescriptor`", choices=("redis", "inmemory"))


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes by clients."""

    enabled: bool = taken(False, "the default of `--allow-delete`")


@dataclass(frozen=True, slots=True)
class UploadPurging:
    """The removal of old uploads."""

    age: Seconds = taken(_WEEK, "the default of `--older-than` in `blobfs uploads purge`")


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """The mode without changes."""

    enabled: bool = taken(False, "the default of `--read-only`")


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Upkeep of the storage."""

    uploadpurging: UploadPurging = UploadPurging()
    readonly: ReadOnly = ReadOnly()


@dataclass(frozen=True, slots=True)
class Storage:
    """The driver with its parameters; a registry allows exactly one driver."""

    filesystem: Filesystem = Filesystem()
    s3: S3 = S3()
    s3aws: S3 = S3()
    s3goamz: S3 = S3()
    cache: Cache = Cache()
    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()


@dataclass(frozen=True, slots=True)
class Http:
    """The HTTP server."""

    host: str = taken("", "the base of the URLs in events")


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A file whose existence is a failure."""

    file: str = taken("", "`/readyz` fails while this file exists")


@dataclass(frozen=True, slots=True)
class Health:
    """Health checks."""

    file: tuple[FileCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Events:
    """The content of events."""

    includereferences: bool = taken(False, "events of manifests name what they refer to")
    pulls: bool = taken(False, "events of reads; a registry always sends them", only=BLOBFS)


@dataclass(frozen=True, slots=True)
class Ignore:
    """A filter of events."""

    mediatypes: tuple[str, ...] = taken((), "media types without events")
    actions: tuple[str, ...] = taken((), "actions without events", choices=tuple(Action))


@dataclass(frozen=True, slots=True)
class EndpointSection:
    """An endpoint of notifications."""

    name: str = taken("", "the name of the endpoint and of its queue")
    disabled: bool = taken(False, "no events")
    url: str = taken("", "where events are posted", is_secret=True)
    headers: Headers = taken(_NO_HEADERS, "headers of each request", is_secret=True)
    timeout: Seconds = taken(_SECOND, "the time limit of a request", most=_DAY_S)
    threshold: int = taken(10, "failures before a pause")
    backoff: Seconds = taken(_SECOND, "the pause", most=_DAY_S)
    ignoredmediatypes: tuple[str, ...] = taken((), "media types without events")
    ignore: Ignore = Ignore()


@dataclass(frozen=True, slots=True)
class Notifications:
    """Events and their endpoints."""

    events: Events = Events()
    endpoints: tuple[EndpointSection, ...] = ()


@dataclass(frozen=True, slots=True)
class RedisTls:
    """TLS to the Redis."""

    enabled: bool = taken(False, "TLS; a registry ignores the key", only=BLOBFS)
    certificate: str = taken("", "the client's certificate, with `key`", only="3")
    key: str = taken("", "the key of the client's certificate", only="3")
    rootcas: tuple[str, ...] = taken((), "files of CA certificates", only="3")


@dataclass(frozen=True, slots=True)
class Redis:
    """The Redis of ``cache.blobdescriptor: redis``."""

    addr: str = taken("", "the server", only="2.8")
    addrs: tuple[str, ...] = taken((), "the server, nodes of a cluster, or sentinels", only="3")
    username: str = taken("", "the user", only="3")
    password: str = taken("", "the password", is_secret=True)
    db: int = taken(0, "the database")
    mastername: str = taken("", "the master that the sentinels name", only="3")
    sentinelusername: str = taken("", "the user of the sentinels", only="3")
    sentinelpassword: str = taken("", "the password of the sentinels", is_secret=True, only="3")
    tls: RedisTls = RedisTls()


@dataclass(frozen=True, slots=True)
class Model:
    """All keys that blobfs takes."""

    version: str = taken("0.1", "the version of the file's format", choices=("0.1",))
    log: Log = Log()
    loglevel: str = taken(
        "", "the older name of `log.level`", choices=("error", "warn", "info", "debug")
    )
    storage: Storage = Storage()
    http: Http = Http()
    health: Health = Health()
    notifications: Notifications = Notifications()
    redis: Redis = Redis()
