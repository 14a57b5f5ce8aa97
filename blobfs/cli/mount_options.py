"""The options of ``blobfs mount``, in the sections of its help."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from typing import Any, Final

import click

from blobfs.cli.image_options import INDEX_OPTIONS
from blobfs.cli.types import (
    DIRECTORY,
    FILE,
    SECONDS,
    Account,
    Octal,
    Option,
    Size,
    without_password,
)
from blobfs.logs import LEVELS
from blobfs.vfs.verification import Verify

_USER: Final = Account("user", lambda name: pwd.getpwnam(name).pw_uid)
_GROUP: Final = Account("group", lambda name: grp.getgrnam(name).gr_gid)


def _option(name: str, text: str, **attributes: Any) -> click.Option:  # noqa: ANN401  (click's)
    return Option([name], help=text, **{"show_default": True, **attributes})


def _flag(name: str, text: str) -> click.Option:
    return Option([name], help=text, is_flag=True)


def _switch(name: str, text: str, key: str) -> click.Option:
    """Return a flag and its opposite; without both the registry's file decides by *key*."""
    names = f"--{name}/--no-{name}"
    return _option(names, text, default=None, show_default=f"off, or {key} of the registry's file")


def _count(
    name: str, text: str, default: int, *, least: int = 0, most: int | None = None
) -> click.Option:
    bounds = click.IntRange(least, most)
    return _option(name, text, type=bounds, default=default, metavar="N")


def _seconds(name: str, text: str, default: int) -> click.Option:
    return _option(name, text, type=SECONDS, default=default, metavar="SECONDS")


def _owner(name: str, text: str, kind: Account, default: Callable[[], int]) -> click.Option:
    return _option(name, text, type=kind, default=default, metavar="NAME|ID", show_default="yours")


SECTIONS: Final[dict[str, list[click.Option]]] = {
    "The mount": [
        _flag("--create", "Create an empty registry if there is none."),
        _flag("--foreground", "Stay in the foreground and log to stderr."),
        _switch("read-only", "Refuse every change (EROFS).", "maintenance.readonly"),
        _switch(
            "allow-delete",
            "Let rm remove layers and manifests. Restart a registry with blobdescriptor: inmemory"
            " after that.",
            "delete.enabled",
        ),
        _flag("--expose-blobs", "Show /_blobs, without access checks."),
        _option("--pid-file", "File for the daemon's pid.", type=FILE),
        _option(
            "--config",
            "A registry's config.yml beside STORAGE: its Redis, its notification endpoints, and"
            " defaults of options. STORAGE can be that file, too.",
            type=FILE,
        ),
        _option(
            "--state-dir",
            "Directory for pending notifications, and for copied tags that wait.",
            type=DIRECTORY,
            show_default="/var/lib/blobfs, or ~/.local/state/blobfs",
        ),
    ],
    "Access": [
        _flag("--allow-other", "Let other users use the mount."),
        _owner("--uid", "Owner of all files.", _USER, os.getuid),
        _owner("--gid", "Group of all files.", _GROUP, os.getgid),
        _count("--max-handles-per-user", "Open files and directories per user.", 65536, least=1),
        _option("--umask", "Permission bits to remove.", type=Octal(), default="000"),
    ],
    "Images": [
        _flag("--show-images", "List _images in each repository; it is found by name anyway."),
        *(Option([name], **attributes) for name, attributes in INDEX_OPTIONS.items()),
        _option(
            "--rootfs-owner",
            "Owners of files in a rootfs: as the image has them, or the mount's.",
            type=click.Choice(["image", "mount"]),
            default="image",
        ),
    ],
    "Kernel caches": [
        _seconds("--entry-timeout", "Names with a digest.", 3600),
        _seconds("--attr-timeout", "Attributes of names with a digest.", 86400),
        _seconds("--tag-timeout", "Tags, directories and listings.", 1),
        _seconds("--negative-timeout", "Missing names.", 1),
        _count("--readahead-kb", "Read-ahead in KiB (needs root); 0 keeps the default.", 4096),
        _count("--max-background", "Concurrent background requests.", 64, least=1, most=65535),
    ],
    "Reading": [
        _option(
            "--verify",
            "Hash blobs that are read completely: never, until one read is correct, or always.",
            type=click.Choice([mode.value for mode in Verify]),
            show_default="first for S3, else none",
        ),
        _option(
            "--cache",
            "Cache of blob descriptors; give a Redis with a password by BLOBFS_MOUNT_CACHE.",
            metavar="none|memory|redis://HOST",
            callback=without_password,
            show_default="memory, or the cache of the registry's file",
        ),
        _count("--read-memory", "Memory for prefetched data in MiB (S3).", 256),
        _count("--read-part", "Largest read request in MiB (S3).", 16, least=1, most=1024),
        _count("--read-streams", "Concurrent read requests (S3).", 16, least=1, most=256),
        _option("--cache-dir", "Directory for blobs that were read (S3).", type=DIRECTORY),
        _option("--cache-size", "Largest size of --cache-dir.", type=Size(), default="10G"),
        _option(
            "--cache-min-free",
            "Free disk space that --cache-dir leaves.",
            type=Size(),
            default="1G",
        ),
    ],
    "Writing": [
        _seconds("--receipt-ttl", "Time that a committed upload stays in _uploads.", 3600),
        _option(
            "--upload-deadline",
            "Time limit of the commit in a close; after it the close fails with EIO.",
            type=click.FloatRange(min=0.1, max=10**6),
            default=300,
            metavar="SECONDS",
        ),
        _option(
            "--max-upload",
            "Largest upload without a declared digest or size.",
            type=Size(),
            default="64G",
        ),
    ],
    "Monitoring and HTTP": [
        _option(
            "--http",
            "Serve /metrics, /healthz, /readyz and /debug/tasks; on loopback without a host.",
            metavar="[HOST:]PORT",
        ),
        _flag("--serve", "Serve the registry's read API (/v2/) too, without authentication."),
        _flag(
            "--serve-redirect", "Redirect downloads of blobs to the bucket by a presigned URL (S3)."
        ),
        _option("--log-file", "Log file, instead of the system log.", type=FILE),
        _option(
            "--log-level",
            "Lowest level to log; SIGUSR1 logs more, SIGUSR2 less.",
            type=click.Choice(LEVELS),
            show_default="info, or log.level of the registry's file",
        ),
        _option(
            "--log-format",
            "Format of a log line.",
            type=click.Choice(["text", "json"]),
            show_default="text, or log.formatter of the registry's file",
        ),
    ],
}


class MountCommand(click.Command):
    """A command whose help shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section under its title."""
        help_option = self.get_help_option(ctx)
        others = [] if help_option is None else [help_option]
        for title, options in [*SECTIONS.items(), ("Help", others)]:
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
