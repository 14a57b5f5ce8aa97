"""A file that a program copies into a link set: a layer, or a manifest that may have to wait."""

from __future__ import annotations

from blobfs.digest import Descriptor, Digest
from blobfs.errors import ManifestIncomplete
from blobfs.storage.uploads.base import ContentWriter
from blobfs.vfs.upload import Upload


class Placeholder(Upload):
    """A file that tar(1) makes in place of a tag's symlink, which it makes at its end."""


class CopiedUpload(Upload):
    """The upload of a copied file. Thread-safe, as ``Upload``.

    A manifest that refers to something that is missing waits for it, in the storage. The blob gets
    the time that a program sets.
    """

    is_copy = True

    missing: object = None
    """The digest for which a manifest waits."""

    _chosen_mtime_ns: int | None = None
    """The time that a program has set."""

    def begin(self, *, truncate: bool) -> ContentWriter:
        writer = super().begin(truncate=truncate)
        self.missing = None
        return writer

    def retry(self) -> None:
        """Commit it if nothing is missing any more."""
        with self.lock:
            if self.receipt is None and not self.is_gone and not self.is_open:
                self._resumed()
                self.commit_if_complete()

    def receive(self, content: bytes) -> None:
        """Write all of it, and commit it or let it wait."""
        with self.lock:
            writer = self.begin(truncate=False)
            try:
                writer.write_at(0, content)
                self.commit(writer)
            finally:
                self.is_open = False
                self.release_writer()

    def set_mtime(self, mtime_ns: int) -> None:
        """Set the time that a program has chosen: that of the blob, once it is committed."""
        self.mtime_ns = self._chosen_mtime_ns = mtime_ns
        receipt = self.receipt
        if receipt is not None:
            self._store.set_mtime(receipt.descriptor.digest, mtime_ns)

    def _publish(self, writer: ContentWriter, digest: Digest | None) -> Descriptor | None:
        """Publish it; return None if it waits, and is durable.

        What is missing may arrive before others know that it is waited for: it is tried twice.
        """
        while True:
            try:
                return self._commit(writer, digest)
            except ManifestIncomplete as exc:
                if self.missing == exc.missing:
                    self.reason = str(exc)
                    self.suspend_writer(writer)
                    return None
                self.missing = exc.missing
                self._observer.waits(self)

    def _commit(self, writer: ContentWriter, digest: Digest | None) -> Descriptor:
        descriptor = writer.commit(digest)
        self.missing = None
        if self._chosen_mtime_ns is not None:
            self._store.set_mtime(descriptor.digest, self._chosen_mtime_ns)
        return descriptor
