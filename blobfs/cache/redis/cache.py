"""The descriptor cache in Redis.

Source of truth: distribution, ``registry/storage/cache/redis/redis.go``. ``clear`` follows version
3.1.0: before it, a ``set`` for one repository restored the blob for those that had cleared it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Self, TypeVar

from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from blobfs import metrics
from blobfs.cache.base import Described, DescriptorCache, with_canonical
from blobfs.cache.redis.client import CONNECTIONS, Client, client_of
from blobfs.cache.redis.keys import (
    FIELDS,
    MTIME_PREFIX,
    as_linked,
    blob_key,
    descriptor_of,
    linked_key,
    members_key,
    mtime_key,
)
from blobfs.cache.redis.options import RedisOptions
from blobfs.concurrency import SingleFlight, ThreadPool
from blobfs.digest import Descriptor, Digest
from blobfs.errors import StorageTimeout, StorageUnavailable
from blobfs.reference import RepositoryName

if TYPE_CHECKING:
    from redis.client import Pipeline
    from redis.cluster import ClusterPipeline

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S: Final = 0.05
"""The time limit of a round trip, connecting included."""

_FAILURES: Final = (
    RedisError,
    RedisClusterException,
    OSError,
    ValueError,  # an invalid host name
)

_BATCH_IN_CLUSTER: Final = 25  # measured: 0.2 ms each in redis-py
_BATCH: Final = 100  # digests; measured: 1 to 3 ms, most of it in redis-py


class RedisCache(DescriptorCache):
    """Descriptors in the Redis of *options*; connects at the first call. Thread-safe.

    It owns the client and the threads of its calls. One thread creates the client for all.

    An ACL that is made for a registry refuses our own keys, the times of blobs. One refused
    command aborts a transaction, so the call is repeated without them, and times are not used
    from then on.
    """

    def __init__(self, options: RedisOptions, limit_s: float = LIMIT_S) -> None:
        self._options = options
        self._limit_s = limit_s
        self._threads = ThreadPool("redis", CONNECTIONS)
        self._connecting: SingleFlight[tuple[()], Client] = SingleFlight()
        self._client: Client | None = None
        self._has_times = True

    @classmethod
    def at(cls, url: str, limit_s: float = LIMIT_S) -> Self:
        """Create a cache in the server at *url*, whose calls take *limit_s* at most.

        Raises MountRefused.
        """
        return cls(RedisOptions.parse(url), limit_s)

    def __repr__(self) -> str:
        return f"RedisCache({self._options})"

    @property
    def is_local(self) -> bool:
        return False

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        found: list[Descriptor | None] = []
        for batch in self._batches(digests):
            call = partial(self._look_up, batch, repository)
            found += self._call("stat", partial(self._times_if_allowed, call))
        return found

    def _look_up(
        self, digests: Sequence[Digest], repository: RepositoryName | None, *, times: bool
    ) -> list[Descriptor | None]:
        pipeline = self._pipeline(transaction=False)
        for digest in digests:
            pipeline.hmget(blob_key(digest), FIELDS)
            if times:
                pipeline.get(mtime_key(digest))
            if repository is not None:
                pipeline.sismember(members_key(repository), str(digest))
                pipeline.hget(linked_key(repository, digest), "mediatype")
        replies = iter(_replies(pipeline))
        found = []
        for digest in digests:
            descriptor = descriptor_of(digest, next(replies), next(replies) if times else None)
            if repository is not None:
                descriptor = as_linked(descriptor, next(replies), next(replies))
            found.append(descriptor)
        return found

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        for batch in self._batches(list(with_canonical(descriptors, repository))):
            # A late set may follow a clear and would stay for ever, so it is cleared.
            undo = partial(self._clear, [described.digest for described in batch], repository)
            call = partial(self._set, batch)
            self._call("set", partial(self._times_if_allowed, call), undo)

    def _set(self, batch: Sequence[Described], *, times: bool) -> None:
        pipeline = self._pipeline(transaction=True)
        for digest, descriptor, repository in batch:
            key = blob_key(digest)
            if repository is not None:
                pipeline.sadd(members_key(repository), str(digest))
            pipeline.hset(key, items=["digest", str(descriptor.digest), "size", descriptor.size])
            pipeline.hsetnx(key, "mediatype", descriptor.media_type)
            if times and descriptor.mtime_ns is not None:
                pipeline.set(mtime_key(digest), descriptor.mtime_ns)
            elif times:  # the time in Redis may be that of an older copy of the blob
                pipeline.delete(mtime_key(digest))
            if repository is not None:
                pipeline.hset(linked_key(repository, digest), "mediatype", descriptor.media_type)
        _replies(pipeline)

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        for batch in self._batches(digests):
            self._call("clear", partial(self._clear, batch, repository))

    def _clear(self, digests: Sequence[Digest], repository: RepositoryName | None) -> None:
        self._times_if_allowed(partial(self._clear_keys, digests, repository))

    def _clear_keys(
        self, digests: Sequence[Digest], repository: RepositoryName | None, *, times: bool
    ) -> None:
        try:
            pipeline = self._pipeline(transaction=True)
            self._send_clears(pipeline, digests, repository, times=times)
        except (OutOfMemoryError, NoPermissionError):
            # A full server refuses transactions, and an ACL may refuse MULTI. Without one, this
            # order of commands is safe too: the repository loses the blob first.
            pipeline = self._pipeline(transaction=False)
            self._send_clears(pipeline, digests, repository, times=times)

    def _send_clears(
        self,
        pipeline: Pipeline | ClusterPipeline,
        digests: Sequence[Digest],
        repository: RepositoryName | None,
        *,
        times: bool,
    ) -> None:
        if repository is not None:
            pipeline.srem(members_key(repository), *map(str, digests))
            if self._options.is_cluster:
                _replies(pipeline)
        for digest in digests:
            if repository is not None:
                pipeline.delete(linked_key(repository, digest))
            pipeline.hdel(blob_key(digest), *FIELDS)
            if times:
                pipeline.delete(mtime_key(digest))
        _replies(pipeline)

    def _times_if_allowed(self, call: Callable[..., T]) -> T:
        """Return the result of *call* with our own keys, or without them if the server refuses."""
        if self._has_times:
            try:
                return call(times=True)
            except NoPermissionError:
                result = call(times=False)  # raises if the registry's keys are refused as well
            if self._has_times:
                self._has_times = False
                log.warning(
                    "%s refuses the keys %s*: times of blobs are read from the storage;"
                    " allow ~%s* to its user and mount again to cache them",
                    self._options,
                    MTIME_PREFIX,
                    MTIME_PREFIX,
                )
            return result
        return call(times=False)

    def _batches(self, items: Sequence[T]) -> Iterator[list[T]]:
        rest = iter(items)
        size = _BATCH_IN_CLUSTER if self._options.is_cluster else _BATCH
        while batch := list(islice(rest, size)):
            yield batch

    def _pipeline(self, *, transaction: bool) -> Pipeline | ClusterPipeline:
        client = self._client or self._connecting.run((), self._connect)
        return client.pipeline(transaction=transaction and not self._options.is_cluster)

    def _connect(self) -> Client:
        self._client = self._client or client_of(self._options, self._limit_s)
        return self._client

    def _call(
        self, operation: str, call: Callable[[], T], undo: Callable[[], None] | None = None
    ) -> T:
        with _redis_errors(self._options), metrics.REDIS_SECONDS.labels(operation).time():
            return self._threads.run_within(self._limit_s, call, undo)

    def close(self) -> None:
        self._threads.close()
        if self._client is not None:
            self._client.close()


@contextmanager
def _redis_errors(options: RedisOptions) -> Iterator[None]:
    """Translate redis-py's errors into StorageTimeout and StorageUnavailable."""
    try:
        yield
    except StorageTimeout as exc:
        raise StorageTimeout(f"{options}: {exc}") from None
    except RedisTimeout as exc:
        raise StorageTimeout(f"{options}: {_reason(exc, options)}") from None
    except ResponseError as exc:
        raise StorageUnavailable(f"{options} answered: {_reason(exc, options)}") from None
    except _FAILURES as exc:
        raise StorageUnavailable(f"{options}: {_reason(exc, options)}") from None


def _reason(exc: Exception, options: RedisOptions) -> str:
    """Return the text of an error without the command: a server may quote the password."""
    text = str(exc).rpartition("caused error: ")[2].partition("with args")[0]
    for secret in options.secrets:
        text = text.replace(secret, "…")
    return text.strip(" ,") or type(exc).__name__


def _replies(pipeline: Pipeline | ClusterPipeline) -> list[object]:
    """Return the reply to each command; None for a key of another type (WRONGTYPE)."""
    replies: list[object] = pipeline.execute(raise_on_error=False)
    for position, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if "WRONGTYPE" not in str(reply):
                raise reply
            replies[position] = None
    return replies
