"""Directories of a mount that the storage does not have yet."""

from __future__ import annotations

from blobfs.concurrency import guard
from blobfs.reference import RepositoryName


class MadeRepositories:
    """Directories made in this mount, which the storage may not have. Thread-safe by its lock.

    A directory is a repository if it was declared to be one, or while no other directory was made
    below it: ``mkdir -p`` makes all but the last for the path only.
    """

    def __init__(self) -> None:
        self._lock = guard()
        self._names: set[str] = set()
        self._declared: set[str] = set()

    def __contains__(self, name: str) -> bool:
        if name in self._declared:
            return True
        return name in self._names and not self.below(name)

    def has(self, prefix: str) -> bool:
        """True if *prefix* is one of them, or a parent of one."""
        with self._lock:
            return any(name == prefix or name.startswith(f"{prefix}/") for name in self._names)

    def below(self, prefix: str) -> set[str]:
        """The names of the children of *prefix*, or of the root for ``""``."""
        start = f"{prefix}/" if prefix else ""
        with self._lock:
            found = [name for name in self._names if name.startswith(start)]
        return {name[len(start) :].split("/")[0] for name in found}

    def add(self, name: RepositoryName) -> None:
        """Add a directory."""
        with self._lock:
            self._names.add(name)

    def declare(self, name: RepositoryName) -> None:
        """Add a repository, which directories below it do not change."""
        with self._lock:
            self._names.add(name)
            self._declared.add(name)

    def use(self, name: str) -> None:
        """Declare *name*, since a program uses it as a repository; rsync(1) does before it copies.

        Nothing happens if it is none of them.
        """
        if name in self and name not in self._declared:
            self.declare(RepositoryName(name))

    def discard(self, name: RepositoryName) -> None:
        """Remove a directory, if it is one of them."""
        with self._lock:
            self._names.discard(name)
            self._declared.discard(name)
