"""Reading and writing of link files, beside a registry that writes them too.

distribution's filesystem driver truncates a link before it writes it, so a reader in between
finds it empty. Such a file is read again for up to 50 ms, in a thread that may sleep
(``blobfs/concurrency.py``).
"""

from __future__ import annotations

import time
from typing import Final

from blobfs.concurrency import refuse_to_take_long
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import DigestInvalid, LinkInvalid, NotAFile

LONGER_THAN_A_LINK: Final = 256  # bytes; "sha512:" and its digits are 135

_YOUNG_NS: Final = 2 * 10**9
"""A short link that was changed within this time may be a write in progress."""

_WAIT_S: Final = 0.05
_STEP_S: Final = 0.005


def read_link(driver: StorageDriver, path: str) -> Digest:
    """Return the digest in a link file, which must hold nothing else.

    Raises PathNotFound, LinkInvalid, TakesLong.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        content = _content(driver, path)
        try:
            return Digest.parse(content.decode("ascii"))
        except (DigestInvalid, UnicodeDecodeError):
            what = repr(content[:160])[1:] if content else "nothing"
            message = f"link {path} holds {what}, not a digest"
        if not _may_be_incomplete(driver, path, content) or time.monotonic() > deadline:
            raise LinkInvalid(message)
        refuse_to_take_long()
        time.sleep(_STEP_S)


def _content(driver: StorageDriver, path: str) -> bytes:
    try:
        return driver.read_at(path, 0, LONGER_THAN_A_LINK)
    except NotAFile:
        raise LinkInvalid(f"link {path} is a directory") from None


def _may_be_incomplete(driver: StorageDriver, path: str, content: bytes) -> bool:
    """True if the link is too short and was just changed, so a write may be in progress."""
    whole = 135 if content.startswith(b"sha512:") else 71
    if driver.is_object_store or len(content) >= whole:
        return False
    return abs(time.time_ns() - driver.stat(path).mtime_ns) < _YOUNG_NS


def write_link(driver: StorageDriver, path: str, target: Digest) -> None:
    """Write *target* to the link file at *path*; a directory there is removed."""
    content = str(target).encode("ascii")
    try:
        driver.put_content(path, content)
    except NotAFile:
        driver.delete(path)
        driver.put_content(path, content)
