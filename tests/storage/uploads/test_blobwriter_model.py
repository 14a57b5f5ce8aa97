"""Any sequence of writes and interruptions leaves an upload with the bytes a bytearray has."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import ContentMismatch
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from blobfs.storage.uploads.buffer import IN_MEMORY
from blobfs.storage.uploads.metadata import UploadRecord
from tests.support.layout import APP
from tests.support.uploads import UPLOADS, blob_content, broken_links, files_below

contents = st.binary(max_size=40)
# Around what is kept in memory, and small ones, which leave more to be interesting.
offsets = st.one_of(st.integers(0, 100), st.integers(IN_MEMORY - 50, IN_MEMORY + 50))


class UploadModel(RuleBasedStateMachine):
    """One upload, on two drivers and in a bytearray, until it is committed or cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="blobfs-model-")
        self.drivers: list[StorageDriver] = [
            BaseDriver(InMemoryDriver()),
            BaseDriver(FilesystemDriver.below(Path(self.directory.name))),
        ]
        self.repositories = [Repository(d, BlobStore(d), APP) for d in self.drivers]
        self.begin()

    def begin(self) -> None:
        self.writers = [repository.uploads.create() for repository in self.repositories]
        self.content = bytearray()

    def teardown(self) -> None:
        for writer in self.writers:
            writer.cancel()
        for driver in self.drivers:
            assert files_below(driver, UPLOADS) == set()
            driver.close()
        self.directory.cleanup()

    def each(self, act: Callable[[BlobWriter], object]) -> None:
        for writer in self.writers:
            act(writer)

    @initialize(size=st.sampled_from([0, 0, IN_MEMORY - 20, IN_MEMORY + 1]))
    def start(self, size: int) -> None:
        self.truncate(size)

    @rule(data=contents)
    def write(self, data: bytes) -> None:
        self.each(lambda writer: writer.write(data))
        self.content += data

    @rule(offset=offsets, data=contents)
    def write_at(self, offset: int, data: bytes) -> None:
        self.each(lambda writer: writer.write_at(offset, data))
        self.content += bytes(max(0, offset - len(self.content)))
        self.content[offset : offset + len(data)] = data

    @rule(size=offsets)
    def truncate(self, size: int) -> None:
        self.each(lambda writer: writer.truncate(size))
        del self.content[size:]
        self.content += bytes(size - len(self.content))

    @rule(algorithm=st.sampled_from(ALGORITHMS), data=contents)
    def declare_what_will_be_there(self, algorithm: str, data: bytes) -> None:
        record = UploadRecord("any", Digest.of(bytes(self.content) + data, algorithm))
        self.each(lambda writer: writer.declare(record))
        self.write(data)

    @rule()
    def declare_nothing(self) -> None:
        self.each(lambda writer: writer.declare(UploadRecord()))

    @rule()
    def suspend(self) -> None:
        self.each(lambda writer: writer.suspend())

    @rule()
    def close_and_resume(self) -> None:
        self.each(lambda writer: writer.close())
        self.resume()

    @precondition(lambda self: all(writer.is_stored for writer in self.writers))
    @rule()
    def suspend_and_be_killed(self) -> None:
        self.suspend()
        self.resume()

    def resume(self) -> None:
        self.writers = [
            repository.uploads.resume(writer.id)
            for repository, writer in zip(self.repositories, self.writers, strict=True)
        ]

    @rule(algorithm=st.sampled_from(ALGORITHMS))
    def commit(self, algorithm: str) -> None:
        content = bytes(self.content)
        digest = Digest.of(content, algorithm)
        self.each(lambda writer: writer.commit(digest))
        for driver, repository in zip(self.drivers, self.repositories, strict=True):
            assert repository.layers.resolve(digest) == Digest.of(content)
            assert blob_content(driver, Digest.of(content)) == content
            assert broken_links(driver) == []
            assert files_below(driver, UPLOADS) == set()
        self.begin()

    @rule(algorithm=st.sampled_from(ALGORITHMS))
    def commit_something_else(self, algorithm: str) -> None:
        digest = Digest.of(b"never written", algorithm)
        for writer in self.writers:
            with pytest.raises(ContentMismatch):
                writer.commit(digest)

    @rule()
    def cancel(self) -> None:
        self.each(lambda writer: writer.cancel())
        for driver in self.drivers:
            assert files_below(driver, UPLOADS) == set()
        self.begin()

    @invariant()
    def every_writer_has_the_content(self) -> None:
        for writer in self.writers:
            assert writer.size == len(self.content)
            assert writer.read_at(0, writer.size + 1) == self.content

    @invariant()
    def what_matches_is_what_was_declared(self) -> None:
        for writer in self.writers:
            if writer.matches():
                declared = writer.record.digest
                assert declared is not None
                assert Digest.of(bytes(self.content), declared.algorithm) == declared


TestUploads = UploadModel.TestCase
TestUploads.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
