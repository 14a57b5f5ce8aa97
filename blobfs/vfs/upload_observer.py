"""The contract between an upload and the directory that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from blobfs.digest import Digest

if TYPE_CHECKING:
    from blobfs.vfs.copied_upload import CopiedUpload
    from blobfs.vfs.upload import Upload


class UploadObserver(Protocol):
    """The directory of an upload, which calls it with the lock of the upload held."""

    def committed(self, upload: Upload, declared: Digest | None) -> None:
        """Note that *upload* was committed, under its own and a *declared* digest."""

    def waits(self, upload: CopiedUpload) -> None:
        """Note that *upload* waits for the blob or manifest ``upload.missing``."""
