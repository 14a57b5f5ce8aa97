"""The options of a bucket, from a storage URL or from a registry's configuration.

Their names are those of distribution's s3 driver (``registry/storage/driver/s3-aws/s3.go``).
boto3 finds credentials, a region or an endpoint that is not given, in the environment, in its
files, or from the machine's role.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from blobfs.errors import MountRefused

MIN_PART: Final = 5 * 2**20
"""The minimal size in bytes of every part but the last (AWS, "Multipart upload limits")."""

MAX_STREAMS: Final = 256
"""The largest number of concurrent requests."""

_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")

_SECRETS: Final = ("accesskey", "secretkey", "sessiontoken")

_CREDENTIALS_ADVICE: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=…"

_SIZES: Final = {
    "chunksize": ("chunk_size", MIN_PART, 5 * 2**30),
    "multipartcopychunksize": ("copy_chunk_size", MIN_PART, 5 * 2**30),
    "multipartcopymaxconcurrency": ("copy_streams", 1, MAX_STREAMS),
    "multipartcopythresholdsize": ("copy_threshold", 0, 5 * 2**30),
    "streams": ("streams", 1, MAX_STREAMS),
}
"""Numeric options: the name of the field, the minimum and the maximum."""

_URL_SAFE: Final = "/:,@"  # readable in a query


class S3OptionInvalid(MountRefused):
    """The value of *option* is invalid; *expected* describes valid ones, without the value."""

    def __init__(self, option: str, expected: str, value: str | None = None) -> None:
        found = "" if value is None else f", not {value!r}"
        super().__init__(f"S3 option {option} {expected}{found}")
        self.option = option
        self.expected = expected


class Credentials(NamedTuple):
    """The keys of an account; no ``repr`` shows them."""

    access_key: str
    secret_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True, slots=True)
class S3Options:
    """A bucket and the options of its requests; immutable. Sizes are in bytes.

    *streams* bounds the parallel requests. *attempts* bounds the attempts of one request: the
    sixth is about 8 s after the first. *chunk_size* is the size of a multipart upload's parts.
    *root* is the prefix of all keys, without slashes at its ends. Without *credentials* boto3 looks
    for them. *given* has the options as they were given, without secrets.

    Pickled options have no credentials, as the bytes may cross a network in clear text.
    """

    bucket: str
    root: str = ""
    region: str | None = None
    endpoint: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    profile: str | None = None
    ca_bundle: str | None = None
    verify_tls: bool = True
    chunk_size: int = 8 * 2**20
    copy_chunk_size: int = 64 * 2**20
    copy_streams: int = 16
    copy_threshold: int = 64 * 2**20
    use_tls: bool = True
    accelerate: bool = False
    dual_stack: bool = False
    fips: bool = False
    user_agent: str | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    streams: int = 32
    attempts: int = 6
    for_reads: Mapping[str, str] = field(default_factory=dict, hash=False)
    for_writes: Mapping[str, str] = field(default_factory=dict, hash=False)
    given: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        """The storage's URL without its options."""
        return f"s3://{self.bucket}/{self.root}".rstrip("/")

    def __reduce__(self) -> tuple[Callable[[], S3Options], tuple[()]]:
        names = (each.name for each in fields(self) if each.name != "credentials")
        return partial(S3Options, **{name: getattr(self, name) for name in names}), ()

    @classmethod
    def parse(cls, storage: str) -> S3Options:
        """Parse ``s3://bucket/prefix?option=value&…``; raises MountRefused."""
        try:
            url = urlsplit(storage)
        except ValueError:
            raise MountRefused("the storage is not s3://bucket/prefix") from None
        if _BUCKET.fullmatch(url.netloc) is None or url.fragment:
            shown = repr(storage.partition("?")[0]) if "@" not in storage else "a URL with an @"
            raise MountRefused(f"{shown} is not s3://bucket/prefix")
        return cls.of(url.netloc, unquote(url.path), _without_secrets(url.query))

    @classmethod
    def of(
        cls,
        bucket: str,
        root: str,
        given: Mapping[str, str],
        credentials: Credentials | None = None,
    ) -> S3Options:
        """Create the options from their texts; raises S3OptionInvalid."""
        if _BUCKET.fullmatch(bucket) is None:
            raise S3OptionInvalid("bucket", "must be the name of a bucket")
        rest = dict(given)
        secure = bool(_flag(rest, "secure", default=True))
        options = cls(
            bucket=bucket,
            root=root.strip("/"),
            region=rest.pop("region", None),
            endpoint=_endpoint(rest.pop("regionendpoint", None), secure=secure),
            addressing_style=_addressing_style(rest),
            profile=rest.pop("profile", None),
            ca_bundle=rest.pop("cabundle", None),
            verify_tls=not _flag(rest, "skipverify", default=False),
            use_tls=secure,
            accelerate=bool(_flag(rest, "accelerate", default=False)),
            dual_stack=bool(_flag(rest, "usedualstack", default=False)),
            fips=bool(_flag(rest, "usefipsendpoint", default=False)),
            user_agent=rest.pop("useragent", None),
            credentials=credentials,
            given=dict(given),
            **_sizes(rest),
            **_headers(rest),
        )
        if rest:
            known = "region, regionendpoint, forcepathstyle, encrypt, keyid, storageclass, …"
            raise MountRefused(f"unknown S3 option {min(rest)!r}; known are {known}")
        return options

    @property
    def url(self) -> str:
        """The storage's URL with its options, but without credentials."""
        options = urlencode(self.given, safe=_URL_SAFE, quote_via=quote)
        return f"{self}?{options}" if options else str(self)

    def key(self, path: str) -> str:
        """The key of the object that stores *path*."""
        return f"{self.root}{path}" if self.root else path[1:]

    def path(self, key: str) -> str:
        """The path of the file that the object *key* stores."""
        return key[len(self.root) :] if self.root else f"/{key}"

    def prefix(self, path: str) -> str:
        """The common prefix of all keys below the directory *path*."""
        key = self.key(path).rstrip("/")
        return f"{key}/" if key else ""


