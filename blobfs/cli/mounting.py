"""``blobfs mount``: checks the options, opens the storage, and serves the mount."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from blobfs import logs
from blobfs.cache.base import DescriptorCache
from blobfs.cache.factory import cache_for
from blobfs.cli.mount_defaults import with_defaults
from blobfs.cli.mount_options import SECTIONS, MountCommand
from blobfs.cli.notices import Notice, cache_notice, show
from blobfs.cli.services import MountServices
from blobfs.cli.storage import Storage
from blobfs.cli.types import PATH, STORAGE
from blobfs.config.settings import Settings, default_indexes
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.fuse.attributes import AttributeMapper, Timeouts
from blobfs.fuse.mount import MountOptions, serve
from blobfs.host import daemon, preflight, signals
from blobfs.host.preflight import Preflight
from blobfs.http.health import Health
from blobfs.storage.events import Listener
from blobfs.storage.registry import Registry, open_registry
from blobfs.vfs.tree import StorageUsage
from blobfs.vfs.verification import Verify

if TYPE_CHECKING:
    from blobfs.maintenance.usage import RecentUsage

_OR_CREATE: Final = ", or --create to create one"

_MEMORY_TTL_S: Final = 60.0
"""The time of a descriptor in memory. A blob that others delete stays visible that long."""


@click.command(
    cls=MountCommand,
    params=[option for options in SECTIONS.values() for option in options],
)
@STORAGE
@click.argument("mountpoint", type=PATH)
def mount(storage: str, mountpoint: Path, **options: Any) -> None:  # noqa: ANN401  (click's)
    """Mount the registry in STORAGE at the empty directory MOUNTPOINT.

    Returns when the mount is ready. To end it: blobfs umount MOUNTPOINT.
    """
    settings = start(storage, mountpoint, options)
    if not settings.foreground:
        click.echo(f"{settings.source} is mounted at {mountpoint}")


def start(storage: str, mountpoint: Path, options: dict[str, Any]) -> Settings:
    """Start the daemon of a mount, or serve in the foreground; raises MountRefused.

    Returns when the mount is ready, or has ended if it is in the foreground.
    """
    if options["read_only"] and options["allow_delete"]:
        raise MountRefused("--read-only refuses what --allow-delete allows; give one of them")
    given = Storage.resolve(storage, options["config"])
    options = with_defaults(options, given)
    root, checks = given.location.root, given.checks
    place = checks.run(partial(_check_directories, given, mountpoint, create=options["create"]))
    _check_cache(options["cache_dir"], given.location, place)
    _check_outside("--index-dir", options["index_dir"] or default_indexes(), place)
    unwritable = None
    if root is not None and not options["read_only"]:
        unwritable = checks.run(partial(preflight.unwritable, root))
    options["read_only"] = options["read_only"] or unwritable is not None
    settings = Settings(given.location, place, **options)
    logs.configure(settings.logging, to_stderr=settings.foreground)
    signals.ignore_until_followed()
    services = checks.run(partial(MountServices.of, settings, given.config))
    notices = list(services.notices())
    if unwritable is not None:
        notices.append(Notice(logging.WARNING, f"{unwritable}: the mount is read-only"))
    for notice in notices:
        show(notice, on_terminal=settings.hides_log)
    if settings.foreground:
        _serve(settings, services, checks, lambda: None)
    else:
        daemon.daemonize(lambda ready: _serve(settings, services, checks, ready))
    return settings


def _check_directories(given: Storage, mountpoint: Path, *, create: bool) -> Path:
    """Check both directories; returns the absolute mount point. Raises MountRefused."""
    root = given.location.root
    if root is not None:
        if create:
            preflight.create_storage(root)
        preflight.check_storage(root, _OR_CREATE + given.advice)
    return preflight.check_mountpoint(mountpoint, root)


def _check_outside(option: str, directory: Path | None, mountpoint: Path) -> None:
    """Raise MountRefused if the *directory* of an option is in the mount."""
    if directory is not None and directory.is_relative_to(mountpoint):
        raise MountRefused(f"{option} {directory} is in the mount; give another directory")


def _check_cache(directory: Path | None, location: Location, mountpoint: Path) -> None:
    if directory is not None and location.bucket is None:
        raise MountRefused(f"--cache-dir is for s3 only, and {location} is no s3://bucket/prefix")
    _check_outside("--cache-dir", directory, mountpoint)


def _serve(
    settings: Settings, services: MountServices, checks: Preflight, ready: Callable[[], None]
) -> None:
    with ExitStack() as opened:
        end_in_time = opened.enter_context(daemon.ending_in_time())
        descriptors = cache_for(services.cache, min(_MEMORY_TTL_S, settings.entry_timeout))
        listener = opened.enter_context(services.listening_for_events())
        registry = opened.enter_context(
            checks.run(partial(_opened, settings, descriptors, listener))
        )
        if (notice := cache_notice(services.cache)) is not None:
            show(notice, on_terminal=settings.hides_log)
        if not settings.read_only:
            settings = _read_only_if_refused(settings, checks.run(registry.write_refusal))
        announce = opened.enter_context(_pid_file(settings.pid_file, ready))
        health = Health.of_storage(registry, services.health_files)
        opened.callback(end_in_time)  # runs first, so that the deadline covers all others
        serve(
            registry,
            settings.mountpoint,
            _mount_options(settings, settings.public(services.cache), health),
            partial(services.announce, announce),
            partial(services.tasks, registry, health, opened),
        )


def _opened(settings: Settings, cache: DescriptorCache, listener: Listener) -> Registry:
    registry = open_registry(settings.storage, settings.remote, cache, listener)
    if settings.storage.bucket is None:
        return registry
    if not settings.create:
        preflight.check_registry(registry, settings.storage, _OR_CREATE)
    elif not registry.exists():
        registry.create()
    return registry


def _read_only_if_refused(settings: Settings, refusal: str | None) -> Settings:
    """Return *settings*, made read-only if the storage refuses writes."""
    if refusal is None:
        return settings
    text = f"{settings.source} cannot be written ({refusal}): the mount is read-only"
    show(Notice(logging.WARNING, text), on_terminal=settings.hides_log)
    return replace(settings, read_only=True)


@contextmanager
def _pid_file(path: Path | None, ready: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Yield a replacement of *ready* that first writes the pid file; the exit removes the file."""

    def announce() -> None:
        if path is not None:
            try:
                path.write_text(f"{os.getpid()}\n")
            except OSError as exc:
                raise MountRefused(f"{path}: {exc.strerror}") from None
        ready()

    try:
        yield announce
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def _usage_of(storage: Location) -> Callable[[], StorageUsage]:
    @cache
    def recent() -> RecentUsage:
        # Imported on use: it needs SQLite and the inventory.
        from blobfs.maintenance.usage import RecentUsage  # noqa: PLC0415

        return RecentUsage(storage)

    return lambda: recent().of_storage()


def _mount_options(settings: Settings, public: dict[str, object], health: Health) -> MountOptions:
    return MountOptions(
        source=settings.source,
        attributes=AttributeMapper(
            settings.uid,
            settings.gid,
            settings.umask,
            Timeouts(
                settings.entry_timeout,
                settings.attr_timeout,
                settings.tag_timeout,
                settings.negative_timeout,
            ),
        ),
        verify=Verify(settings.verify),
        expose_blobs=settings.expose_blobs,
        allow_other=settings.allow_other,
        read_only=settings.read_only,
        allow_delete=settings.allow_delete,
        receipt_ttl_s=settings.receipt_ttl,
        upload_deadline_s=settings.upload_deadline,
        max_upload=settings.max_upload,
        readahead_kb=settings.readahead_kb,
        max_background=settings.max_background,
        max_handles_per_user=settings.max_handles_per_user,
        config=public,
        show_images=settings.show_images,
        index_dir=settings.indexes,
        kept_tags=settings.kept_tags,
        index_size=settings.index_size,
        flatten_owners=settings.rootfs_owner == "mount",
        health=health,
        usage=_usage_of(settings.storage),
    )
