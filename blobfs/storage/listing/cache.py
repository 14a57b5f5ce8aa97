"""Cache of an object store's listings; one request lists a thousand files.

A path in a repository is looked up in a flat listing of the whole repository if that is one page.
Otherwise it is looked up in a listing of the ``_layers``, ``_manifests`` or ``_uploads`` that has
the path. A path above the repositories is looked up in one page, or in a listing of the children.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, Literal, NamedTuple

from blobfs import paths
from blobfs.concurrency import SingleFlight, call_began, guard
from blobfs.drivers.base import DirEntry, FileInfo, is_below
from blobfs.drivers.objectstore import ListedFile, ObjectStore
from blobfs.drivers.resumable import Unfinished
from blobfs.errors import AccessDenied, PathNotFound

_MAX_FILES: Final = 200_000
"""Files kept in all listings (a few hundred bytes each); the oldest listing goes first."""

_WORTH: Final = 10.0
"""The least lifetime of a listing, as a multiple of its duration, so that it can be used."""

_FEW: Final = 2
"""Keys in a request for one file; one key may be hidden."""

_LARGE_FOR_S: Final = 300.0
"""The time for which a directory of more than one page is not tried as one page again."""


class _Key(NamedTuple):
    root: str
    extent: Literal["first", "page", "whole", "children", "unfinished"]


class Listing:
    """Files below the directory *root*: all of them, only its children, or a part."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.is_complete = False
        self.has_children = False  # all children of the root
        self.began = time.monotonic()
        self.until = 0.0
        self.files: dict[str, ListedFile] = {}
        self.unfinished: dict[str, Unfinished] = {}  # by path, the last one begun
        self._children: dict[str, dict[str, bool]] = {}  # by directory; True for a directory

    @property
    def cost(self) -> int:
        """The approximate memory, as a number of files."""
        return len(self.files) + len(self.unfinished) + len(self._children.get(self.root, ()))

    def is_valid(self, now: float) -> bool:
        """True within its lifetime, and for a call that began before it."""
        return self.until > now or self.began >= call_began.get()

    def add(self, file: ListedFile) -> None:
        """Add a file and the directories above it."""
        self.files[file.path] = file
        path, is_dir = file.path, False
        while path != self.root:
            path, _, name = path.rpartition("/")
            siblings = self._children.setdefault(path, {})
            known = name in siblings
            siblings[name] = is_dir or siblings.get(name, False)
            if known:
                return
            is_dir = True

    def add_child(self, entry: DirEntry) -> None:
        """Add a child of the root."""
        self._children.setdefault(self.root, {})[entry.name] = entry.is_dir

    def covers(self, path: str) -> bool:
        """True if ``stat`` can decide on *path*, present or missing."""
        if self.is_complete:
            return path == self.root or path.startswith(f"{self.root}/")
        parent, _, name = path.rpartition("/")
        if parent == self.root and self.has_children:
            return self._children.get(parent, {}).get(name, True)  # of a file the size is unknown
        return path == self.root and path in self._children

    def stat(self, path: str) -> FileInfo:
        """Return the attributes of a path that it ``covers``; raises PathNotFound."""
        parent, _, name = path.rpartition("/")
        if path in self._children or self._children.get(parent, {}).get(name):
            return FileInfo(path, 0, True, 0)  # even if a file has that path too
        if path not in self.files:
            raise PathNotFound(path)
        file = self.files[path]
        return FileInfo(path, file.size, False, file.mtime_ns)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        """Return the children of a listed directory; raises PathNotFound."""
        if path not in self._children:
            raise PathNotFound(path)
        children = list(self._children[path].items())
        return (DirEntry(name, is_dir) for name, is_dir in children)


