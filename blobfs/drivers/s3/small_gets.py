"""Small GETs and PUTs through obstore, which take a fifth of the CPU time of boto3's.

obstore makes one attempt. Its results are complete ranges, stored objects, and the errors that S3
names in ``_ANSWERS``. After any other end, such as a broken connection, a refusal or a page of a
proxy, boto3 repeats the request: only boto3 retries, and only its answers become errors. boto3 then
makes all requests for ``_PAUSE_S``, so that a server which fails, or suits obstore never, costs few
requests.

boto3 also finds the credentials and makes the address of the bucket, so every option that changes
them is in force. ``_suits`` names the options that obstore does not have.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.request import getproxies

import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import S3Store

from blobfs import metrics
from blobfs.concurrency import CallLock, ThreadPool
from blobfs.drivers.s3.options import Credentials, S3Options

if TYPE_CHECKING:
    from botocore.session import Session
    from obstore import Attributes, GetOptions
    from obstore.store import S3Credential
    from types_boto3_s3.client import S3Client

T = TypeVar("T")

CONNECT_S: Final = 5.0
ANSWER_S: Final = 15.0

LARGEST: Final = 5 * 2**20
"""The size in bytes of the largest range. obstore and boto3 take the same time for 4 MiB."""

_PAUSE_S: Final = 10.0

_ANSWERS: Final = {"404 NoSuchKey", "412 PreconditionFailed", "416 InvalidRange"}
"""The statuses and codes of errors that are results."""

_ERROR: Final = re.compile(
    r"status code: (\d{3})(?:[^<:]*: (?:<\?xml[^>]*\?>)?\s*<Error\b[^>]*>.*?<Code>(\w+)</Code>)?",
    re.DOTALL,
)
"""The status in obstore's text of an error, and the code if the body is an error of S3."""

_KEY: Final = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)
"""Keys that obstore sends unchanged. It removes a slash at an end, for instance."""


class ObjectRange(NamedTuple):
    """A range of an object's bytes; *size* (in bytes) and *etag* are those of the whole object."""

    content: bytes
    size: int
    etag: str


class SmallGets:
    """Requests small ranges of a bucket's objects, and stores small objects.

    Thread-safe: fields are replaced as a whole.

    Owns a store of obstore for the current credentials. To create one takes 20 ms, so the lock
    keeps several threads from doing so.
    """

    _process: ClassVar[int | None] = None

    def __init__(
        self, client: S3Client, session: Session, options: S3Options, pool: ThreadPool
    ) -> None:
        self._client = client
        self._session = session
        self._options = options
        self._pool = pool
        self._suits = _suits(client, session, options)
        self._store: tuple[Credentials, S3Store] | None = None
        self._creating = CallLock()
        self._resumes_at = 0.0  # of time.monotonic()

    def get(self, key: str, offset: int, size: int, etag: str) -> ObjectRange | None:
        """Read up to *size* bytes; None if boto3 must make the request.

        Raises ClientError for a missing object, for another ETag than *etag*, and for an *offset*
        at the end or past it.
        """
        if size > LARGEST or _KEY.fullmatch(key) is None or not self._is_usable():
            return None
        return self._attempt("GetObject", partial(self._request, key, offset, size, etag))

    def put(self, key: str, content: bytes) -> bool | None:
        """Create or replace an object; None if boto3 must make the request.

        False if it must too, after an attempt that may have stored the object: its answer is lost.
        """
        if len(content) > LARGEST or self._options.for_writes:
            return None
        if _KEY.fullmatch(key) is None or not self._is_usable():
            return None
        return self._attempt("PutObject", partial(self._request_put, key, content)) is not None

    def _attempt(self, operation: str, request: Callable[[], T | None]) -> T | None:
        """Make one attempt; after a failure there is a pause. Raises ClientError."""
        try:
            # No signal interrupts a call of obstore. Only the main thread gets signals.
            is_main = current_thread() is main_thread()
            found = self._pool.submit(request).result() if is_main else request()
        except (BaseError, OSError) as exc:
            found = None
            _raise_answer(operation, exc)
        except BotoCoreError:  # no credentials
            found = None
        if found is None:
            self._resumes_at = time.monotonic() + _PAUSE_S
        return found

    def _is_usable(self) -> bool:
        if not self._suits or time.monotonic() < self._resumes_at:
            return False
        # The threads of obstore start with its first request. A child of fork(2) has none of them.
        process = os.getpid()
        SmallGets._process = SmallGets._process or process
        return SmallGets._process == process

    def _request(self, key: str, offset: int, size: int, etag: str) -> ObjectRange | None:
        """Make one attempt; None for an answer that is no complete range of an object."""
        store = self._current_store()
        if store is None:
            return None
        wanted = (offset, offset + size)
        conditions: GetOptions = {"if_match": etag} if etag else {}
        answer = obstore.get(store, key, options={"range": wanted, **conditions})
        content = answer.bytes().to_bytes()
        _count("GetObject", "206")
        meta = answer.meta
        start, end = answer.range
        is_complete = start == offset and end == min(wanted[1], meta["size"])
        is_page = str(answer.attributes.get("Content-Type", "")).lower().startswith("text/html")
        if is_page or not is_complete or len(content) != end - start or not meta["e_tag"]:
            return None
        return ObjectRange(content, meta["size"], meta["e_tag"])

    def _request_put(self, key: str, content: bytes) -> str | None:
        """Make one attempt, and return the ETag; None for an answer without one."""
        store = self._current_store()
        if store is None:
            return None
        kind: Attributes = {"Content-Type": "application/octet-stream"}
        answer = obstore.put(store, key, content, attributes=kind, use_multipart=False)
        _count("PutObject", "200")
        return answer["e_tag"] or None

    def keys(self) -> Credentials | None:
        """The current credentials; None if there are none."""
        credentials: Any = self._session.get_credentials()
        if credentials is None:
            return None
        return Credentials(*credentials.get_frozen_credentials()[:3])

    def _current_store(self) -> S3Store | None:
        keys = self.keys()
        if keys is None:
            return None
        current = self._store
        if current is None or current[0] != keys:
            with self._creating:
                current = self._store
                if current is None or current[0] != keys:
                    current = self._store = keys, self._new_store(keys)
        return current[1]

    def _new_store(self, keys: Credentials) -> S3Store:
        client, options = self._client, self._options
        return _store(_address(client, options), client.meta.region_name, keys, options)


