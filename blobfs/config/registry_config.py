"""A registry's configuration file, translated to the options of blobfs.

Source of truth: distribution 2.8.3 and 3.1.1, ``configuration/configuration.go``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from blobfs.config import environment, yaml_file
from blobfs.config.known_keys import unknown
from blobfs.config.model import S3, EndpointSection, Model
from blobfs.config.redis_url import redis_url
from blobfs.config.schema import Loader, Origins, fields_of
from blobfs.config.yaml_file import Value
from blobfs.drivers.location import Location
from blobfs.drivers.s3.options import MAX_STREAMS, Credentials, S3OptionInvalid, S3Options
from blobfs.errors import MountRefused
from blobfs.notifications.options import Endpoint, NotificationOptions

_NO_DRIVERS: Final = {"cache", "delete", "maintenance", "redirect", "tag"}
_S3_NAMES: Final = ("s3", "s3aws", "s3goamz")
_ROOT: Final = "storage.filesystem.rootdirectory"
_ROOT_VARIABLE: Final = "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"
_BESIDE: Final = "give the storage as STORAGE, and the file as --config"


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """The settings that blobfs uses; immutable, and no ``repr`` shows a secret.

    *model* has all keys that blobfs takes, *origins* those that were given. *drivers* has the names
    of the storage drivers. *cache* is an argument of ``cache_for``, and can contain a password.
    *warnings* has a message for each key and variable that a registry ignores.
    """

    file: Path
    model: Model = field(repr=False)
    origins: Origins
    drivers: tuple[str, ...]
    notifications: NotificationOptions
    cache: str | None = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def driver(self) -> str | None:
        """The name of the storage driver, if there is exactly one."""
        return self.drivers[0] if len(self.drivers) == 1 else None

    @property
    def log_level(self) -> str:
        """The value of ``--log-level`` that the file stands for; ``""`` without one."""
        is_given = "log.level" in self.origins
        level = self.model.log.level if is_given else self.model.loglevel
        return {"warn": "warning"}.get(level, level)

    @property
    def log_format(self) -> str:
        """The value of ``--log-format`` that the file stands for; ``""`` without one."""
        if "log.formatter" not in self.origins:
            return ""
        return "text" if self.model.log.formatter == "text" else "json"

    @property
    def health_files(self) -> tuple[str, ...]:
        """The files whose existence makes a registry unhealthy."""
        return tuple(check.file for check in self.model.health.file if check.file)

    def location(self) -> Location:
        """Return the storage; raises MountRefused if there is no driver for it."""
        if self.driver == "filesystem":
            return Location(root=self._root())
        if self.driver in _S3_NAMES:
            return Location(bucket=_bucket(self.driver, self.model, self.origins))
        raise self._no_driver()

    def _root(self) -> Path:
        root = self.model.storage.filesystem.rootdirectory
        if not root.startswith("/") or "\0" in root:
            raise self.origins.refusal(
                _ROOT,
                "must be absolute: a relative path depends on the registry's working directory;"
                f" set {_ROOT_VARIABLE} to the directory",
            )
        return Path(root)

    def _no_driver(self) -> MountRefused:
        if not self.drivers:
            return self.origins.refusal("storage", f"names no driver; add one, or {_BESIDE}")
        if len(self.drivers) > 1:
            names = ", ".join(self.drivers)
            return self.origins.refusal(
                "storage",
                f"must have one driver, and has {names}; REGISTRY_STORAGE=DRIVER replaces the"
                " whole section by one",
            )
        key = f"storage.{self.drivers[0]}"
        if self.driver == "inmemory":
            return self.origins.refusal(key, "is in the memory of the registry's process")
        return self.origins.refusal(
            key, f"cannot be used: blobfs has the drivers filesystem and {', '.join(_S3_NAMES)}"
        )

    @property
    def root_advice(self) -> str:
        """The end of a message about a missing directory: the reason why it may be missing."""
        if self.driver != "filesystem":
            return ""
        origin = self.origins.get(_ROOT, self.origins.file)
        return (
            f"; {origin} has {_ROOT}: if that is a path in the registry's container, set"
            f" {_ROOT_VARIABLE} to the directory on this host"
        )


def read_config(path: Path, variables: Mapping[str, str] | None = None) -> RegistryConfig:
    """Read the file at *path*, overridden by ``REGISTRY_…`` *variables*; raises MountRefused."""
    root = yaml_file.read(path)
    ignored = list(environment.override(root, variables or {}))
    return _translated(path, root, [*ignored, *_unknown(path, root)])


def config_of(location: Location) -> RegistryConfig:
    """Return the configuration that has only the storage *location*."""
    driver, given = "inmemory", dict[str, str]()
    if location.root is not None:
        driver, given = "filesystem", {"rootdirectory": str(location.root)}
    if location.bucket is not None:
        bucket = location.bucket
        driver = "s3"
        given = {"bucket": bucket.bucket, "rootdirectory": bucket.root, **bucket.given}
    parameters = Value({name: Value(text, "STORAGE") for name, text in given.items()}, "STORAGE")
    storage = Value({driver: parameters}, "STORAGE")
    return _translated(Path(), Value({"storage": storage}, "STORAGE"), [])


def _translated(path: Path, root: Value, warnings: list[str]) -> RegistryConfig:
    loader = Loader(str(path))
    model = loader.load(Model, root)
    storage = (root.mapping or {}).get("storage", Value(None)).mapping or {}
    drivers = tuple(name for name in storage if name not in _NO_DRIVERS)
    for name in drivers:
        loader.origins.setdefault(f"storage.{name}", storage[name].origin)
    return RegistryConfig(
        path,
        model,
        loader.origins,
        drivers,
        _notifications(model, loader.origins),
        _cache(model, loader.origins),
        tuple(warnings),
    )


def _unknown(path: Path, root: Value) -> Iterator[str]:
    """Yield a message for each key that is probably misspelt, and one for all others."""
    others = []
    for origin, name, similar in unknown(root):
        if similar:
            yield f"{origin}: {name} is not known; {similar} is: correct or remove it"
        else:
            others.append(f"{name} ({origin.rpartition(':')[2]})")
    if others:
        yield f"{path}: keys that no registry has are ignored: {', '.join(others)}"


def check_storage(config: RegistryConfig, location: Location) -> None:
    """Raise MountRefused if *config* names a storage other than *location*."""
    named = _named_storage(config)
    if named is None:
        return
    key, theirs = named
    is_same = str(location) == theirs or (
        location.root is not None and _is_same_directory(location.root, theirs)
    )
    if not is_same:
        raise config.origins.refusal(
            key,
            f"is {theirs}, and STORAGE is {location}: give {theirs} as STORAGE, or give --config a"
            f" copy of the file without {key}, or with the path that it has on this host"
            " (a container has paths of its own)",
        )


def _named_storage(config: RegistryConfig) -> tuple[str, str] | None:
    """Return the key and the storage that the file names; None if it names none."""
    root = config.model.storage.filesystem.rootdirectory
    if _ROOT in config.origins and root.startswith("/"):
        return _ROOT, root
    for name in _S3_NAMES:
        given: S3 = getattr(config.model.storage, name)
        if given.bucket:
            return f"storage.{name}.bucket", str(S3Options(given.bucket, _prefix(given)))
    return None


def _prefix(given: S3) -> str:
    return given.rootdirectory.strip("/")


def _is_same_directory(one: Path, other: str) -> bool:
    """True if both paths lead to one directory, also through symlinks and bind mounts."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except OSError:
        return False


