"""What any sequence of calls leaves a driver with, told by a plain dict."""

from abc import abstractmethod
from collections.abc import Callable, Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobfsError, NotAFile, PathNotFound
from tests.support.files import content_of

PATHS = ["/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a", "/d/ee", "/d.e/a", "/f/g/h"]
DIRECTORIES = ["/d", "/d/e", "/d.e", "/f", "/f/g"]

paths = st.sampled_from(PATHS)
contents = st.binary(max_size=40)

Errors = set[type[BlobfsError]]


def listed(driver: StorageDriver, directory: str) -> Iterator[str]:
    """The files below *directory*, by the listings of all directories."""
    for entry in driver.listdir(directory or "/"):
        path = f"{directory}/{entry.name}"
        yield from listed(driver, path) if entry.is_dir else [path]


class DriverModel(RuleBasedStateMachine):
    """Drives drivers and a dict side by side; Hypothesis shrinks any difference.

    A directory that lost its last file may be there or not: what depends on it is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.emptied: set[str] = set()
        self.drivers = self.new_drivers()

    @abstractmethod
    def new_drivers(self) -> list[StorageDriver]:
        """Those that are to do the same."""

    @abstractmethod
    def refusals(self, path: str) -> Errors:
        """Why no file can be made at *path*."""

    @rule(path=paths, content=contents)
    def put_content(self, path: str, content: bytes) -> None:
        if self.all_do(lambda driver: driver.put_content(path, content), self.refusals(path)):
            self.hold(path, content)

    @rule(path=paths, parts=st.lists(contents, max_size=3))
    def write_and_commit(self, path: str, parts: list[bytes]) -> None:
        def write(driver: StorageDriver) -> None:
            with driver.create(path) as writer:
                for part in parts:
                    writer.write(part)
                assert writer.size == len(b"".join(parts))
                writer.commit()

        if self.all_do(write, self.refusals(path)):
            self.hold(path, b"".join(parts))

    @rule(path=paths, parts=st.lists(contents, min_size=1, max_size=3))
    def write_and_close_and_append(self, path: str, parts: list[bytes]) -> None:
        def write(driver: StorageDriver) -> None:
            driver.create(path).close()
            for part in parts:
                with driver.append(path) as writer:
                    writer.write(part)
            with driver.append(path) as writer:
                assert writer.size == len(b"".join(parts))
                writer.commit()

        if self.all_do(write, self.refusals(path)):
            self.hold(path, b"".join(parts))

    @rule(old=paths, new=paths)
    def move(self, old: str, new: str) -> None:
        refusals = self.refusals(new) | self.missing(old)
        if self.all_do(lambda driver: driver.move(old, new), refusals):
            content = self.files[old]
            self.drop(old)
            self.hold(new, content)

    @rule(path=paths)
    def delete_file(self, path: str) -> None:
        if path in self.files and self.all_do(lambda driver: driver.delete(path), set()):
            self.drop(path)

    @rule(path=st.sampled_from(DIRECTORIES))
    def delete_directory(self, path: str) -> None:
        if self.below(path) and self.all_do(lambda driver: driver.delete(path), set()):
            for file in self.below(path):
                self.drop(file)
            self.settle(path)

    @rule(path=st.sampled_from(DIRECTORIES))
    def prune(self, path: str) -> None:
        self.all_do(lambda driver: driver.prune(path), set())
        self.settle(path)

    @rule(path=paths)
    def delete_missing(self, path: str) -> None:
        if path not in self.files and not self.below(path) and path not in self.emptied:
            self.all_do(lambda driver: driver.delete(path), {PathNotFound})

    @precondition(lambda self: self.files)
    @rule(data=st.data(), offset=st.integers(0, 50), size=st.integers(0, 50))
    def read_a_range(self, data: st.DataObject, offset: int, size: int) -> None:
        path = data.draw(st.sampled_from(sorted(self.files)))
        expected = self.files[path][offset : offset + size]
        assert {driver.read_at(path, offset, size) for driver in self.drivers} == {expected}

    @rule(paths=st.lists(paths, min_size=1, max_size=3))
    def stat(self, paths: list[str]) -> None:
        self.are_found_or_missing(paths)

    @invariant()
    def every_file_has_its_content(self) -> None:
        for driver in self.drivers:
            assert {path: content_of(driver, path) for path in self.files} == self.files

    @invariant()
    def every_listing_has_the_files_and_no_others(self) -> None:
        for driver in self.drivers:
            assert sorted(listed(driver, "")) == sorted(self.files)

    def are_found_or_missing(self, paths: list[str]) -> None:
        known = [path for path in paths if self.missing(path) in (set(), {PathNotFound})]
        sizes = [len(self.files[path]) if path in self.files else None for path in known]
        for driver in self.drivers:
            assert [info and info.size for info in driver.stat_many(known)] == sizes

    def all_do(self, act: Callable[[StorageDriver], None], refusals: Errors) -> bool:
        """Have the drivers do it, or refuse it for one of *refusals*; whether they did it."""
        for driver in self.drivers:
            if refusals:
                with pytest.raises(tuple(refusals)):
                    act(driver)
            else:
                act(driver)
        return not refusals

    def missing(self, path: str) -> Errors:
        """Why no file can be had from *path*."""
        if path in self.files:
            return set()
        if path in self.emptied:
            return {PathNotFound, NotAFile}
        return {NotAFile} if self.below(path) else {PathNotFound}

    def below(self, path: str) -> list[str]:
        return [file for file in self.files if file.startswith(f"{path}/")]

    def hold(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.emptied -= {directory for directory in DIRECTORIES if path.startswith(f"{directory}/")}

    def drop(self, path: str) -> None:
        del self.files[path]
        self.emptied |= {
            directory
            for directory in DIRECTORIES
            if path.startswith(f"{directory}/") and not self.below(directory)
        }

    def settle(self, path: str) -> None:
        self.emptied -= {other for other in self.emptied if f"{other}/".startswith(f"{path}/")}