def _suits(client: S3Client, session: Session, options: S3Options) -> bool:
    """False if obstore does not have an option: proxies, certificates, kinds of buckets.

    obstore adds certificates to those of the system. It does not replace them.
    """
    bundle = options.ca_bundle or session.get_config_variable("ca_bundle")
    has_bundle = bool(bundle or os.environ.get("REQUESTS_CA_BUNDLE"))
    verifies = options.verify_tls and client.meta.endpoint_url.startswith("https:")
    has_proxy = bool(getproxies().keys() - {"no"}) or "AWS_PROXY_URL" in os.environ
    is_directory_bucket = options.bucket.endswith("--x-s3")
    return not ((verifies and has_bundle) or has_proxy or is_directory_bucket or options.for_reads)


def _address(client: S3Client, options: S3Options) -> str:
    """The URL of the bucket for boto3, whose objects are below it."""
    url = client.generate_presigned_url("get_object", Params={"Bucket": options.bucket, "Key": "k"})
    return url.partition("?")[0].removesuffix("/k")


def _store(address: str, region: str, keys: Credentials, options: S3Options) -> S3Store:
    """Create a store that takes nothing from the environment but what boto3 takes."""
    credential: S3Credential = {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret_key,
        "token": keys.session_token,
        "expires_at": None,
    }
    return S3Store(
        options.bucket,
        endpoint=address,
        aws_endpoint_url_s3=address,  # else AWS_ENDPOINT_URL_S3, even with another endpoint
        virtual_hosted_style_request=True,  # the address has the bucket
        region=region,
        skip_signature=False,
        request_payer=False,
        credential_provider=lambda: credential,
        client_options={
            "allow_http": address.startswith("http:"),
            "allow_invalid_certificates": not options.verify_tls,
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=ANSWER_S),
            "user_agent": options.user_agent or "blobfs",
        },
        retry_config={"max_retries": 0},
    )


def _raise_answer(operation: str, exc: Exception) -> None:
    """Count a failed attempt, and raise ClientError if S3 has named the error in ``_ANSWERS``."""
    found = _ERROR.search(str(exc))
    _count(operation, found[1] if found else type(exc).__name__)
    if found is not None and f"{found[1]} {found[2]}" in _ANSWERS:
        raise ClientError({"Error": {"Code": found[2]}}, operation) from None


def _count(operation: str, status: str) -> None:
    metrics.S3_REQUESTS.labels(operation, status).inc()
