"""The services of a mount beside its storage: systemd, HTTP, notifications."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from blobfs import logs, metrics
from blobfs.cli.notices import UNLOGGED, Notice, deletes_notice
from blobfs.config.settings import Settings
from blobfs.errors import MountRefused
from blobfs.fuse.activity import MountProbe
from blobfs.fuse.mount import Task
from blobfs.fuse.readonly_operations import ReadOnlyOperations
from blobfs.host import signals
from blobfs.host.systemd import Supervisor
from blobfs.http.health import Health
from blobfs.storage.events import NULL_LISTENER, Listener
from blobfs.storage.registry import Registry

if TYPE_CHECKING:
    from blobfs.config.registry_config import RegistryConfig


@dataclass(frozen=True, slots=True)
class MountServices:
    """The services of a mount, prepared before the fork, so that errors reach the terminal."""

    settings: Settings
    config: RegistryConfig | None
    supervisor: Supervisor
    listener: socket.socket | None

    @classmethod
    def of(cls, settings: Settings, config: RegistryConfig | None) -> Self:
        """Bind the HTTP socket; raises MountRefused."""
        if settings.serve and settings.http is None:
            raise MountRefused("--serve needs an address: add --http PORT")
        if settings.serve_redirect and not (settings.serve and settings.storage.bucket):
            raise MountRefused("--serve-redirect is for --serve of an s3://bucket/prefix")
        return cls(
            settings,
            config,
            Supervisor.from_environment(),
            None if settings.http is None else _open_listener(settings.http),
        )

    @property
    def cache(self) -> str:
        """The descriptor cache as ``cache_for`` takes it; it can contain a password."""
        configured = None if self.config is None else self.config.cache
        return self.settings.cache or configured or "memory"

    @property
    def health_files(self) -> Sequence[str]:
        """The files whose existence makes the mount unready."""
        return () if self.config is None else self.config.health_files

    def notices(self) -> Iterator[Notice]:
        """Yield the messages for the user; raises MountRefused."""
        if logs.is_discarded():
            yield Notice(logging.INFO, UNLOGGED)
        for sentence in () if self.config is None else self.config.warnings:
            yield Notice(logging.WARNING, sentence)
        if self.settings.allow_delete and not self.settings.read_only:
            file, configured = (
                (self.config.file, self.config.cache) if self.config else (None, None)
            )
            notice = deletes_notice(file, configured, self.cache)
            if notice is not None:
                yield notice

    def listening_for_events(self) -> AbstractContextManager[Listener]:
        """Return a context manager of the listener for the events of the mount."""
        if self.config is None or not self.config.notifications.endpoints:
            return nullcontext(NULL_LISTENER)
        # Imported on use, like the HTTP server: the import is slow.
        from blobfs.notifications.broadcaster import Broadcaster, queue_path  # noqa: PLC0415

        path = queue_path(self.settings.state, self.settings.storage)
        return Broadcaster.opened(self.config.notifications, path)

    def announce(self, ready: Callable[[], None]) -> None:
        """Report to the parent process and to systemd that the mount answers."""
        ready()
        self.supervisor.ready(f"{self.settings.source} is mounted at {self.settings.mountpoint}")

    def tasks(
        self,
        registry: Registry,
        health: Health,
        opened: ExitStack,
        operations: ReadOnlyOperations,
    ) -> list[Task]:
        """Return the tasks that run beside the request handlers; *opened* ends HTTP."""
        tasks: list[Task] = [self.supervisor.attend, signals.follow]
        listener = self.listener
        if listener is not None:
            from blobfs.http.api.routes import ServeOptions, routes  # noqa: PLC0415
            from blobfs.http.app import application  # noqa: PLC0415
            from blobfs.http.server import HttpServer  # noqa: PLC0415
            from blobfs.http.workers import Workers  # noqa: PLC0415

            options = ServeOptions(redirect=self.settings.serve_redirect)
            workers = Workers()
            api = routes(registry, workers, options) if self.settings.serve else []

            async def start_http() -> None:
                mount = MountProbe(operations.requests)
                pages = application(metrics.REGISTRY, health, mount, routes=api)
                opened.callback(workers.close)
                opened.enter_context(HttpServer(pages, listener).running())

            tasks.append(start_http)
        return tasks


def _open_listener(address: str) -> socket.socket:
    from blobfs.http.server import open_listener  # noqa: PLC0415

    return open_listener(address)
