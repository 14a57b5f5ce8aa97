"""The requests of the distribution API that a source and a target share.

Source of truth: the OCI distribution specification 1.1; distribution 2.8 and 3.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import Closing
from blobfs.errors import (
    BlobUnknown,
    Corrupt,
    DigestInvalid,
    DigestMismatch,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    RepositoryUnknown,
    TagUnknown,
    Unsupported,
)
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import MEDIA_TYPES, SCHEMA_1, SIGNED_SCHEMA_1
from blobfs.transfer.bounded_json import bounded_json
from blobfs.transfer.registry.authorization import Scope
from blobfs.transfer.registry.client import Call, RegistryClient
from blobfs.transfer.registry.options import RegistryOptions
from blobfs.transfer.registry.referrers import referrers_in
from blobfs.transfer.registry.responses import Answer, number_in

log = logging.getLogger(__name__)

_ACCEPT: Final = {"Accept": ", ".join((*sorted(MEDIA_TYPES), SIGNED_SCHEMA_1, SCHEMA_1))}
_PAGE: Final = 1000
_PAGES: Final = 20_000
_LIST_SIZE: Final = 64 * 2**20
"""Bytes of a page; distribution 2.8 lists all tags in one."""

_KEPT: Final = 32 * 2**20
"""Bytes of manifests that are kept; a manifest has some thousand."""

_ITEMS: Final = 5_000_000
"""Items of a list in all its pages, which are in memory."""

_NEXT: Final = re.compile(r'<([^<>]*)>\s*;(?:[^,<]*;)?\s*rel\s*=\s*"?next"?', re.IGNORECASE)
"""A link to the next page; the time of a search is linear in the length of a header."""


class RegistryApi(Closing):
    """The requests to one registry, which ask for tokens with *actions*. Thread-safe."""

    def __init__(
        self, host: str, options: RegistryOptions, repository: str | None, actions: str
    ) -> None:
        self.client = RegistryClient(host, options)
        self.host = host
        self.payloads = _Payloads()
        self.takes_chunks = True  # False once the registry has refused one
        self._repository = repository
        self._actions = actions

    def close(self) -> None:
        self.client.close()

    def call(
        self,
        method: str,
        repository: str,
        path: str,
        *,
        more: tuple[str, ...] = (),
        **details: Any,  # noqa: ANN401  (the fields of Call)
    ) -> Call:
        """Return a request below a repository; *more* are the scopes beside its own."""
        name = self._name(repository)
        scope = Scope(repository, (self.scope(repository, self._actions), *more))
        return Call(method, f"/v2/{name}/{path}", scope, **details)

    def scope(self, repository: str, actions: str) -> str:
        """Return a scope of a token."""
        return f"repository:{self._name(repository)}:{actions}"

    def repositories(self) -> Iterator[str]:
        """Yield the names of all repositories in order, or that of the only one in use."""
        if self._repository is not None:
            yield self._repository
            return
        call = Call("GET", f"/v2/_catalog?n={_PAGE}", Scope("", ("registry:catalog:*",)))
        names: set[str] = set()
        try:
            for name in self._pages(call, "repositories"):
                try:
                    names.add(str(RepositoryName(_text(name))))
                except NameInvalid as exc:
                    log.warning("%s lists a repository that is left out: %s", self.host, exc)
        except (NotFound, Unsupported) as exc:
            raise Unsupported(
                f"{self.host} does not list its repositories ({exc}); name them one by one, "
                f"as docker://{self.host}/NAME"
            ) from None
        yield from sorted(names)

    def tags(self, repository: str) -> Iterator[Tag]:
        """Yield the tags of a repository; raises RepositoryUnknown."""
        call = self.call("GET", repository, f"tags/list?n={_PAGE}")
        try:
            for name in self._pages(call, "tags"):
                try:
                    yield Tag(_text(name))
                except NameInvalid as exc:
                    log.warning("%s lists a tag that is left out: %s", self.host, exc)
        except NotFound:
            raise RepositoryUnknown(repository) from None

    def tagged(self, repository: str, tag: Tag) -> Digest:
        """Return the digest of the manifest that has *tag*; raises TagUnknown."""
        try:
            answer = self.client.ask(
                self.call("HEAD", repository, f"manifests/{tag}", headers=_ACCEPT)
            )
            header = answer.headers.get("docker-content-digest", "")
            try:
                return Digest.parse(header)
            except DigestInvalid:  # a registry need not send it
                return Digest.of(self._manifest(repository, tag))
        except NotFound:
            raise TagUnknown(f"{repository}:{tag}") from None

    def manifest(self, repository: str, digest: Digest) -> bytes:
        """Return the bytes of a manifest; raises ManifestUnknown, DigestMismatch."""
        payload = self.payloads.get(repository, digest)
        if payload is None:
            payload = self._manifest(repository, digest)
            if Digest.of(payload, digest.algorithm) != digest:
                raise DigestMismatch(f"{self.host} sends other content for manifest {digest}")
            self.payloads.add(repository, digest, payload)
        return payload

    def _manifest(self, repository: str, reference: Tag | Digest) -> bytes:
        call = self.call("GET", repository, f"manifests/{reference}", headers=_ACCEPT)
        try:
            return self.client.ask(call).body
        except NotFound:
            raise ManifestUnknown(f"{repository}@{reference}") from None

    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        """True if the repository serves the manifest, with its size where the registry says it."""
        path = f"manifests/{manifest.digest}"
        answer = self.client.ask(self.call("HEAD", repository, path, headers=_ACCEPT, also=(404,)))
        length = answer.headers.get("content-length", str(manifest.size))
        return answer.status != 404 and length == str(manifest.size)

    def size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob; raises BlobUnknown, Corrupt."""
        try:
            answer = self.client.ask(self.call("HEAD", repository, f"blobs/{digest}"))
        except NotFound:
            raise BlobUnknown(digest) from None
        size = number_in(answer.headers.get("content-length", ""))
        if size is None:
            raise Corrupt(f"{self.host} does not say the size of blob {digest}")
        return size

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """True if the repository serves the blob with its size."""
        try:
            return self.size(repository, blob.digest) == blob.size
        except BlobUnknown:
            return False

    def referrers(self, repository: str, digest: Digest) -> list[Digest] | None:
        """Return the referrers by the API for them; None if the registry has none."""
        call = self.call("GET", repository, f"referrers/{digest}")
        try:
            return referrers_in(self._pages(call, "manifests"))
        except (NotFound, Unsupported):
            return None

    def tagged_index(self, repository: str, tag: Tag) -> dict[str, Any] | None:
        """Return the JSON of an index; None if nothing has *tag*."""
        try:
            return _document(self._manifest(repository, tag), self.host)
        except NotFound:
            return None

    def _pages(self, call: Call, key: str) -> Iterator[Any]:
        """Yield the items of a list in all its pages, as JSON has them."""
        url: str | None = call.url
        seen: set[str] = set()
        count = 0
        while url is not None:
            seen.add(url)
            answer = self.client.ask(
                Call(call.method, url, call.scope, call.headers, limit=_LIST_SIZE)
            )
            found = _document(answer.body, self.host).get(key)
            items = found if isinstance(found, list) else []
            count += len(items)
            yield from items
            url = self._next(answer)
            if url in seen or len(seen) > _PAGES or count > _ITEMS:
                raise Corrupt(f"{self.host}: the list of {key} does not end")

    def _next(self, answer: Answer) -> str | None:
        match = _NEXT.search(answer.headers.get("link", ""))
        if match is None:
            return None
        url = self.client.resolve(answer.url, match[1])
        if not self.client.is_own(url):
            raise Corrupt(f"{self.host}: a list goes on at another host")
        return url

    def _name(self, repository: str) -> str:
        """Return the name in URLs; an official image of Docker Hub has a namespace there."""
        name = RepositoryName(repository)
        is_official = self.host == "docker.io" and "/" not in name
        return quote(f"library/{name}" if is_official else name)


class _Payloads:
    """The bytes of the manifests that were used last, as a copy needs each two or three times.

    Thread-safe: ``_lock`` guards them.
    """

    def __init__(self) -> None:
        self._lock = guard()
        self._kept: dict[tuple[str, Digest], bytes] = {}
        self._size = 0

    def get(self, repository: str, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest; None if they are not kept."""
        with self._lock:
            return self._kept.get((repository, digest))

    def add(self, repository: str, digest: Digest, payload: bytes) -> None:
        """Keep the bytes of a manifest, instead of the oldest ones."""
        with self._lock:
            if (repository, digest) not in self._kept:
                self._kept[repository, digest] = payload
                self._size += len(payload)
            while self._size > _KEPT:
                self._size -= len(self._kept.pop(next(iter(self._kept))))


def _text(item: object) -> str:
    """Return an item of a list of names; raises NameInvalid for another type."""
    if isinstance(item, str):
        return item
    raise NameInvalid(f"not a name: {item!r:.80}")


def _document(payload: bytes, host: str) -> dict[str, Any]:
    try:
        document = bounded_json(payload)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Corrupt(f"{host}: a response is not a JSON object")
    return document
