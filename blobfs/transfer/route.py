"""The way of a copy: its source and its target, as each process opens them for its tasks."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Final, NamedTuple, Self, TypeVar

from blobfs.drivers.base import Closing
from blobfs.drivers.rate_limit import Pacer
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    DigestMismatch,
    Interrupted,
    ManifestRejected,
    MountRefused,
    NotFound,
    SourceDenied,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from blobfs.transfer.base import Source, Target
from blobfs.transfer.places import DEFAULTS, Kind, Place, PlaceOptions, open_source, open_target

C = TypeVar("C", bound=Closing)
T = TypeVar("T")

_PAUSES_S: Final = (0.5, 2.0, 8.0)
"""The mean pauses before the second attempt of a call and the later ones."""

_UNANSWERED: Final = 10
"""Calls in a row that were not answered, each after all attempts, before a copy stops."""


@dataclass(frozen=True, slots=True)
class Route:
    """The source and the target of a copy, without credentials.

    A *second_look* asks storages again for what the first one has learnt.
    """

    source: Place
    target: Place
    source_options: PlaceOptions = DEFAULTS
    target_options: PlaceOptions = DEFAULTS
    bytes_per_s: int = 0
    verifies_target: bool = False
    second_look: bool = False


class Ends(Closing):
    """The open source and target of a route in this process. Thread-safe, as both are.

    *on_bytes* is called with the number of bytes that were read to be sent, and with its negative
    if they were not stored. Once ``is_stopped`` is set, calls that transfer blobs raise
    Interrupted. *on_pause* is called with the reason before a long pause between attempts.
    ``denied`` has the repositories of the target that may not be written.
    """

    def __init__(self, source: Source, target: Target, bytes_per_s: int) -> None:
        self.source = source
        self.target = target
        self.on_bytes: Callable[[int], None] = lambda _: None
        self.on_pause: Callable[[str], None] = lambda _: None
        self.is_stopped = False
        self.denied: dict[str, Fault] = {}
        self._unanswered = 0
        self._pacer = _pacer(bytes_per_s)

    def close(self) -> None:
        try:
            self.source.close()
        finally:
            self.target.close()

    def paced(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield *chunks* within the rate; raises Interrupted once the copy is stopped."""
        for chunk in chunks:
            self.check()
            self._pacer.wait(len(chunk))
            yield chunk

    @contextmanager
    def counted(self, chunks: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
        """Yield an iterator of *chunks* within the rate; after an error they do not count."""
        count = 0

        def each() -> Iterator[bytes]:
            nonlocal count
            with of_source():
                for chunk in self.paced(chunks):
                    yield chunk
                    count += len(chunk)
                    self.on_bytes(len(chunk))

        try:
            yield each()
        except BaseException:
            self.on_bytes(-count)
            raise

    def check(self) -> None:
        """Raise Interrupted once the copy is stopped."""
        if self.is_stopped:
            raise Interrupted("the copy was stopped")

    def attempt(self, call: Callable[[], T]) -> T:
        """Return the result of *call*, which is repeated after StorageUnavailable, a few times.

        Raises Interrupted once the copy is stopped, and after ten calls in a row without an answer.
        """
        for number, pause_s in enumerate(_PAUSES_S if self._unanswered < _UNANSWERED else ()):
            self.check()
            try:
                return self._answered(call)
            except StorageUnavailable as exc:
                if number:
                    self.on_pause(str(exc))
                time.sleep(pause_s * random.uniform(0.5, 1.5))
        self.check()
        try:
            return self._answered(call)
        except StorageUnavailable as exc:
            self._unanswered += 1
            if self._unanswered < _UNANSWERED:
                raise
            raise Interrupted(f"{exc}; nothing is answered any more") from None

    def _answered(self, call: Callable[[], T]) -> T:
        result = call()
        self._unanswered = 0
        return result


_opened: dict[Route, Ends] = {}
"""The ends of this process; tasks share them."""

_read_back: dict[Route, Source] = {}
"""The targets that are verified."""


@cache
def _pacer(bytes_per_s: int) -> Pacer:
    return Pacer(bytes_per_s)


def ends_of(route: Route) -> Ends:
    """Return this process's ends of *route*, which stay open until ``close_all``.

    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    return _opened.get(route) or _first(_opened, route, _open(route))


def _first(opened: dict[Route, C], route: Route, ours: C) -> C:
    """Add *ours* to *opened*, unless another thread was faster."""
    found = opened.setdefault(route, ours)
    if found is not ours:
        ours.close()
    return found


def _open(route: Route) -> Ends:
    first = ends_of(replace(route, second_look=False)) if route.second_look else None
    source = open_source(route.source, _with_login(route.source_options, "BLOBFS_SRC_CREDS"))
    if first is not None and route.target.kind is not Kind.STORAGE:
        target = first.target  # it has one writer
    else:
        target = open_target(route.target, _target_options(route))
    ends = Ends(source, target, route.bytes_per_s)
    if first is not None:
        ends.on_bytes, ends.on_pause = first.on_bytes, first.on_pause
    return ends


def _target_options(route: Route) -> PlaceOptions:
    return _with_login(route.target_options, "BLOBFS_DEST_CREDS")


def _with_login(options: PlaceOptions, variable: str) -> PlaceOptions:
    """Return options with the login in a variable of this process, ``USER:PASSWORD``."""
    given = os.environ.get(variable)
    if not given:
        return options
    user, colon, password = given.partition(":")
    if not colon:
        raise MountRefused(f"{variable} is not USER:PASSWORD")
    return replace(options, registry=replace(options.registry, credentials=(user, password)))


def stop_all() -> None:
    """Stop the transfers of this process."""
    for ends in list(_opened.values()):
        ends.is_stopped = True


def target_as_source(route: Route) -> Source:
    """Return the target of *route*, opened to be read, until ``close_all``; raises as ends_of."""
    found = _read_back.get(route)
    return found or _first(_read_back, route, open_source(route.target, _target_options(route)))


def close_all() -> None:
    """Close the ends of this process; no task may be under way."""
    while _read_back:
        _read_back.popitem()[1].close()
    while _opened:
        _opened.popitem()[1].close()


@contextmanager
def of_source() -> Iterator[None]:
    """Raise SourceDenied for AccessDenied, which is then the target's elsewhere."""
    try:
        yield
    except AccessDenied as exc:
        raise SourceDenied(str(exc)) from None


class Cause(Enum):
    """The cause of a fault."""

    GONE = "the source does not have the item"
    REJECTED = "the target does not accept the item"
    DAMAGED = "the bytes are wrong"
    UNAVAILABLE = "a place does not answer"
    DENIED = "a place denies access"
    OTHER = "other"


_CAUSES: Final[tuple[tuple[type[BlobfsError], Cause], ...]] = (
    (NotFound, Cause.GONE),
    (ManifestRejected, Cause.REJECTED),
    (DigestMismatch, Cause.DAMAGED),
    (StorageUnavailable, Cause.UNAVAILABLE),
    (AccessDenied, Cause.DENIED),
)


class Fault(NamedTuple):
    """The reason why an item cannot be copied."""

    text: str
    cause: Cause = Cause.OTHER

    @classmethod
    def of(cls, error: BlobfsError) -> Self:
        """Return the fault that *error* is; raises it if it stops the whole copy."""
        if isinstance(error, StorageFull | StorageReadOnly | MountRefused | Interrupted):
            raise error
        causes = (cause for kind, cause in _CAUSES if isinstance(error, kind))
        return cls(str(error), next(causes, Cause.OTHER))

    @property
    def is_looked_at_again(self) -> bool:
        """True if the item may be copied after a second look at its repository."""
        return self.cause in {Cause.GONE, Cause.REJECTED}
