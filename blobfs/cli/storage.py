"""The STORAGE of a command: a location, or a registry's configuration file that names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from blobfs.cache.base import DescriptorCache
from blobfs.cache.factory import is_redis
from blobfs.cli.output import echo, echo_if_terminal
from blobfs.drivers.location import Location, local_root
from blobfs.errors import MountRefused
from blobfs.host import preflight
from blobfs.host.preflight import Preflight
from blobfs.storage.registry import Registry, open_registry

if TYPE_CHECKING:
    from blobfs.config.registry_config import RegistryConfig

_SUFFIXES: Final = (".yml", ".yaml")

_PURGE_AGE_S: Final = 7 * 86400.0
"""The default of distribution."""


class Storage(NamedTuple):
    """A storage, and the registry's configuration that was given with it or for it.

    *checks* has the deadline of everything that touches the storage before a command begins.
    """

    location: Location
    config: RegistryConfig | None
    checks: Preflight

    @classmethod
    def resolve(cls, storage: str, beside: Path | None = None) -> Self:
        """Read STORAGE, and the configuration file *beside* it; raises MountRefused.

        ``REGISTRY_…`` variables override both kinds of a file, as they do for a registry.
        """
        checks = Preflight(storage, echo_if_terminal)
        location, config = checks.run(partial(_read, storage, beside))
        checks.about(location)
        return cls(location, config, checks)

    @classmethod
    def of_argument(cls, storage: str) -> Self:
        """Read STORAGE, and print the warnings about it; raises MountRefused."""
        found = cls.resolve(storage)
        for sentence in found.warnings:
            echo(sentence)
        return found

    @property
    def advice(self) -> str:
        """The end of a message about a missing directory."""
        return "" if self.config is None else self.config.root_advice

    @property
    def warnings(self) -> Iterator[str]:
        """The messages about the configuration."""
        yield from () if self.config is None else self.config.warnings

    @property
    def redis(self) -> str | None:
        """The URL of the registry's Redis, with its password; None if it uses none."""
        cache = None if self.config is None else self.config.cache
        return cache if cache is not None and is_redis(cache) else None

    @property
    def purge_age_s(self) -> float:
        """The age of uploads that a registry removes."""
        if self.config is None:
            return _PURGE_AGE_S
        return self.config.model.storage.maintenance.uploadpurging.age

    def configuration(self) -> RegistryConfig:
        """Return the registry's configuration, or one that has only the location."""
        from blobfs.config.registry_config import config_of  # noqa: PLC0415  (as below)

        return self.config or config_of(self.location)

    def open(self, cache: DescriptorCache | None = None) -> Registry:
        """Open the registry, which must exist; raises MountRefused. It closes *cache*."""
        return self.checks.run(partial(self._opened, cache))

    def _opened(self, cache: DescriptorCache | None) -> Registry:
        if self.location.root is not None:
            preflight.check_storage(self.location.root, self.advice)
        registry = open_registry(self.location, cache=cache)
        if self.location.bucket is not None:
            preflight.check_registry(registry, self.location)
        return registry


def _read(storage: str, beside: Path | None) -> tuple[Location, RegistryConfig | None]:
    file = _config_file(storage)
    if file is not None and beside is not None:
        raise MountRefused(f"{storage} is a configuration file already; omit --config")
    if file is not None:
        config = _config(file)
        return config.location(), config
    location = Location.of(storage)
    if beside is None:
        return location, None
    from blobfs.config.registry_config import check_storage  # noqa: PLC0415  (as below)

    config = _config(beside)
    check_storage(config, location)
    return location, config


def _config_file(storage: str) -> Path | None:
    """Return the path of the file that *storage* names; None for another storage."""
    path = local_root(storage)
    if path is None or path.is_dir():
        return None
    return path if path.is_file() or path.suffix in _SUFFIXES else None


def _config(file: Path) -> RegistryConfig:
    from blobfs.config.registry_config import read_config  # noqa: PLC0415  (PyYAML is slow to import)

    return read_config(file, os.environ)
