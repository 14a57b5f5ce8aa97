"""What one upload has in the storage beside its data: when it began, its record, hash states.

Source of truth of all but the record: distribution, ``registry/storage/linkedblobstore.go``
and ``blobwriter_resumable.go``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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

_MAX_NAME: Final = 255  # bytes
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
_TEXTS: Final = ("token", "fingerprint", "reason")
_LONGER_THAN_A_RECORD: Final = 2**14  # bytes

MAX_REASON: Final = 500
"""Characters of a record's reason; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """What blobfs keeps of an upload for itself.

    *name* is its file's name in ``_uploads``, and ``""`` where it is called by its id; *digest* and
    *size* (in bytes) are what was declared. *blob* is set before the data leave for the blob
    store: where they are missing, the upload is complete, and only has to be linked. *in_place*
    is the blob where they are written from the start, *token* the driver's word for them. *reason*
    says why the last attempt to commit it failed.

    The hash states beside the record are those of the data that have *fingerprint*. Of all others
    they may tell what is not so: somebody else has written since, or a program that was killed.
    *is_shared* says that a registry began the upload, and may have the data open.
    """

    name: str = ""
    digest: Digest | None = None
    size: int | None = None
    blob: Digest | None = None
    in_place: Digest | None = None
    token: str = ""
    fingerprint: str = ""
    is_shared: bool = False
    reason: str = ""

    def to_json(self) -> bytes:
        """The record's file, without what is not known."""
        document = {key: getattr(self, key) for key in ("name", "size", *_TEXTS)}
        document["is_shared"] = self.is_shared or None
        for key in ("digest", "blob", "in_place"):
            digest = getattr(self, key)
            document[key] = None if digest is None else str(digest)
        return json.dumps({k: v for k, v in document.items() if v not in (None, "")}).encode()

    @classmethod
    def of_json(cls, content: bytes) -> UploadRecord:
        """Read the file; what makes no sense is left out, since a storage's names are hostile."""
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


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An upload as the storage has it: *size* is in bytes, *mtime_ns* of the last one written."""

    size: int
    mtime_ns: int


def is_file_name(text: str) -> bool:
    """Whether a file can be called so."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        return False
    try:
        return len(text.encode("utf-8", "surrogateescape")) <= _MAX_NAME
    except UnicodeEncodeError:
        return False


