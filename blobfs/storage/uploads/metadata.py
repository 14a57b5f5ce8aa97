"""Files of one upload beside its data: the time of its begin, its record, its hash states.

The formats of all but the record are distribution's: ``registry/storage/linkedblobstore.go`` and
``blobwriter_resumable.go``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest, Digester
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    Corrupt,
    DigestInvalid,
    HashStateInvalid,
    NotAFile,
    PathNotFound,
    UploadUnknown,
)
from blobfs.reference import RepositoryName
from blobfs.timestamps import format_time, parse_time

_MAX_NAME: Final = 255  # bytes
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
_TEXTS: Final = ("token", "fingerprint", "reason")
_LONGER_THAN_A_RECORD: Final = 2**14  # bytes

MAX_REASON: Final = 500
"""Maximum length of a record's reason in characters; a longer reason is cut."""


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """The file in which blobfs describes an upload; a registry ignores it.

    *name* is the file's name in ``_uploads``, or ``""`` if that is the id. *digest* and *size* (in
    bytes) were declared. *moved_to* is set before the data move to the blob store: if the data are
    missing, that blob has them, and only its link is missing. *target_digest* is the blob at whose
    path an object store receives the data; the driver finds them by *token*. *reason* is the error
    of the last commit that failed. *is_shared* means that a registry began the upload, and may have
    the data open.

    The hash states are valid only for data with *fingerprint*. If the data have another one,
    another program has written since, or a program was killed.
    """

    name: str = ""
    digest: Digest | None = None
    size: int | None = None
    moved_to: Digest | None = None
    target_digest: Digest | None = None
    token: str = ""
    fingerprint: str = ""
    is_shared: bool = False
    reason: str = ""

    def to_json(self) -> bytes:
        """Return the content of the record's file, without unknown values."""
        document = {key: getattr(self, key) for key in ("name", "size", *_TEXTS)}
        document["is_shared"] = self.is_shared or None
        digests = {"digest": self.digest, "blob": self.moved_to, "in_place": self.target_digest}
        document |= {key: str(digest) for key, digest in digests.items() if digest is not None}
        return json.dumps({k: v for k, v in document.items() if v not in (None, "")}).encode()

    @classmethod
    def of_json(cls, content: bytes) -> UploadRecord:
        """Parse the file's content; invalid values are left out, since a storage may be hostile."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(document, dict):
            return cls()
        name, size = document.get("name"), document.get("size")
        token, fingerprint, reason = (document.get(key) for key in _TEXTS)
        return cls(
            name if isinstance(name, str) and is_file_name(name) else "",
            _digest(document.get("digest")),
            size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
            _digest(document.get("blob")),
            _digest(document.get("in_place")),
            token if isinstance(token, str) else "",
            fingerprint if isinstance(fingerprint, str) else "",
            document.get("is_shared") is True,
            _printable(reason[:MAX_REASON]) if isinstance(reason, str) else "",
        )


def state_of(reason: str) -> str:
    """Return the state of an upload that is not committed; *reason* is that of its record."""
    return f"failed: {reason}" if reason else "open"


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """Size in bytes and time of the last write of an upload in the storage."""

    size: int
    mtime_ns: int


def is_file_name(text: str) -> bool:
    """True if *text* is a valid name of a file."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        return False
    try:
        return len(text.encode("utf-8", "surrogateescape")) <= _MAX_NAME
    except UnicodeEncodeError:
        return False