def _bucket(driver: str, model: Model, origins: Origins) -> S3Options:
    given: S3 = getattr(model.storage, driver)
    if not given.bucket:
        raise origins.refusal(f"storage.{driver}.bucket", "is missing")
    parameters = {
        each.name: _parameter(getattr(given, each.attribute))
        for each in fields_of(S3)
        if f"storage.{driver}.{each.name}" in origins
        and not (each.key and each.key.is_secret)
        and each.name not in {"bucket", "rootdirectory"}
    }
    if not given.encrypt:  # a registry ignores it then
        parameters.pop("keyid", None)
    if given.multipartcopymaxconcurrency > MAX_STREAMS:
        parameters["multipartcopymaxconcurrency"] = str(MAX_STREAMS)
    try:
        return S3Options.of(
            given.bucket, _prefix(given), parameters, _credentials(driver, given, origins)
        )
    except S3OptionInvalid as exc:
        raise origins.refusal(f"storage.{driver}.{exc.option}", exc.expected) from None


def _parameter(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _credentials(driver: str, given: S3, origins: Origins) -> Credentials | None:
    """Return the keys; None unless there are both, as in a registry."""
    for name in ("accesskey", "secretkey", "sessiontoken"):
        text = getattr(given, name)
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise origins.refusal(f"storage.{driver}.{name}", "must be printable, without spaces")
    if not (given.accesskey and given.secretkey):
        return None
    return Credentials(given.accesskey, given.secretkey, given.sessiontoken or None)


def _notifications(model: Model, origins: Origins) -> NotificationOptions:
    endpoints: dict[str, Endpoint] = {}
    for i, given in enumerate(model.notifications.endpoints):
        if given.disabled:
            continue
        key = f"notifications.endpoints[{i}]"
        endpoint = _endpoint(given, key, origins)
        if endpoint.name in endpoints:
            raise origins.refusal(f"{key}.name", "is used by another endpoint; choose another name")
        endpoints[endpoint.name] = endpoint
    return NotificationOptions(
        tuple(endpoints.values()),
        include_references=model.notifications.events.includereferences,
        pulls=model.notifications.events.pulls,
        base_url=model.http.host if _is_http(model.http.host) else None,  # as in a registry
    )


def _endpoint(given: EndpointSection, key: str, origins: Origins) -> Endpoint:
    """Translate an endpoint, with distribution's defaults for zeros, too."""
    if not given.name:
        raise origins.refusal(f"{key}.name", "is missing: the queue of the endpoint needs it")
    if not _is_http(given.url):
        raise origins.refusal(f"{key}.url", "must be http://host[:port]/path or https://…")
    return Endpoint(
        given.name,
        given.url,
        tuple(given.headers),
        float(given.timeout) or 1.0,
        given.threshold or 10,
        float(given.backoff) or 1.0,
        frozenset(given.ignoredmediatypes + given.ignore.mediatypes),
        frozenset(given.ignore.actions),
    )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _cache(model: Model, origins: Origins) -> str | None:
    match model.storage.cache.blobdescriptor or model.storage.cache.layerinfo:
        case "inmemory":
            return "memory"
        case "redis":
            return redis_url(model.redis, origins)
    return None