def _printable(text: str) -> str:
    """The *text* in one line, and such that it can be encoded."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _digest(value: object) -> Digest | None:
    try:
        return Digest.parse(value) if isinstance(value, str) else None
    except DigestInvalid:
        return None


class UploadFiles:
    """The small files of one upload, which need not be there yet."""

    def __init__(self, driver: StorageDriver, repository: RepositoryName, upload_id: str) -> None:
        self._driver = driver
        self._repository = repository
        self.upload_id = upload_id
        self.data = paths.upload_data(repository, upload_id)

    def label(self, record: UploadRecord) -> str:
        """What a person calls the upload."""
        return f"{self._repository}/_uploads/{record.name or self.upload_id}"

    def begin(self, started_at: datetime, record: UploadRecord) -> None:
        """Make the upload known; from now on it can be resumed."""
        path = paths.upload_startedat(self._repository, self.upload_id)
        moment = started_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._driver.put_content(path, moment.encode())
        if record != UploadRecord():
            self.put_record(record)

    def started_at(self) -> datetime:
        """When the upload began, in UTC, or about when its file was made; raises UploadUnknown."""
        path = paths.upload_startedat(self._repository, self.upload_id)
        try:
            began = _moment(self._driver.read_at(path, 0, 64))
            # What is no time was cut off by a crash, or is about to be written.
            return began or _from_seconds(self._driver.stat(path).mtime_ns // 10**9)
        except PathNotFound:
            raise UploadUnknown(self.upload_id) from None
        except NotAFile:
            raise Corrupt(f"{path} is a directory") from None

    def made_at(self) -> datetime:
        """When the file was made that says when the upload began; raises UploadUnknown."""
        path = paths.upload_startedat(self._repository, self.upload_id)
        try:
            info = self._driver.stat(path)
        except PathNotFound:
            raise UploadUnknown(self.upload_id) from None
        if info.is_dir:
            raise Corrupt(f"{path} is a directory")
        return _from_seconds(info.mtime_ns // 10**9)

    def record(self) -> UploadRecord:
        """What blobfs keeps of it; an empty one for an upload of a registry's."""
        return UploadRecord.of_json(self.record_content())

    def record_content(self) -> bytes:
        """The content of the record's file; empty where there is none."""
        path = paths.upload_record(self._repository, self.upload_id)
        try:
            return self._driver.read_at(path, 0, _LONGER_THAN_A_RECORD)
        except (PathNotFound, NotAFile):
            return b""

    def is_record(self, content: bytes) -> bool:
        """Whether a listing tells that the record's file holds *content*; no request is made."""
        path = paths.upload_record(self._repository, self.upload_id)
        return self._driver.is_known_to_hold(path, content)

    def put_record(self, record: UploadRecord) -> None:
        """Replace the record, durably."""
        path = paths.upload_record(self._repository, self.upload_id)
        self._driver.put_content(path, record.to_json())

    def save_state(self, digester: Digester) -> None:
        """Keep the digester's inside: from there, hashing can go on here or in a registry."""
        path = paths.upload_hashstate(
            self._repository, self.upload_id, digester.algorithm, digester.size
        )
        self._driver.put_content(path, digester.state())

    def load_state(self, algorithm: str, size: int) -> Digester:
        """A digester that has seen as much as a state tells of the first *size* bytes."""
        for offset in sorted(self._offsets(algorithm), reverse=True):
            path = paths.upload_hashstate(self._repository, self.upload_id, algorithm, offset)
            if offset <= size:
                try:
                    digester = Digester.load(self._driver.read_at(path, 0, 256), algorithm)
                except (HashStateInvalid, PathNotFound, NotAFile):
                    continue
                if digester.size == offset:
                    return digester
        return Digester(algorithm)

    def hashed(self, algorithm: str, size: int) -> int:
        """How many of the first *size* bytes the last state among them tells of."""
        return max((offset for offset in self._offsets(algorithm) if offset <= size), default=0)

    def drop_states_below(self, algorithm: str, size: int) -> None:
        """Remove the algorithm's states of less than *size* bytes."""
        for offset in list(self._offsets(algorithm)):
            if offset < size:
                self._drop_state(algorithm, offset)

    def drop_states_above(self, size: int) -> None:
        """Remove the states of more than *size* bytes, of every algorithm."""
        for algorithm in ALGORITHMS:
            for offset in list(self._offsets(algorithm)):
                if offset > size:
                    self._drop_state(algorithm, offset)

    def _drop_state(self, algorithm: str, offset: int) -> None:
        self._delete(paths.upload_hashstate(self._repository, self.upload_id, algorithm, offset))

    def remove(self) -> None:
        """Remove everything of the upload; a missing one is no error."""
        self._delete(paths.upload(self._repository, self.upload_id))

    def _delete(self, path: str) -> None:
        try:
            self._driver.delete(path)
        except PathNotFound:
            pass

    def _offsets(self, algorithm: str) -> Iterator[int]:
        path = paths.upload_hashstates(self._repository, self.upload_id, algorithm)
        try:
            entries = list(self._driver.listdir(path))
        except PathNotFound:
            return
        for entry in entries:
            if entry.name.isdecimal() and str(int(entry.name)) == entry.name:
                yield int(entry.name)


def _moment(text: bytes) -> datetime | None:
    """The time that RFC 3339 writes so; None for what is none, or what datetime cannot hold.

    That is a leap second, for one, or a year that is not from 1971 to 9999 in UTC.
    """
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year >= 1971 else None


def _from_seconds(seconds: int) -> datetime:
    """The time so many *seconds* after the epoch, or the nearest that datetime can hold."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)
