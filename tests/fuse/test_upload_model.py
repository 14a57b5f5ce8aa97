"""Any sequence of what programs do to uploads leaves on a mount what it leaves in a model."""

import errno
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.crashing_disk import Daemon
from tests.support.upload_model import EMPTY, Opening, Upload, declared_by, sha256
from tests.support.writers import digest_of_file, state

pytestmark = pytest.mark.fuse

IN_MEMORY = 2**20

NAMES = ["x", "y", f"sha256:{sha256(b'abc')}", f"sha256:{EMPTY}"]

names = st.sampled_from(NAMES)
contents = st.one_of(
    st.sampled_from([b"a", b"abc", b"c", b"bc"]), st.binary(min_size=1, max_size=9)
)
offsets = st.one_of(st.integers(0, 12), st.integers(0, 12), st.just(IN_MEMORY - 1))
sizes = st.one_of(st.integers(0, 12), st.integers(0, 12), st.just(IN_MEMORY + 1))
picks = st.integers(0, 7)

FLAGS = {
    "create": os.O_CREAT | os.O_TRUNC,
    "append": os.O_CREAT | os.O_APPEND,
    "update": 0,
}


_WORK = """
import marshal, os, sys
while True:
    name, arguments = marshal.load(sys.stdin.buffer)
    try:
        answer = getattr(os, name)(*arguments), 0
    except OSError as exc:
        answer = None, exc.errno
    marshal.dump(answer, sys.stdout.buffer)
    sys.stdout.flush()
"""
"""Makes the system calls that are asked for, and answers with their results and errnos."""


class Worker:
    """A program that writes, and that can be killed. It starts in no time: a test has hundreds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WORK],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.openings: dict[int, Opening] = {}  # by descriptor

    def ask(self, name: str, *arguments: str | bytes | int) -> Any:  # noqa: ANN401  (as the call has it)
        """The result of a call; the OSError that it raised is a result too."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        marshal.dump((name, arguments), requests)
        requests.flush()
        result, number = marshal.load(answers)
        return OSError(number, os.strerror(number)) if number else result

    def kill(self) -> None:
        with self._process as process:
            process.kill()


