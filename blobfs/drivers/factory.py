"""The factory of drivers: from a location to a driver."""

from __future__ import annotations

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver, with_base
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.location import Location
from blobfs.drivers.rate_limit import with_limits


def driver_for(storage: str | Location) -> BaseDriver:
    """Create the driver of *storage*, with its ``BaseDriver``.

    The caller closes it. Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    return with_base(concrete_driver_for(storage))


def concrete_driver_for(storage: str | Location) -> StorageDriver:
    """``driver_for`` without the ``BaseDriver``: nothing is checked, measured or hidden."""
    location = Location.of(storage)
    driver = _unlimited(location)
    return driver if location.limits is None else with_limits(driver, location.limits)


def _unlimited(location: Location) -> StorageDriver:
    if location.root is not None:
        return FilesystemDriver.below(location.root)
    if location.bucket is None:
        return InMemoryDriver()
    from blobfs.drivers.s3.driver import S3Driver  # noqa: PLC0415  (boto3 takes 0.3 s to import)

    return S3Driver.reached(location.bucket)
