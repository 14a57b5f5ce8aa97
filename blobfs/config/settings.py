"""The options of a mount as one value."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path

from blobfs.drivers.location import Location
from blobfs.drivers.prefetch.driver import ReadAheadOptions
from blobfs.logs import LogSettings
from blobfs.storage.diskcache.cache import CacheOptions
from blobfs.storage.registry import RemoteOptions


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of ``blobfs mount``, with defaults applied; durations are in seconds."""

    storage: Location
    mountpoint: Path
    create: bool
    foreground: bool
    read_only: bool
    config: Path | None
    state_dir: Path | None
    allow_other: bool
    uid: int
    gid: int
    umask: int
    entry_timeout: float
    attr_timeout: float
    tag_timeout: float
    negative_timeout: float
    expose_blobs: bool
    allow_delete: bool
    receipt_ttl: float
    upload_deadline: float
    max_upload: int  # bytes
    verify: str
    cache: str | None
    read_memory: int  # MiB, as read_part
    read_part: int
    read_streams: int
    cache_dir: Path | None
    cache_size: int  # bytes, as cache_min_free
    cache_min_free: int
    show_images: bool
    index_dir: Path | None
    index_size: int  # bytes
    rootfs_owner: str
    readahead_kb: int
    max_background: int
    max_handles_per_user: int
    http: str | None
    serve: bool
    serve_redirect: bool
    log_file: Path | None
    log_level: str
    log_format: str
    pid_file: Path | None

    @property
    def logging(self) -> LogSettings:
        """The level, format and file of the log."""
        return LogSettings(self.log_level, self.log_format, self.log_file)

    @property
    def hides_log(self) -> bool:
        """True if the terminal does not show the log."""
        return self.log_file is not None or not self.foreground

    @property
    def source(self) -> str:
        """The storage as df(1) shows it: without the options of a URL."""
        return str(self.storage)

    @property
    def remote(self) -> RemoteOptions:
        """The caching and prefetch options of an object store."""
        return RemoteOptions(
            name_ttl_s=self.tag_timeout,
            content_ttl_s=self.entry_timeout,
            read_ahead=ReadAheadOptions(
                memory=self.read_memory * 2**20,
                part=min(self.read_part, max(1, self.read_memory // 16)) * 2**20,
                streams=self.read_streams,
            ),
            cache=self._cache,
        )

    @property
    def _cache(self) -> CacheOptions | None:
        if self.cache_dir is None:
            return None
        return CacheOptions(self.cache_dir, self.cache_size, self.cache_min_free)

    @property
    def state(self) -> Path:
        """The directory of data that stays after the mount ends."""
        return self.state_dir or default_state()

    @property
    def kept_tags(self) -> Path:
        """The file of the tags that wait between two mounts at one place."""
        place = sha256(os.fsencode(self.mountpoint)).hexdigest()[:8]
        return self.state / f"waiting-tags-{self.storage.key}-{place}.jsonl"

    @property
    def indexes(self) -> Path:
        """The directory of indexes of images."""
        return self.index_dir or default_indexes()

    def public(self, cache: str) -> dict[str, object]:
        """Return all options and the *cache* in use, without secrets."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = {n: str(value) if isinstance(value, Path) else value for n, value in values.items()}
        return shown | {"storage": self.storage.url, "cache": _without_secrets(cache)}


def _without_secrets(url: str) -> str:
    """Remove user, password and query from a URL."""
    scheme, colon, rest = url.partition("://")
    return scheme + colon + rest.partition("?")[0].rpartition("@")[2]


def default_state() -> Path:
    """Return the directory of this user's data that stay after a command ends."""
    if os.getuid() == 0:
        return Path("/var/lib/blobfs")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "blobfs")


def default_indexes() -> Path:
    """Return the directory of indexes of images, which can be made again."""
    if os.getuid() == 0:
        return Path("/var/cache/blobfs/images")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "blobfs/images")
