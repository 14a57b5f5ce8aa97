"""What the tests of the caches share."""

import time
from collections.abc import Callable
from typing import Final

from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName

PATIENT_S: Final = 10.0
"""A time limit for what is not about time, on a machine that is busy."""

ONE: Final = RepositoryName("library/one")
OTHER: Final = RepositoryName("library/other")


def described(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(Digest.of(content), len(content), media_type)


def eventually(happened: Callable[[], bool], within_s: float) -> bool:
    """Whether it *happened* in time; it is asked again and again."""
    deadline = time.monotonic() + within_s
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
