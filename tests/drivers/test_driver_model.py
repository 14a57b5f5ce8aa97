"""Any sequence of calls leaves every driver with the files that a plain dict has."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import NotADirectory, NotAFile, PathNotFound
from tests.support.driver_model import DIRECTORIES, PATHS, DriverModel, Errors, contents, paths

Edit = Callable[[FileWriter, bytearray], None]


def append(data: bytes) -> Edit:
    def edit(writer: FileWriter, model: bytearray) -> None:
        writer.write(data)
        model.extend(data)

    return edit


def rewrite(offset: int, data: bytes) -> Edit:
    def edit(writer: FileWriter, model: bytearray) -> None:
        start = min(offset, len(model))
        writer.rewrite(start, data)
        model[start : start + len(data)] = data

    return edit


def truncate(size: int) -> Edit:
    def edit(writer: FileWriter, model: bytearray) -> None:
        writer.truncate(size)
        model[:] = model[:size].ljust(size, b"\0")

    return edit


def flush(writer: FileWriter, _model: bytearray) -> None:
    writer.flush()


edits = st.lists(
    st.one_of(
        st.builds(append, contents),
        st.builds(rewrite, st.integers(0, 60), contents),
        st.builds(truncate, st.integers(0, 60)),
        st.just(flush),
    ),
    max_size=5,
)


class DirectoriesModel(DriverModel):
    """Of the drivers that have directories, and can change what was written."""

    def new_drivers(self) -> list[StorageDriver]:
        self.directory = tempfile.TemporaryDirectory(prefix="blobfs-model-")
        return [
            BaseDriver(InMemoryDriver()),
            BaseDriver(FilesystemDriver.below(Path(self.directory.name))),
        ]

    def teardown(self) -> None:
        for driver in self.drivers:
            driver.close()
        self.directory.cleanup()

    def refusals(self, path: str) -> Errors:
        """Why no file can be made at *path*."""
        assume(path not in self.emptied)
        errors: Errors = set()
        if self.below(path):
            errors.add(NotAFile)
        if any(path.startswith(f"{file}/") for file in self.files):
            errors.add(NotADirectory)
        return errors

    @invariant()
    def every_file_is_found_and_no_missing_path(self) -> None:
        self.are_found_or_missing(PATHS)  # where a request is cheap

    @rule(path=paths, first=edits, then=edits)
    def edit_and_close_and_edit(self, path: str, first: list[Edit], then: list[Edit]) -> None:
        model = bytearray()

        def write(driver: StorageDriver) -> None:
            model.clear()
            with driver.create(path) as writer:
                change(writer, model, first)
            with driver.append(path) as writer:
                change(writer, model, then)
                writer.commit()

        if self.all_do(write, self.refusals(path)):
            self.hold(path, bytes(model))

    @rule(path=paths, content=contents)
    def write_and_cancel(self, path: str, content: bytes) -> None:
        def write(driver: StorageDriver) -> None:
            with driver.create(path) as writer:
                writer.write(content)
                writer.cancel()

        if self.all_do(write, self.refusals(path)):
            self.hold(path, b"")
            self.drop(path)

    @rule(path=st.sampled_from(DIRECTORIES))
    def delete_emptied_directory(self, path: str) -> None:
        if path in self.emptied:
            for driver in self.drivers:
                with suppress(PathNotFound):
                    driver.delete(path)
            self.settle(path)


def change(writer: FileWriter, model: bytearray, edits: list[Edit]) -> None:
    for edit in edits:
        edit(writer, model)
        assert writer.size == len(model)
        assert writer.read_at(0, 1000) == model


TestDrivers = DirectoriesModel.TestCase
TestDrivers.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
