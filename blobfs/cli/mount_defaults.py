"""The defaults of a mount's options: those of the registry's configuration, else of blobfs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from blobfs.cli.storage import Storage

if TYPE_CHECKING:
    from blobfs.config.registry_config import RegistryConfig

_READ_ONLY: Final = "storage.maintenance.readonly.enabled"


def with_defaults(given: Mapping[str, object], storage: Storage) -> dict[str, Any]:
    """Return all options: those that were given, else those of the file, else the defaults.

    Raises MountRefused if an option contradicts the file.
    """
    config = storage.config
    defaults: dict[str, object] = {
        "read_only": False,
        "allow_delete": False,
        "verify": "none" if storage.location.bucket is None else "first",
        "log_level": "info",
        "log_format": "text",
    }
    if config is not None:
        defaults |= _of_file(config)
    options: dict[str, Any] = {
        name: defaults.get(name) if value is None else value for name, value in given.items()
    }
    if options["read_only"] and options["allow_delete"]:
        if given["allow_delete"] and config is not None:
            raise config.origins.refusal(
                _READ_ONLY, "is true, and refuses what --allow-delete allows; add --no-read-only"
            )
        options["allow_delete"] = False
    return options


def _of_file(config: RegistryConfig) -> dict[str, object]:
    storage = config.model.storage
    found = {
        "config": config.file,
        "read_only": storage.maintenance.readonly.enabled,
        "allow_delete": storage.delete.enabled,
        "log_level": config.log_level,
        "log_format": config.log_format,
    }
    return {name: value for name, value in found.items() if value}