def _without_secrets(query: str) -> dict[str, str]:
    """Parse the query of a URL; raises MountRefused if it has a secret."""
    given = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    for name in _SECRETS:
        if name in given:
            raise MountRefused(
                f"{name} is not allowed in a URL, which every user of the machine can see;"
                f" {_CREDENTIALS_ADVICE}"
            )
    return given


def _flag(given: dict[str, str], name: str, *, default: bool | None) -> bool | None:
    text = given.pop(name, None)
    if text is None:
        return default
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise S3OptionInvalid(name, "must be true or false", text) from None


def _sizes(given: dict[str, str]) -> dict[str, Any]:
    """Parse the numeric options that are given."""
    sizes = {}
    for option, (name, least, most) in _SIZES.items():
        text = given.pop(option, None)
        if text is None:
            continue
        if not text.isdecimal() or not least <= int(text) <= most:
            raise S3OptionInvalid(option, f"must be between {least} and {most}", text)
        sizes[name] = int(text)
    return sizes


def _addressing_style(given: dict[str, str]) -> Literal["auto", "path", "virtual"]:
    forced = _flag(given, "forcepathstyle", default=None)
    if forced is None:
        return "auto"
    return "path" if forced else "virtual"


def _endpoint(text: str | None, *, secure: bool) -> str | None:
    if text and "@" in text:
        raise S3OptionInvalid("regionendpoint", f"must not hold keys; {_CREDENTIALS_ADVICE}")
    if not text or "://" in text:
        return text
    return f"{'https' if secure else 'http'}://{text}"


def _headers(given: dict[str, str]) -> dict[str, Any]:
    """The parameters of all requests, and those of requests that create an object."""
    reads = {}
    if _flag(given, "requestpayer", default=False):
        reads["RequestPayer"] = "requester"
    writes = {}
    key_id = given.pop("keyid", "")
    if _flag(given, "encrypt", default=False):
        writes["ServerSideEncryption"] = "aws:kms" if key_id else "AES256"
        if key_id:
            writes["SSEKMSKeyId"] = key_id
    elif key_id:
        raise S3OptionInvalid("keyid", "requires encrypt=true")
    storage_class = given.pop("storageclass", "STANDARD").upper()
    if storage_class not in ("STANDARD", "NONE"):
        writes["StorageClass"] = storage_class
    if acl := given.pop("objectacl", ""):
        writes["ACL"] = acl
    return {"for_reads": reads, "for_writes": writes}