class ListingCache:
    """The listings of *store*, each valid for *ttl_s* seconds.

    Thread-safe: the lock guards the kept listings. Threads that need the same listing wait for one
    request.
    """

    def __init__(self, store: ObjectStore, ttl_s: float) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._lock = guard()
        self._kept: OrderedDict[_Key, Listing] = OrderedDict()
        self._cost = 0
        self._generation = 0  # a request that began before a change must not answer later calls
        self._fetching: SingleFlight[tuple[_Key, int], Listing] = SingleFlight()
        self._large: dict[str, float] = {}  # root: expiry

    def known(self, path: str, *, whole: bool = False) -> Listing | None:
        """Return a kept listing that covers *path*, and with *whole* all below it; or None."""
        now = time.monotonic()
        with self._lock:
            for key in _keys_for(path):
                found = self._kept.get(key)
                if found is None or not found.is_valid(now) or not found.covers(path):
                    continue
                if found.is_complete or not whole:
                    return found
        return None

    def of(self, path: str) -> Listing:
        """Return a listing that covers *path*, which ``is_listed``."""
        found = self.known(path)
        if found is not None:
            return found
        scope = _scope_of(path)
        above, _, name = scope.rpartition("/")
        if name not in paths.MARKERS:
            return self._page(path) if self._ttl_s else self._first(path)
        page = self._page_unless_large(above)
        if page is not None:
            return page
        return self._children(above) if path == scope else self._whole(scope)

    def of_children(self, path: str) -> Listing:
        """Return a listing with the children of the directory *path*, which ``is_listed``."""
        found = self.known(path, whole=True)
        if found is not None:
            return found
        scope = _scope_of(path)
        above, _, name = scope.rpartition("/")
        if name not in paths.MARKERS:
            return self._page_unless_large(path) or self._children(path)
        return self._page_unless_large(above) or self._whole(scope)

    def unfinished(self, path: str) -> str:
        """Return the token of the last begun unfinished file at *path*; "" for none.

        One listing has all unfinished files in the same ``_uploads``.
        """
        scope = _scope_of(path)

        def fetch(listing: Listing) -> None:
            with suppress(AccessDenied):  # credentials may allow only listing and getting
                for found in self._store.unfinished(scope):
                    last = listing.unfinished.get(found.path, found)
                    listing.unfinished[found.path] = max(last, found, key=_beginning)

        found = self._once(_Key(scope, "unfinished"), fetch).unfinished.get(path)
        return "" if found is None else found.token

    def _page_unless_large(self, root: str) -> Listing | None:
        """Return a listing of all below *root* if it is one page, else None."""
        if self._large.get(root, 0.0) > time.monotonic():
            return None
        page = self._page(root)
        return page if page.is_complete else None

    def invalidate(self, path: str) -> None:
        """Remove all listings that have *path*, or paths below it, which may have changed."""
        with self._lock:
            self._generation += 1
            for key in list(self._kept):
                if is_below(path, key.root) or is_below(key.root, path):
                    self._cost -= self._kept.pop(key).cost

    def _page(self, root: str) -> Listing:
        """List one page below *root*, which is complete if there is no second page."""

        def fetch(listing: Listing) -> None:
            page = next(self._store.pages(root))
            for file in page.files:
                listing.add(file)
            listing.is_complete = page.is_last
            if not page.is_last:
                self._large[root] = time.monotonic() + _LARGE_FOR_S

        return self._once(_Key(root, "page"), fetch)

    def _first(self, root: str) -> Listing:
        """List one file below *root*: enough for ``stat``, if a page would not be kept."""

        def fetch(listing: Listing) -> None:
            files = (file for page in self._store.pages(root, limit=_FEW) for file in page.files)
            if (file := next(files, None)) is None:
                listing.is_complete = True
            else:
                listing.add(file)

        return self._once(_Key(root, "first"), fetch)

    def _whole(self, root: str) -> Listing:
        def fetch(listing: Listing) -> None:
            for page in self._store.pages(root):
                for file in page.files:
                    listing.add(file)
            listing.is_complete = True

        return self._once(_Key(root, "whole"), fetch)

    def _children(self, root: str) -> Listing:
        def fetch(listing: Listing) -> None:
            try:
                for entry in self._store.listdir(root):
                    listing.add_child(entry)
            except PathNotFound:
                listing.is_complete = True
            listing.has_children = True

        return self._once(_Key(root, "children"), fetch)

    def _once(self, key: _Key, fetch: Callable[[Listing], None]) -> Listing:
        """Return a listing that *fetch* fills; other threads wait for the same listing."""
        generation = self._generation
        return self._fetching.run((key, generation), partial(self._fetch, key, generation, fetch))

    def _fetch(self, key: _Key, generation: int, fetch: Callable[[Listing], None]) -> Listing:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.is_valid(time.monotonic()):
                return kept
        listing = Listing(key.root)
        fetch(listing)
        took = time.monotonic() - listing.began
        lifetime = max(self._ttl_s, _WORTH * took) if self._ttl_s else 0.0
        listing.until = listing.began + took + lifetime
        self._keep(key, generation, listing)
        return listing

    def _keep(self, key: _Key, generation: int, listing: Listing) -> None:
        with self._lock:
            if generation != self._generation:
                return
            if (old := self._kept.pop(key, None)) is not None:
                self._cost -= old.cost
            self._kept[key] = listing
            self._cost += listing.cost
            while self._cost > _MAX_FILES and len(self._kept) > 1:
                self._cost -= self._kept.popitem(last=False)[1].cost


def is_listed(path: str) -> bool:
    """True if listings cover *path*; they exclude blobs, of which there may be millions."""
    return is_below(path, paths.REPOSITORIES)


def _beginning(unfinished: Unfinished) -> tuple[float, str]:
    return unfinished.began, unfinished.token


def _scope_of(path: str) -> str:
    """Return the marker directory, such as ``_layers``, of *path*, else *path* itself."""
    names = path.split("/")
    for depth, name in enumerate(names):
        if name in paths.MARKERS:
            return "/".join(names[: depth + 1])
    return path


def _keys_for(path: str) -> Iterator[_Key]:
    """Yield the keys of all listings that may cover *path*."""
    yield _Key(path.rpartition("/")[0], "children")
    root = path
    while is_listed(root):
        yield _Key(root, "page")
        yield _Key(root, "whole")
        root = root.rpartition("/")[0]
