"""A driver over a bucket, or a prefix of one.

What is a directory, the keys below it tell; nothing is stored for it. A file being written is a
multipart upload, which nobody sees before it is completed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Final

from blobfs.drivers.base import Capacity, DirEntry, FileInfo, FileReader, FileWriter, Unfinished
from blobfs.drivers.objectstore import ListedFile, ObjectStore, Page
from blobfs.drivers.s3_bucket import Bucket, nanoseconds, put_object, remove_object
from blobfs.drivers.s3_client import client_for, s3_errors
from blobfs.drivers.s3_options import S3Options
from blobfs.drivers.s3_reach import connecting_once
from blobfs.drivers.s3_reader import S3Reader, get_part, get_whole
from blobfs.drivers.s3_uploads import MultipartUpload, unfinished
from blobfs.drivers.s3_writer import MultipartWriter
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

_REDIRECTED_S: Final = 1200
"""How long a URL is good that somebody else may fetch a file by, as in distribution."""


class S3Driver(ObjectStore):
    """Stores the path ``/a/b`` as the object ``<root>/a/b``; thread-safe."""

    name = "s3"

    def __init__(self, options: S3Options) -> None:
        pool = ThreadPoolExecutor(options.streams, thread_name_prefix="s3")
        self._bucket = Bucket(client_for(options), options, pool)

    @classmethod
    def reached(cls, options: S3Options) -> S3Driver:
        """A driver over a bucket that has answered; raises MountRefused with what to do."""
        driver = cls(options)
        try:
            with connecting_once(driver._bucket.client):
                driver.confirm()
        except (AccessDenied, StorageUnavailable) as exc:
            driver.close()
            raise MountRefused(f"{options} {_advice(exc, options)}") from None
        return driver

    @property
    def is_local(self) -> bool:
        return False

    def confirm(self) -> None:
        next(self.pages("/", limit=1))

    def stat(self, path: str) -> FileInfo:
        try:
            return self._head(path)[0]
        except PathNotFound:
            if not self._is_directory(path):
                raise
        return FileInfo(path, 0, True, 0)

    def stat_now(self, path: str) -> FileInfo:
        return self._head(path)[0]

    def _head(self, path: str) -> tuple[FileInfo, str]:
        """A file's attributes, and its ETag; raises PathNotFound, also for a directory."""
        if path == "/":
            raise PathNotFound(path)
        head: Any = self._bucket.client.head_object
        options = self._bucket.options
        with s3_errors(path):
            found = head(Bucket=options.bucket, Key=options.key(path), **options.for_reads)
        return FileInfo(path, found["ContentLength"], False, nanoseconds(found)), found["ETag"]

    def _is_directory(self, path: str) -> bool:
        return path == "/" or any(page.files for page in self.pages(path, limit=2))

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        if len(paths) == 1:
            return [self._stat_or_none(paths[0])]
        return list(self._bucket.pool.map(self._stat_or_none, paths))

    def pages(self, path: str, *, limit: int = 1000) -> Iterator[Page]:
        options = self._bucket.options
        for page in self._list(path, MaxKeys=limit):
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
            yield Page(files, is_last=not page.get("IsTruncated"))

    def _list(self, path: str, **wanted: object) -> Iterator[Any]:
        call: Any = self._bucket.client.list_objects_v2
        options = self._bucket.options
        arguments = {"Bucket": options.bucket, "Prefix": options.prefix(path), **wanted}
        while True:
            with s3_errors(str(options) if path == "/" else path):
                page = call(**arguments, **options.for_reads)
            yield page
            if not page.get("IsTruncated"):
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
        for page in self._list(path, Delimiter="/"):
            for below in page.get("CommonPrefixes", []):
                yield DirEntry(below["Prefix"][cut:-1], is_dir=True)
            for found in page.get("Contents", []):
                if not _is_hidden(found["Key"]):
                    yield DirEntry(found["Key"][cut:], is_dir=False)

    def walk(self, path: str) -> Iterator[FileInfo]:
        files = (file for page in self.pages(path) for file in page.files)
        first = next(files, None)
        if first is None and path != "/":
            raise PathNotFound(path)
        return iter(()) if first is None else _with_directories(path, chain([first], files))

    def open(self, path: str) -> FileReader:
        try:
            info, etag = self._head(path)
        except PathNotFound:
            self._refuse_directory(path)
            raise
        return S3Reader(self._bucket, path, info.size, etag)

    def _refuse_directory(self, path: str) -> None:
        if self._is_directory(path):
            raise NotAFile(f"not a file: {path}")

    def open_of_size(self, path: str, size: int) -> FileReader:
        return S3Reader(self._bucket, path, size)

    def redirect_url(self, path: str) -> str | None:
        options = self._bucket.options
        if options.for_reads:  # what else a request needs, whoever is sent there does not know
            return None
        with s3_errors(path):
            return self._bucket.client.generate_presigned_url(
                "get_object",
                Params={"Bucket": options.bucket, "Key": options.key(path)},
                ExpiresIn=_REDIRECTED_S,
            )

    def get_content(self, path: str) -> bytes:
        try:
            return get_whole(self._bucket, path).content
        except PathNotFound:
            self._refuse_directory(path)
            raise

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        try:
            return get_part(self._bucket, path, offset, size).content
        except FileChanged:  # the offset is behind its end
            return b""
        except PathNotFound:
            self._refuse_directory(path)
            raise

    def put_content(self, path: str, content: bytes) -> None:
        put_object(self._bucket, path, content)

    def create(self, path: str) -> FileWriter:
        return MultipartWriter(self._bucket, path)

    def append(self, path: str, token: str = "") -> FileWriter:
        if token:
            return MultipartWriter.resumed(self._bucket, MultipartUpload(self._bucket, path, token))
        upload = MultipartUpload.newest(self._bucket, path)
        if upload is not None:
            return MultipartWriter.resumed(self._bucket, upload)
        writer = MultipartWriter(self._bucket, path)
        size = self.open(path).size
        if size:
            writer.take_over(size)
        return writer

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        upload = self._upload(path, token)
        if upload is None:
            return self.stat(path)
        return MultipartWriter.stat(self._bucket, upload)

    def _upload(self, path: str, token: str) -> MultipartUpload | None:
        if token:
            return MultipartUpload(self._bucket, path, token)
        return MultipartUpload.newest(self._bucket, path)

    def delete_files(self, paths: Sequence[str]) -> None:
        self._delete_keys("/", [self._bucket.options.key(path) for path in paths])

    def move(self, source: str, target: str) -> None:
        size = self.open(source).size
        if source == target:
            return
        if size <= self._bucket.options.copy_threshold:
            self._copy(source, target)
        else:
            self._copy_in_parts(source, target, size)
        remove_object(self._bucket, source)

    def _copy(self, source: str, target: str) -> None:
        call: Any = self._bucket.client.copy_object
        options = self._bucket.options
        with s3_errors(source):
            call(
                Bucket=options.bucket,
                Key=options.key(target),
                CopySource={"Bucket": options.bucket, "Key": options.key(source)},
                **options.for_writes,
                **options.for_reads,
            )

    def _copy_in_parts(self, source: str, target: str, size: int) -> None:
        upload = MultipartUpload.begin(self._bucket, target)
        try:
            upload.complete(upload.copy_all(source, size))
        except BaseException:
            upload.abort()
            raise

    def delete(self, path: str) -> None:
        found = [
            MultipartUpload(self._bucket, upload.path, upload.token)
            for upload in self.unfinished(path)
            if _is_below(upload.path, path)
        ]
        for upload in found:
            upload.abort()
        tails = (self._bucket.options.key(upload.tail) for upload in found)
        keys = sorted({*self._keys(path), *tails})
        if not keys:
            raise PathNotFound(path)
        self._delete_keys(path, keys)

    def _keys(self, path: str) -> Iterator[str]:
        """The keys of a file, and of all below a directory, tails among them."""
        options = self._bucket.options
        for page in self._list(path, Prefix=options.key(path)):
            for found in page.get("Contents", []):
                if _is_below(options.path(found["Key"]), path):
                    yield found["Key"]

    def _delete_keys(self, path: str, keys: Sequence[str]) -> None:
        for key in keys:
            if not key.isprintable():  # XML, which the others go in, has not every character
                remove_object(self._bucket, self._bucket.options.path(key))
        call: Any = self._bucket.client.delete_objects
        printable = [key for key in keys if key.isprintable()]
        for start in range(0, len(printable), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in printable[start : start + _DELETED_AT_ONCE]]
            with s3_errors(path):
                answer = call(Bucket=self._bucket.name, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageUnavailable(f"{path}: {errors[0].get('Code')}: not all was deleted")

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return unfinished(self._bucket, path)

    def abandon(self, unfinished: Unfinished) -> None:
        upload = MultipartUpload(self._bucket, unfinished.path, unfinished.token)
        upload.abort()
        remove_object(self._bucket, upload.tail)

    def capacity(self) -> Capacity | None:
        return None

    def close(self) -> None:
        self._bucket.pool.shutdown(wait=False, cancel_futures=True)
        self._bucket.client.close()


def _advice(exc: BlobfsError, options: S3Options) -> str:
    why = str(exc).removeprefix(f"{options}: ")
    if isinstance(exc, AccessDenied):
        return f"refuses us; set AWS_ACCESS_KEY_ID and the like, or profile=…: {why}"
    if "NoSuchBucket" in str(exc):
        return "is not there; make the bucket, or mind its name, region and regionendpoint"
    return f"cannot be reached; mind regionendpoint and AWS_ENDPOINT_URL: {why}"


def _is_hidden(key: str) -> bool:
    """Whether it is a tail, or stands for a directory, as some programs make them."""
    name = key.rpartition("/")[2]
    return not name or _TAIL.fullmatch(name) is not None


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _with_directories(top: str, files: Iterator[ListedFile]) -> Iterator[FileInfo]:
    """Each file, after those directories above it that had none before."""
    base = top.rstrip("/")
    above: list[str] = []
    for file in files:
        names = file.path[len(base) + 1 :].split("/")[:-1]
        for depth in range(1, len(names) + 1):
            if names[:depth] != above[:depth]:
                yield FileInfo("/".join([base, *names[:depth]]), 0, True, 0)
        above = names
        yield FileInfo(file.path, file.size, False, file.mtime_ns)
