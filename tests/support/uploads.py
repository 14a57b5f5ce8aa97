"""What the tests of uploads share: contents, and a look at what the storage has afterwards."""

import random
from typing import Final

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import PathNotFound
from blobfs.storage.linkfiles import read_link
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.buffer import IN_MEMORY
from tests.support.files import content_of, walk
from tests.support.layout import APP

SMALL: Final = b"what the blob holds"
LARGE: Final = random.Random(1).randbytes(IN_MEMORY + 1000)
UPLOADS: Final = paths.uploads(APP)


def files_below(driver: StorageDriver, path: str) -> set[str]:
    """The files below a directory, which need not be there, by their paths from it."""
    try:
        return {
            info.path.removeprefix(f"{path}/") for info in walk(driver, path) if not info.is_dir
        }
    except PathNotFound:
        return set()


def states(driver: StorageDriver, upload_id: str, algorithm: str = "sha256") -> set[str]:
    """The offsets that hash states of an upload are saved for."""
    return files_below(driver, paths.upload_hashstates(APP, upload_id, algorithm))


def begun(repository: Repository, content: bytes = SMALL, *, digest: Digest | None = None) -> str:
    """The id of an upload that has *content*, and was left there."""
    with repository.uploads.create(digest=digest) as writer:
        writer.write(content)
    return writer.id


def blob_content(driver: StorageDriver, digest: Digest) -> bytes | None:
    try:
        return content_of(driver, paths.blob_data(digest))
    except PathNotFound:
        return None


def broken_links(driver: StorageDriver) -> list[str]:
    """The link files that do not lead to a blob with the content that its digest says."""
    links = [
        f"{paths.REPOSITORIES}/{path}"
        for path in files_below(driver, paths.REPOSITORIES)
        if path.endswith("/link")
    ]
    targets = {path: read_link(driver, path) for path in links}
    return [
        path
        for path, target in targets.items()
        if Digest.of(blob_content(driver, target) or b"", target.algorithm) != target
    ]
