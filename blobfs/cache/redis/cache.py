"""A cache in Redis, shared with the registries beside us.

Nothing expires: a server that is to forget does so by ``maxmemory-policy allkeys-lru``. Source
of truth: distribution, ``registry/storage/cache/redis/redis.go``, and for ``clear`` its 3.1.0:
until then a repository that lost a blob got it back with the next that was given it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Lock
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
from blobfs.cache.timelimit import TimeLimit
from blobfs.digest import Descriptor, Digest
from blobfs.errors import StorageTimeout, StorageUnavailable
from blobfs.reference import RepositoryName

if TYPE_CHECKING:
    from redis.client import Pipeline
    from redis.cluster import ClusterPipeline

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S: Final = 0.05
"""How long a round trip may take, connecting included; every hundred digests make one."""

_FAILURES: Final = (
    RedisError,
    RedisClusterException,
    OSError,
    ValueError,  # a host that no name can be
)

_BATCH_IN_CLUSTER: Final = 25  # redis-py takes 0.2 ms for each
_BATCH: Final = 100  # digests; they take 1 to 3 ms here, most of it in redis-py


class RedisCache(DescriptorCache):
    """Descriptors in the Redis that *options* name, which need not be there yet.

    In a cluster, where the keys of a blob are on several servers, nothing is a transaction.
    There a repository loses a blob first, and then the rest of it is forgotten: what stops in
    between gives nothing back.

    A server may refuse our own keys, by an ACL for a registry's. One refused command aborts a
    transaction, so it is made again without them, and from then on no time is remembered.
    """

    def __init__(self, options: RedisOptions, limit_s: float = LIMIT_S) -> None:
        self._options = options
        self._limit_s = limit_s
        self._limit = TimeLimit(limit_s, threads=CONNECTIONS)
        self._connecting = Lock()
        self._made: Client | None = None
        self._has_times = True

    @classmethod
    def at(cls, url: str) -> Self:
        """A cache in the server at *url*; raises MountRefused."""
        return cls(RedisOptions.parse(url))

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
            found += self._call("stat", partial(self._with_times, call))
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
            # What is set late, perhaps after a clear, is cleared: nothing expires.
            undo = partial(self._forget, [described.digest for described in batch], repository)
            call = partial(self._remember, batch)
            self._call("set", partial(self._with_times, call), undo)

    def _remember(self, batch: Sequence[Described], *, times: bool) -> None:
        pipeline = self._pipeline(transaction=True)
        for digest, descriptor, repository in batch:
            key = blob_key(digest)
            if repository is not None:
                pipeline.sadd(members_key(repository), str(digest))
            pipeline.hset(key, items=["digest", str(descriptor.digest), "size", descriptor.size])
            pipeline.hsetnx(key, "mediatype", descriptor.media_type)
            if times and descriptor.mtime_ns is not None:
                pipeline.set(mtime_key(digest), descriptor.mtime_ns)
            elif times:  # what was remembered may be another's, stored before
                pipeline.delete(mtime_key(digest))
            if repository is not None:
                pipeline.hset(linked_key(repository, digest), "mediatype", descriptor.media_type)
        _replies(pipeline)

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        for batch in self._batches(digests):
            self._call("clear", partial(self._forget, batch, repository))

    def _forget(self, digests: Sequence[Digest], repository: RepositoryName | None) -> None:
        self._with_times(partial(self._forget_with, digests, repository))

    def _forget_with(
        self, digests: Sequence[Digest], repository: RepositoryName | None, *, times: bool
    ) -> None:
        try:
            pipeline = self._pipeline(transaction=True)
            self._forget_by(pipeline, digests, repository, times=times)
        except (OutOfMemoryError, NoPermissionError):
            # A full server takes no transaction, nor does one that refuses MULTI; but this order
            # gives nothing back either.
            pipeline = self._pipeline(transaction=False)
            self._forget_by(pipeline, digests, repository, times=times)

    def _forget_by(
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

    def _with_times(self, call: Callable[..., T]) -> T:
        """The result of *call* with our own keys, or without those that the server refuses."""
        if self._has_times:
            try:
                return call(times=True)
            except NoPermissionError:
                result = call(times=False)  # raises if the registry's keys are refused as well
            if self._has_times:
                self._has_times = False
                log.warning(
                    "%s refuses the keys %s*: the storage is asked for the times of blobs;"
                    " allow ~%s* to its user and mount again to have them remembered",
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
        with self._connecting:
            if self._made is None:
                self._made = client_of(self._options, self._limit_s)
        return self._made.pipeline(transaction=transaction and not self._options.is_cluster)

    def _call(
        self, operation: str, call: Callable[[], T], undo: Callable[[], None] | None = None
    ) -> T:
        with _redis_errors(self._options), metrics.REDIS_SECONDS.labels(operation).time():
            return self._limit.run(call, undo)

    def close(self) -> None:
        self._limit.close()
        if self._made is not None:
            self._made.close()


@contextmanager
def _redis_errors(options: RedisOptions) -> Iterator[None]:
    """Say redis-py's errors in our own words: the one place that knows both."""
    try:
        yield
    except StorageTimeout as exc:
        raise StorageTimeout(f"{options}: {exc}") from None
    except RedisTimeout as exc:
        raise StorageTimeout(f"{options}: {_said(exc, options)}") from None
    except ResponseError as exc:
        raise StorageUnavailable(f"{options} answered: {_said(exc, options)}") from None
    except _FAILURES as exc:
        raise StorageUnavailable(f"{options}: {_said(exc, options)}") from None


def _said(exc: Exception, options: RedisOptions) -> str:
    """Why a call failed, without what it was: a server may quote our password."""
    said = str(exc).rpartition("caused error: ")[2].partition("with args")[0]
    for secret in options.secrets:
        said = said.replace(secret, "…")
    return said.strip(" ,") or type(exc).__name__


def _replies(pipeline: Pipeline | ClusterPipeline) -> list[object]:
    """What the server answers to each command; None where the key is not what it should be."""
    replies: list[object] = pipeline.execute(raise_on_error=False)
    for position, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if "WRONGTYPE" not in str(reply):
                raise reply
            replies[position] = None
    return replies
