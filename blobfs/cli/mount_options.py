"""The options of ``blobfs mount``, in the sections that its help shows them in."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from blobfs.cli.types import DIRECTORY, FILE, SECONDS, Account, Octal, Size
from blobfs.errors import MountRefused
from blobfs.logs import LEVELS
from blobfs.vfs.verification import Verify

if TYPE_CHECKING:
    from click.types import OptionHelpExtra


_USER: Final = Account("user", lambda name: pwd.getpwnam(name).pw_uid)
_GROUP: Final = Account("group", lambda name: grp.getgrnam(name).gr_gid)


class _Option(click.Option):
    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # who leaves it is told; for others it is noise
        if "default" in extra:
            extra["default"] = extra["default"].strip("()")  # click's, around a text
        return extra


def _option(name: str, text: str, **attributes: Any) -> click.Option:  # noqa: ANN401  (click's)
    return _Option([name], help=text, **{"show_default": True, **attributes})


def _flag(name: str, text: str) -> click.Option:
    return _Option([name], help=text, is_flag=True)


def _count(
    name: str, text: str, default: int, *, least: int = 0, most: int | None = None
) -> click.Option:
    bounds = click.IntRange(least, most)
    return _option(name, text, type=bounds, default=default, metavar="N")


def _seconds(name: str, text: str, default: int) -> click.Option:
    return _option(name, text, type=SECONDS, default=default, metavar="SECONDS")


def _without_password(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    typed = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    if value is not None and typed and ("@" in value or "password=" in value):
        raise MountRefused(
            "a password on the command line can be seen by every user of the machine;"
            f" give the URL as {ctx.auto_envvar_prefix}_CACHE, or by --config"
        )
    return value


def _owner(name: str, text: str, kind: Account, default: Callable[[], int]) -> click.Option:
    return _option(name, text, type=kind, default=default, metavar="NAME|ID", show_default="yours")


SECTIONS: Final[dict[str, list[click.Option]]] = {
    "The mount": [
        _flag("--create", "Begin a registry in a directory or bucket that is none."),
        _flag("--foreground", "Do not leave the terminal; log to stderr."),
        _flag("--read-only", "Refuse every change (EROFS)."),
        _flag(
            "--allow-delete",
            "Let rm remove layers and manifests; a registry with blobdescriptor: inmemory must be"
            " restarted after that.",
        ),
        _flag("--expose-blobs", "Show /_blobs, without access checks."),
        _option("--pid-file", "Where to write the daemon's pid.", type=FILE),
        _option(
            "--config",
            "A registry's config.yml: its Redis is the cache, its notification endpoints are told.",
            type=FILE,
        ),
        _option(
            "--state-dir",
            "What outlasts a mount: notifications that wait.",
            type=DIRECTORY,
            show_default="/var/lib/blobfs, or ~/.local/state/blobfs",
        ),
    ],
    "Who may look": [
        _flag("--allow-other", "Let other users look."),
        _owner("--uid", "Owner of all files.", _USER, os.getuid),
        _owner("--gid", "Group of all files.", _GROUP, os.getgid),
        _count("--max-handles-per-user", "Files and directories one has open.", 65536, least=1),
        _option("--umask", "Modes to deny.", type=Octal(), default="000"),
    ],
    "What the kernel keeps": [
        _seconds("--entry-timeout", "A name that has a digest in it.", 3600),
        _seconds("--attr-timeout", "The attributes of such a name.", 86400),
        _seconds("--tag-timeout", "Tags, directories and listings.", 1),
        _seconds("--negative-timeout", "That a name is not there.", 1),
        _count("--readahead-kb", "KiB that it reads ahead (needs root); 0 for as it is.", 4096),
        _count("--max-background", "Its requests ahead of need, at once.", 64, least=1, most=65535),
    ],
    "Reading": [
        _option(
            "--verify",
            "Hash blobs that are read from end to end: never, until found good, or each time.",
            type=click.Choice([mode.value for mode in Verify]),
            show_default="first for S3, else none",
        ),
        _option(
            "--cache",
            "Where to remember what blobs are; a Redis that has a password by BLOBFS_MOUNT_CACHE.",
            metavar="none|memory|redis://HOST",
            callback=_without_password,
            show_default="memory, or what --config says",
        ),
        _count("--read-memory", "MiB that reading ahead may hold (S3).", 256),
        _count("--read-part", "MiB that one request reads at most (S3).", 16, least=1, most=1024),
        _count("--read-streams", "Requests side by side (S3).", 16, least=1, most=256),
        _option("--cache-dir", "Where to keep blobs that were read (S3).", type=DIRECTORY),
        _option("--cache-size", "What they may take at most.", type=Size(), default="10G"),
        _option("--cache-min-free", "What they leave free on the disk.", type=Size(), default="1G"),
    ],
    "Writing": [
        _seconds("--receipt-ttl", "How long a committed upload stays in _uploads.", 3600),
        _option(
            "--upload-deadline",
            "How long the commit in a close may take; then it is EIO, and stopped.",
            type=click.FloatRange(min=0.1, max=10**6),
            default=300,
            metavar="SECONDS",
        ),
        _option(
            "--max-upload",
            "The most bytes of an upload that has no declared digest or size.",
            type=Size(),
            default="64G",
        ),
    ],
    "What it tells": [
        _option(
            "--http",
            "Serve /metrics, /healthz, /readyz and /debug/tasks there; loopback without a host.",
            metavar="[HOST:]PORT",
        ),
        _flag("--serve", "Serve the registry's read API there too: /v2/, without authentication."),
        _flag("--serve-redirect", "Send who asks for a blob there, by a presigned URL (S3)."),
        _option("--log-file", "Where to log; else the system's log.", type=FILE),
        _option(
            "--log-level",
            "The least that is logged; SIGUSR1 logs more, SIGUSR2 less.",
            type=click.Choice(LEVELS),
            default="info",
        ),
        _option(
            "--log-format",
            "A line an event: text, or an object.",
            type=click.Choice(["text", "json"]),
            default="text",
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
