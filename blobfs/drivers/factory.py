"""The factory of drivers: from a location to a driver."""

from __future__ import annotations

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.location import Location
from blobfs.drivers.measured import measured


def driver_for(storage: str | Location) -> StorageDriver:
    """Create the driver of *storage*; its calls are measured, but not checked.

    The caller closes it. Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    location = Location.of(storage)
    if location.root is not None:
        return measured(FilesystemDriver.below(location.root))
    if location.bucket is None:
        return measured(InMemoryDriver())
    from blobfs.drivers.s3.driver import S3Driver  # noqa: PLC0415  (boto3 takes 0.3 s to import)

    return measured(S3Driver.reached(location.bucket))