class Place:
    """A mount that all examples share, each in a repository of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self.path = directory / "mount"
        (self.storage / "docker/registry/v2").mkdir(parents=True)
        self.numbers = count()
        self.serving = Daemon.serving(self.storage, directory)
        self.daemon = self.serving.__enter__()

    def remount(self) -> None:
        self.daemon.end()
        self.close()
        self.serving = Daemon.serving(self.storage, self.directory)
        self.daemon = self.serving.__enter__()

    def close(self) -> None:
        self.serving.__exit__(None, None, None)


@pytest.fixture(scope="module", autouse=True)
def _place() -> Iterator[None]:
    # In memory where there is room for it, as thousands of commits wait for the disk otherwise.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="blobfs-model-", dir=memory) as directory:
        UploadsModel.place = Place(Path(directory))
        try:
            yield
        finally:
            UploadsModel.place.close()


class UploadsModel(RuleBasedStateMachine):
    """One repository's uploads, as a mount has them and as they should be."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.repository = f"model/r{next(self.place.numbers)}"
        self.mkdir()
        self.worker = Worker()
        self.uploads: dict[str, Upload] = {}
        self.layers: set[str] = set()
        self.verified: set[str] = set()

    def mkdir(self) -> None:
        (self.place.path / self.repository).mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        return self.place.path / self.repository / "_uploads"

    def teardown(self) -> None:
        self.worker.kill()
        for path in (self.place.storage / "docker/registry/v2").glob("*/*"):
            shutil.rmtree(path)

    def answers(self, found: object, expected: int) -> None:
        """A call ended as it should, if by an errno by that one."""
        number = found.errno if isinstance(found, OSError) else 0
        assert number == expected, f"{found!r} instead of {errno.errorcode.get(expected, 0)}"

    def asked(self, name: str, *arguments: object) -> object:
        """The result of a call that the test itself makes."""
        try:
            return getattr(os, name)(*arguments)
        except OSError as exc:
            return exc

    def descriptor(self, pick: int) -> int:
        return sorted(self.worker.openings)[pick % len(self.worker.openings)]

    has_open = precondition(lambda self: bool(self.worker.openings))
    has_uploads = precondition(lambda self: bool(self.uploads))

    @rule(name=names, how=st.sampled_from(list(FLAGS)))
    def open(self, name: str, how: str) -> None:
        upload = self.uploads.get(name)
        expected = self.refusal(upload, how)
        found = self.worker.ask("open", str(self.directory / name), os.O_WRONLY | FLAGS[how])
        self.answers(found, expected)
        if expected:
            return
        if upload is None:
            upload = self.uploads[name] = Upload(name, digest=declared_by(name))
        if how == "create":
            upload.begin_again()
        upload.has_failed = False
        upload.opening = Opening(upload, appends=how == "append")
        self.worker.openings[found] = upload.opening

    def refusal(self, upload: Upload | None, how: str) -> int:
        if upload is None:
            return errno.ENOENT if how == "update" else 0
        if upload.opening is not None:
            return errno.EBUSY
        return errno.EROFS if upload.is_committed and how != "create" else 0

    @has_open
    @rule(pick=picks, offset=offsets, data=contents)
    def write(self, pick: int, offset: int, data: bytes) -> None:
        fd = self.descriptor(pick)
        found = self.worker.ask("pwrite", fd, data, offset)
        self.answers(found, self.worker.openings[fd].write(offset, data))

    @has_open
    @rule(pick=picks, data=contents)
    def write_at_the_end(self, pick: int, data: bytes) -> None:
        self.write(pick, len(self.worker.openings[self.descriptor(pick)].upload.content), data)

    @has_open
    @rule(pick=picks, size=sizes)
    def ftruncate(self, pick: int, size: int) -> None:
        fd = self.descriptor(pick)
        found = self.worker.ask("ftruncate", fd, size)
        self.answers(found, self.worker.openings[fd].truncate(size))

    @has_open
    @rule(pick=picks)
    def fsync(self, pick: int) -> None:
        fd = self.descriptor(pick)
        self.answers(self.worker.ask("fsync", fd), self.worker.openings[fd].sync())

    @has_open
    @rule(pick=picks)
    def dup(self, pick: int) -> None:
        fd = self.descriptor(pick)
        self.worker.openings[self.worker.ask("dup", fd)] = self.worker.openings[fd]

    @has_open
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        fd = self.descriptor(pick)
        opening = self.worker.openings.pop(fd)
        others = self.worker.openings.values()
        self.answers(self.worker.ask("close", fd), opening.flush(held=opening in others))
        if opening not in others:
            opening.release()

    @rule()
    def kill(self) -> None:
        self.worker.kill()
        for opening in list(self.worker.openings.values()):
            opening.flush(held=False, killed=True)
        for opening in set(self.worker.openings.values()):
            opening.release()
        self.worker = Worker()

    @has_uploads
    @rule(name=names, size=sizes)
    def truncate(self, name: str, size: int) -> None:
        upload = self.uploads.get(name)
        expected = self.refusal(upload, "update")
        self.answers(self.asked("truncate", self.directory / name, size), expected)
        if not expected and upload is not None:
            upload.has_failed = False
            upload.cut(size)
            upload.leave()

    @has_uploads
    @rule(name=names)
    def unlink(self, name: str) -> None:
        upload = self.uploads.pop(name, None)
        expected = errno.ENOENT if upload is None else 0
        self.answers(self.asked("unlink", self.directory / name), expected)
        if upload is not None and upload.opening is not None:
            upload.opening.is_gone = True

    @has_uploads
    @rule(name=names, new_name=names)
    def rename(self, name: str, new_name: str) -> None:
        upload, replaced = self.uploads.get(name), self.uploads.get(new_name)
        expected = self.refusal_to_rename(upload, replaced, new_name)
        self.answers(
            self.asked("rename", self.directory / name, self.directory / new_name), expected
        )
        if expected or upload is None or _is_same_file(upload, replaced):
            return
        self.uploads[new_name] = self.uploads.pop(name)
        upload.name = new_name
        if not upload.is_committed:
            upload.digest = declared_by(new_name) or upload.digest
            if upload.opening is None:
                upload.leave()

    def refusal_to_rename(
        self, upload: Upload | None, replaced: Upload | None, new_name: str
    ) -> int:
        if upload is None:
            return errno.ENOENT
        if _is_same_file(upload, replaced):
            return 0
        if replaced is not None and replaced.opening is not None:
            return errno.EBUSY
        declared = declared_by(new_name)
        if upload.is_committed and declared not in (None, upload.digest):
            return errno.EBADMSG
        return 0

    @has_uploads
    @rule(name=names, right=st.booleans())
    def publish(self, name: str, right: bool) -> None:
        upload = self.uploads.get(name)
        digest = sha256(upload.content if right and upload is not None else b"something else")
        target = self.directory.with_name("_layers") / "sha256" / digest
        was_receipt = upload is not None and upload.is_committed
        found = self.asked("rename", self.directory / name, target)
        if upload is None:
            self.answers(found, errno.ENOENT)
        elif upload.opening is not None and not upload.is_committed:
            self.answers(found, errno.EBUSY)
        elif upload.is_committed:
            self.answers(found, 0 if right else errno.EBADMSG)
        else:
            upload.digest, declared = digest, upload.digest
            expected = upload.commit()
            if expected:
                upload.digest = declared
            self.answers(found, expected)
        if upload is not None and not isinstance(found, OSError) and not was_receipt:
            self.layers.add(digest)
            del self.uploads[name]
            if upload.opening is not None:
                upload.opening.is_gone = True

    @has_uploads
    @rule(name=names, data=contents, more=st.booleans())
    def declare_digest(self, name: str, data: bytes, more: bool) -> None:
        upload = self.uploads.get(name)
        digest = sha256(upload.content + data * more) if upload else EMPTY
        self.declare(name, "user.blobfs.digest", f"sha256:{digest}")
        if upload is not None and not upload.is_committed:
            upload.digest = digest
            self.declared(upload)

    @has_uploads
    @rule(name=names, more=st.sampled_from([0, 0, 1]))
    def declare_size(self, name: str, more: int) -> None:
        upload = self.uploads.get(name)
        size = len(upload.content) + more if upload else 0
        self.declare(name, "user.blobfs.size", str(size))
        if upload is not None and not upload.is_committed:
            upload.size = size
            self.declared(upload)

    def declare(self, name: str, attribute: str, value: str) -> None:
        upload = self.uploads.get(name)
        expected = errno.ENOENT if upload is None else 0
        if upload is not None and upload.is_committed:
            is_true = value in (f"sha256:{upload.digest}", str(upload.size))
            expected = 0 if is_true else errno.EBADMSG
        self.answers(
            self.asked("setxattr", self.directory / name, attribute, value.encode()), expected
        )

    def declared(self, upload: Upload) -> None:
        if upload.opening is None:
            upload.leave()

    @rule(now=st.sampled_from([False] * 30 + [True]))
    def remount(self, now: bool) -> None:
        if not now:
            return
        self.place.remount()
        self.worker.kill()
        self.worker = Worker()
        self.mkdir()
        for name, upload in list(self.uploads.items()):
            if upload.is_committed or not (upload.is_kept or upload.content):
                del self.uploads[name]
            upload.opening = None

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert set(os.listdir(self.directory)) == set(self.uploads)
        for name, upload in self.uploads.items():
            path = self.directory / name
            found = state(path)
            if found == "committed" and upload.is_rewritten and upload.may_match:
                upload.commit()
            assert found.partition(":")[0] == self.expected_state(upload), found
            assert path.stat().st_size == len(upload.content)
            assert path.read_bytes() == upload.content
        self.layers_should_be_what_was_committed()

    def expected_state(self, upload: Upload) -> str:
        if upload.is_committed:
            self.layers.add(sha256(upload.content))
            return "committed"
        return "failed" if upload.has_failed else "open"

    def layers_should_be_what_was_committed(self) -> None:
        layers = self.directory.with_name("_layers") / "sha256"
        found = set(os.listdir(layers))
        assert found == self.layers
        for digest in found - self.verified:
            assert digest_of_file(layers / digest) == f"sha256:{digest}"
        self.verified |= found


def _is_same_file(upload: Upload, other: Upload | None) -> bool:
    """Whether both are one file, for which rename(2) does nothing."""
    if upload is other:
        return True
    receipts = other is not None and upload.is_committed and other.is_committed
    return receipts and other is not None and upload.digest == other.digest


@pytest.mark.parametrize("examples", [100, pytest.param(500, marks=pytest.mark.long)])
def test_mount_has_the_uploads_that_the_model_has(examples: int) -> None:
    run_state_machine_as_test(
        UploadsModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
