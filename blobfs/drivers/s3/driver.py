"""The driver of a bucket, or of a prefix of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from blobfs.concurrency import ThreadPool
from blobfs.drivers.base import (
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    NewFile,
    StorageDriver,
    holds,
    is_below,
)
from blobfs.drivers.copying import Copying
from blobfs.drivers.objectstore import ListedFile, ObjectStore, Page
from blobfs.drivers.resumable import Unfinished
from blobfs.drivers.s3.client import (
    Bucket,
    client_for,
    head_object,
    nanoseconds,
    put_object,
    remove_object,
    s3_errors,
    session_for,
)
from blobfs.drivers.s3.multipart import MultipartUpload, copy_object, unfinished
from blobfs.drivers.s3.options import S3Options
from blobfs.drivers.s3.reach import connecting_once
from blobfs.drivers.s3.reader import S3Reader, get_part
from blobfs.drivers.s3.small_gets import SmallGets
from blobfs.drivers.s3.writer import MultipartWriter
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    FileChanged,
    MountRefused,
    NotAFile,
    PathNotFound,
    StorageUnavailable,
)

_TAIL: Final = re.compile(r"tail\.[0-9a-f]{16}\.tmp")

_DELETED_AT_ONCE: Final = 1000

_NO_UPLOAD: Final = "blobfs-no-such-upload"

_REDIRECT_S: Final = 1200
"""Seconds for which a presigned URL is valid, as in distribution."""


class S3Driver(ObjectStore, Copying):
    """Stores the path ``/a/b`` as the object ``<root>/a/b``.

    Owns the client and the pool of threads of its bucket. Thread-safe: its other state is the list
    of watchers, to which one append adds.
    """

    name = "s3"

    def __init__(self, options: S3Options) -> None:
        pool = ThreadPool("s3", options.streams)
        session = session_for(options)
        client = client_for(options, session)
        small_gets = SmallGets(client, session, options, pool)
        self._bucket = Bucket(client, small_gets, options, pool)
        self._watchers: list[Callable[[str], None]] = []

    @classmethod
    def reached(cls, options: S3Options) -> S3Driver:
        """Create a driver and check that its bucket answers; raises MountRefused with advice."""
        driver = cls(options)
        try:
            with connecting_once(driver._bucket.client):
                driver.stat("/")
        except (AccessDenied, StorageUnavailable) as exc:
            driver.close()
            raise MountRefused(f"{options} {_advice(exc, options)}") from None
        return driver

    def watch(self, changed: Callable[[str], None]) -> None:
        self._watchers.append(changed)

    def _changed(self, path: str) -> None:
        for changed in self._watchers:
            changed(path)

    def write_refusal(self, path: str) -> str | None:
        # A request for a missing upload always fails; the error code shows the permission.
        upload = MultipartUpload(self._bucket, path, _NO_UPLOAD)
        try:
            upload.abort()
        except AccessDenied:  # an account may put parts without the right to abort
            return _refusal(lambda: upload.put(1, b""))
        return None

    def stat(self, path: str) -> FileInfo:
        # Keys below a path make it a directory, even if an object has the same key.
        if self._is_directory(path):
            return FileInfo(path, 0, True, 0)
        return self.stat_now(path)

    def stat_now(self, path: str) -> FileInfo:
        if path == "/":
            raise PathNotFound(path)
        found = head_object(self._bucket, path)
        return FileInfo(path, found.size, False, found.mtime_ns)

    def _is_directory(self, path: str) -> bool:
        if path == "/":
            next(self.pages(path, limit=1))  # raises an error if the bucket does not answer
            return True
        return any(page.files for page in self.pages(path, limit=2))

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        if len(paths) == 1:
            return [self._stat_file_or_none(paths[0])]
        return list(self._bucket.pool.map(self._stat_file_or_none, paths))

    def _stat_file_or_none(self, path: str) -> FileInfo | None:
        try:
            return self.stat_now(path)
        except PathNotFound:
            return None

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        options = self._bucket.options
        start = {"StartAfter": options.key(after)} if after else {}
        for page in self._list(path, MaxKeys=limit, **start):
            files = [
                ListedFile(
                    options.path(found["Key"]),
                    found["Size"],
                    nanoseconds(found),
                    found["ETag"].strip('"'),
                )
                for found in page.get("Contents", [])
                if not _is_hidden(found["Key"])
            ]
            yield Page(files, is_last=not page["IsTruncated"])

    def _list(self, path: str, **wanted: object) -> Iterator[Any]:
        call: Any = self._bucket.client.list_objects_v2
        options = self._bucket.options
        arguments: dict[str, Any] = {"Bucket": options.bucket, "Prefix": options.prefix(path)}
        arguments |= wanted
        while True:
            with s3_errors(str(options) if path == "/" else path):
                page = call(**arguments, **options.for_reads)
            if any(not key.startswith(arguments["Prefix"]) for key in _keys_in(page)):
                raise StorageUnavailable(f"{path}: the answer lists keys of another prefix")
            yield page
            if not page["IsTruncated"]:
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def listdir(self, path: str) -> Iterator[DirEntry]:
        entries = self._entries(path)
        first = next(entries, None)
        if first is None:
            if path != "/":
                raise PathNotFound(path)
            return iter(())
        return chain([first], entries)

    def _entries(self, path: str) -> Iterator[DirEntry]:
        cut = len(self._bucket.options.prefix(path))
        files: set[str] = set()  # a later page may show that they are directories
        for page in self._list(path, Delimiter="/"):
            keys = list(_keys_in(page))
            directories = {below["Prefix"][cut:-1] for below in page.get("CommonPrefixes", [])}
            files |= {key[cut:] for key in keys if not _is_hidden(key)}
            files -= directories
            last = max(keys, default="")[cut:]
            certain = {name for name in files if f"{name}/" <= last or not page["IsTruncated"]}
            yield from (DirEntry(name, is_dir=True) for name in directories)
            yield from (DirEntry(name, is_dir=False) for name in certain)
            files -= certain

    def open(self, path: str, size: int | None = None) -> FileReader:
        if size is not None:
            return S3Reader(self._bucket, path, size, "", self._changed)
        try:
            found = head_object(self._bucket, path)
        except PathNotFound:
            self._refuse_directory(path)
            raise
        return S3Reader(self._bucket, path, found.size, found.etag, self._changed)

    def _refuse_directory(self, path: str) -> None:
        if self._is_directory(path):
            raise NotAFile(f"not a file: {path}")

    def redirect_url(self, path: str) -> str | None:
        options = self._bucket.options
        if options.for_reads:  # the client of the URL does not send RequestPayer
            return None
        with s3_errors(path):
            return self._bucket.client.generate_presigned_url(
                "get_object",
                Params={"Bucket": options.bucket, "Key": options.key(path)},
                ExpiresIn=_REDIRECT_S,
            )

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        try:
            return get_part(self._bucket, path, offset, size).content
        except FileChanged:  # the offset is past the end
            return b""
        except PathNotFound:
            self._refuse_directory(path)
            raise

    def put_content(self, path: str, content: bytes) -> None:
        put_object(self._bucket, path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        # Chunks are sent as parts as soon as they fill more than one, so memory stays bounded.
        unread, begin = iter(chunks), bytearray()
        for chunk in unread:
            begin += chunk
            if len(begin) > self._bucket.options.chunk_size:
                self._put_parts(path, chain((bytes(begin),), unread))
                return
        self.put_content(path, bytes(begin))

    def put_files(self, files: Iterable[NewFile]) -> None:
        bucket = self._bucket

        def put(file: NewFile) -> BlobfsError | None:
            try:
                is_stored = bucket.small_gets.put(bucket.options.key(file.path), file.content)
                if is_stored is False:
                    is_stored = holds(self, file)
                if not is_stored:
                    self.put_content(file.path, file.content)
            except BlobfsError as exc:
                return exc
            return None

        # All have ended before an error is raised, so the caller can look at what is stored.
        for error in list(bucket.pool.map(put, files)):
            if error is not None:
                raise error

    def _put_parts(self, path: str, chunks: Iterable[bytes]) -> None:
        writer = MultipartWriter(self._bucket, path)
        try:
            for chunk in chunks:
                writer.write(chunk)
            writer.commit()
        except BaseException:
            writer.cancel()
            raise

    def create(self, path: str) -> FileWriter:
        return MultipartWriter(self._bucket, path)

    def append(self, path: str, token: str = "") -> FileWriter:
        upload = self._upload(path, token)
        if upload is not None:
            return MultipartWriter.resumed(self._bucket, upload)
        writer = MultipartWriter(self._bucket, path)
        size = self.open(path).size
        if size:
            writer.start_from_object(size)
        return writer

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        try:
            upload = self._upload(path, token)
            if upload is not None:
                return MultipartWriter.stat(self._bucket, upload)
        except AccessDenied:  # a read-only account can still read objects
            pass
        return self.stat(path)

    def _upload(self, path: str, token: str) -> MultipartUpload | None:
        if token:
            return MultipartUpload(self._bucket, path, token)
        return MultipartUpload.newest(self._bucket, path)

    def move(self, source: str, target: str) -> None:
        size = self.open(source).size
        if source == target:
            return
        copy_object(self._bucket, self._bucket.source(source), target, size)
        remove_object(self._bucket, source)

    @property
    def bucket(self) -> Bucket:
        """The bucket, for a copy to another one."""
        return self._bucket

    def copy_from(self, other: StorageDriver, source: str, path: str, size: int) -> bool:
        if not isinstance(other, S3Driver) or not self._bucket.is_beside(other.bucket):
            return False
        try:
            copy_object(self._bucket, other.bucket.source(source), path, size)
        except (AccessDenied, PathNotFound):
            return False
        return True

    def delete(self, path: str) -> None:
        found = [
            MultipartUpload(self._bucket, upload.path, upload.token)
            for upload in self.unfinished(path)
            if is_below(upload.path, path)
        ]
        for upload in found:
            upload.abort()
        tails = (self._bucket.options.key(upload.tail) for upload in found)
        keys = sorted({*self._keys(path), *tails})
        if not keys:
            raise PathNotFound(path)
        self._delete_keys(path, keys)

    def _keys(self, path: str) -> Iterator[str]:
        """The keys of a file and of all files below a directory, tails included."""
        options = self._bucket.options
        for page in self._list(path, Prefix=options.key(path)):
            for found in page.get("Contents", []):
                if is_below(options.path(found["Key"]), path):
                    yield found["Key"]

    def _delete_keys(self, path: str, keys: Sequence[str]) -> None:
        for key in keys:
            if not key.isprintable():  # the XML of DeleteObjects cannot hold every character
                remove_object(self._bucket, self._bucket.options.path(key))
        call: Any = self._bucket.client.delete_objects
        printable = [key for key in keys if key.isprintable()]
        for start in range(0, len(printable), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in printable[start : start + _DELETED_AT_ONCE]]
            with s3_errors(path):
                answer = call(Bucket=self._bucket.name, Delete={"Objects": objects, "Quiet": True})
            for failed in answer.get("Errors", []):  # DeleteObject is retried, unlike these
                remove_object(self._bucket, self._bucket.options.path(failed["Key"]))

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return unfinished(self._bucket, path)

    def abandon(self, unfinished: Unfinished) -> None:
        upload = MultipartUpload(self._bucket, unfinished.path, unfinished.token)
        upload.abort()
        remove_object(self._bucket, upload.tail)

    def close(self) -> None:
        self._bucket.pool.close()
        self._bucket.client.close()


def _advice(exc: BlobfsError, options: S3Options) -> str:
    why = str(exc).removeprefix(f"{options}: ")
    if isinstance(exc, AccessDenied):
        return f"refuses access; set AWS_ACCESS_KEY_ID and the like, or profile=…: {why}"
    if "NoSuchBucket" in str(exc):
        return "does not exist; create the bucket, or check its name, region and regionendpoint"
    return f"cannot be reached; check regionendpoint and AWS_ENDPOINT_URL: {why}"


def _refusal(call: Callable[[], object]) -> str | None:
    try:
        call()
    except AccessDenied as exc:
        return str(exc)
    except PathNotFound:
        pass
    return None


def _keys_in(page: Mapping[str, Any]) -> Iterator[str]:
    """Every key and common prefix of a page of a listing."""
    yield from (found["Key"] for found in page.get("Contents", []))
    yield from (below["Prefix"] for below in page.get("CommonPrefixes", []))


def _is_hidden(key: str) -> bool:
    """True if the key is that of a tail, or of a directory marker that some programs create."""
    name = key.rpartition("/")[2]
    return not name or _TAIL.fullmatch(name) is not None