def _printable(text: str) -> str:
    """Return *text* with each character replaced that is not printable, or cannot be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _digest(value: object) -> Digest | None:
    try:
        return Digest.parse(value) if isinstance(value, str) else None
    except DigestInvalid:
        return None


class UploadFiles:
    """Reads and writes the small files of one upload, which may be missing. Has no state."""

    def __init__(self, driver: StorageDriver, repository: RepositoryName, upload_id: str) -> None:
        self._driver = driver
        self._repository = repository
        self.upload_id = upload_id
        self.data = paths.upload_data(repository, upload_id)
        self.record_path = paths.upload_record(repository, upload_id)
        self._startedat = paths.upload_startedat(repository, upload_id)

    def label(self, record: UploadRecord) -> str:
        """Return the upload's name for people: its path below the repositories."""
        return f"{self._repository}/_uploads/{record.name or self.upload_id}"

    def begin(self, started_at: datetime, record: UploadRecord) -> None:
        """Write the time of the begin and the record; then the upload can be resumed."""
        moment = format_time(started_at.replace(microsecond=0))
        self._driver.put_content(self._startedat, moment.encode())
        if record != UploadRecord():
            self.put_record(record)

    def started_at(self) -> datetime:
        """Time at which the upload began, in UTC; raises UploadUnknown.

        If the file has no valid time, the file's own time is taken.
        """
        try:
            began = _moment(self._driver.read_at(self._startedat, 0, 64))
        except PathNotFound:
            raise UploadUnknown(self.upload_id) from None
        except NotAFile:
            raise Corrupt(f"{self._startedat} is a directory") from None
        return began or self.made_at()  # a crash has cut the file, or another program writes it

    def made_at(self) -> datetime:
        """Modification time of the file ``startedat``; raises UploadUnknown."""
        try:
            info = self._driver.stat(self._startedat)
        except PathNotFound:
            raise UploadUnknown(self.upload_id) from None
        if info.is_dir:
            raise Corrupt(f"{self._startedat} is a directory")
        return _from_seconds(info.mtime_ns // 10**9)

    def record(self) -> UploadRecord:
        """Read the record; an upload of a registry has an empty one."""
        return UploadRecord.of_json(self.record_content())

    def record_content(self) -> bytes:
        """Read the content of the record's file; empty if the file is missing."""
        try:
            return self._driver.read_at(self.record_path, 0, _LONGER_THAN_A_RECORD)
        except (PathNotFound, NotAFile):
            return b""

    def put_record(self, record: UploadRecord) -> None:
        """Replace the record, durably."""
        self._driver.put_content(self.record_path, record.to_json())

    def put_data(self, content: bytes) -> None:
        """Replace the data as a whole, durably."""
        self._driver.put_content(self.data, content)

    def save_state(self, digester: Digester) -> None:
        """Save the digester's state, from which blobfs or a registry can continue hashing."""
        path = self._state_path(digester.algorithm, digester.size)
        self._driver.put_content(path, digester.state())

    def load_state(self, algorithm: str, size: int) -> Digester:
        """Return a digester from the latest valid state of at most *size* bytes, or a new one."""
        for offset in sorted(self._offsets(algorithm), reverse=True):
            if offset > size:
                continue
            try:
                state = self._driver.read_at(self._state_path(algorithm, offset), 0, 256)
                digester = Digester.load(state, algorithm)
            except (HashStateInvalid, PathNotFound, NotAFile):
                continue
            if digester.size == offset:
                return digester
        return Digester(algorithm)

    def hashed(self, algorithm: str, size: int) -> int:
        """Return the offset of the latest state of at most *size* bytes; 0 if there is none."""
        return max((offset for offset in self._offsets(algorithm) if offset <= size), default=0)

    def drop_states_below(self, algorithm: str, size: int) -> None:
        """Remove the algorithm's states of less than *size* bytes."""
        self._drop_states(algorithm, lambda offset: offset < size)

    def drop_states_above(self, size: int) -> None:
        """Remove the states of more than *size* bytes, of every algorithm."""
        for algorithm in ALGORITHMS:
            self._drop_states(algorithm, lambda offset: offset > size)

    def _drop_states(self, algorithm: str, is_unwanted: Callable[[int], bool]) -> None:
        for offset in filter(is_unwanted, self._offsets(algorithm)):
            self._delete(self._state_path(algorithm, offset))

    def _state_path(self, algorithm: str, offset: int) -> str:
        return paths.upload_hashstate(self._repository, self.upload_id, algorithm, offset)

    def remove(self) -> None:
        """Remove all files of the upload; a missing upload is no error."""
        self._delete(paths.upload(self._repository, self.upload_id))

    def _delete(self, path: str) -> None:
        try:
            self._driver.delete(path)
        except PathNotFound:
            pass

    def _offsets(self, algorithm: str) -> list[int]:
        path = paths.upload_hashstates(self._repository, self.upload_id, algorithm)
        try:
            names = [entry.name for entry in self._driver.listdir(path)]
        except PathNotFound:
            return []
        return [int(name) for name in names if name.isdecimal() and str(int(name)) == name]


def _moment(text: bytes) -> datetime | None:
    """Parse the content of ``startedat``; None if it is no time, or one before 1971."""
    moment = parse_time(text)
    return moment if moment is not None and moment.year >= 1971 else None


def _from_seconds(seconds: int) -> datetime:
    """Return the time *seconds* after the epoch, or the nearest that datetime can represent."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)
