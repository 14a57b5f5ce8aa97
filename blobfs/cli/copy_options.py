"""The arguments and options of the commands that copy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from blobfs.cli.completion import complete_place
from blobfs.cli.output import echo
from blobfs.cli.storage import Storage
from blobfs.cli.types import DIRECTORY, FILE, HUMAN, JSON, Duration, Option, Parsed, Size
from blobfs.config.settings import default_state
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.images.platforms import Platform
from blobfs.transfer.copying import Copy
from blobfs.transfer.places import Kind, Place, PlaceOptions, paired
from blobfs.transfer.registry import RegistryOptions
from blobfs.transfer.route import Route
from blobfs.transfer.selection import Selection
from blobfs.transfer.streams import spool_directory

T = TypeVar("T", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.argument("source", shell_complete=complete_place),
    click.argument("target", shell_complete=complete_place),
    click.option("--include", multiple=True, metavar="PATTERN",
                 help="Copy only tags like this, such as 'team/*:v1.*'."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Copy no tags like this."),
    click.option("--platform", type=Parsed("os/arch", Platform.parse),
                 help="Copy of an index only the image for this platform, under its tag."),
    click.option("--newer-than", type=Duration(),
                 help="Copy only tags that were set in this time, such as 7d."),
    click.option("--history", is_flag=True, help="Copy the images that a tag named before, too."),
    click.option("--all", "everything", is_flag=True,
                 help="Copy also manifests without a tag, single blobs, and the history."),
    click.option("--link", is_flag=True,
                 help="Make hard links or reflinks within one file system."),
    click.option("--jobs", cls=Option, type=click.IntRange(1, 256), metavar="N",
                 help="Copy so many items at once.  [default: 4, or 16 over a network]"),
    click.option("--cluster", metavar="tcp://HOST:PORT",
                 help="Copy with the workers of this Dask scheduler; they need the same storages."),
    click.option("--bwlimit", type=Size(), default="0", metavar="SIZE",
                 help="Send so many bytes per second at most, such as 10M."),
    click.option("--verify-target", is_flag=True, help="Read and verify what is there already."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first failure."),
    click.option("--dry-run", is_flag=True, help="Show what would be sent."),
    click.option("--state-dir", type=DIRECTORY,
                 help="Journals, with which a run that was stopped goes on, and a later one is"
                 " faster.  [default: /var/lib/blobfs or ~/.local/state/blobfs]"),
    click.option("--restart", is_flag=True, help="Begin anew, and not where a run was stopped."),
    click.option("--authfile", type=FILE, help="Logins of registries.  [default: those of podman"
                 " and docker]"),
    *(
        option
        for end, place in (("src", "SOURCE"), ("dest", "TARGET"))
        for option in (
            click.option(f"--{end}-tls-verify", type=bool, default=True, metavar="BOOL",
                         help=f"Verify the certificate of {place}; without it HTTP is tried too."),
            click.option(f"--{end}-cert-dir", type=DIRECTORY, help=f"Certificates for {place}."),
            click.option(f"--{end}-authfile", type=FILE, help=f"Logins of {place}."),
            click.option(f"--{end}-no-creds", is_flag=True, help=f"Do not log in to {place}."),
        )
    ),
    HUMAN,
    JSON,
)  # fmt: skip


_DELETIONS: Final = (
    click.option("--delete", is_flag=True,
                 help="Remove tags and repositories that SOURCE does not have."),
    click.option("--max-delete", cls=Option, type=click.IntRange(0), metavar="N",
                 help="Remove nothing if more than N tags would go."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The options of all commands that copy. Only some commands have those of deletions."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    platform: Platform | None
    newer_than: float | None
    history: bool
    everything: bool
    link: bool
    jobs: int | None
    cluster: str | None
    bwlimit: int
    verify_target: bool
    fail_fast: bool
    dry_run: bool
    state_dir: Path | None
    restart: bool
    human: bool
    as_json: bool
    authfile: Path | None
    src_tls_verify: bool
    src_cert_dir: Path | None
    src_authfile: Path | None
    src_no_creds: bool
    dest_tls_verify: bool
    dest_cert_dir: Path | None
    dest_authfile: Path | None
    dest_no_creds: bool
    delete: bool = False
    max_delete: int | None = None

    def copy(self, source: str, target: str, *, replaces: bool) -> Copy:
        """Return the copy, which *replaces* an archive; raises MountRefused, NameInvalid."""
        if self.max_delete is not None and not self.delete:
            raise click.UsageError("--max-delete limits what --delete removes; give both")
        places = Place.parse(source, _location), Place.parse(target, _location)
        _check_streams(*places)
        place, end = paired(*places)
        route = Route(
            place,
            end,
            self._place_options("src"),
            replace(self._place_options("dest"), link_files=self.link, replaces=replaces),
            bytes_per_s=self.bwlimit,
            verifies_target=self.verify_target,
        )
        everything = place.part.target is None and (self.everything or place.kind is Kind.FILE)
        selection = Selection(
            place.part, self.include, self.exclude, self.platform, self.newer_than,
            self.history or self.everything, everything,
        )  # fmt: skip
        copy = Copy(route, selection)
        if copy.is_to_stdout and self.as_json:
            raise MountRefused(f"--json and {end} need the standard output; omit one of both")
        return copy

    @property
    def states(self) -> Path:
        """The directory of journals, which is made."""
        directory = self.state_dir or default_state()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    def _place_options(self, end: str) -> PlaceOptions:
        """Return the options of the source, ``src``, or of the target, ``dest``."""
        registry = RegistryOptions(
            tls_verify=getattr(self, f"{end}_tls_verify"),
            cert_dir=getattr(self, f"{end}_cert_dir"),
            authfile=getattr(self, f"{end}_authfile") or self.authfile,
            anonymous=getattr(self, f"{end}_no_creds"),
        )
        return PlaceOptions(state_dir=None if self.dry_run else self.states, registry=registry)


def _check_streams(source: Place, target: Place) -> None:
    """Raise MountRefused for an archive in a terminal, and say where one is kept."""
    if source.is_archive_stream:
        if sys.stdin.isatty():
            raise MountRefused(f"{source}: the standard input is a terminal; give it an archive")
        echo(f"{source} is read into {spool_directory()} first")
    if target.is_archive_stream and sys.stdout.isatty():
        raise MountRefused(f"{target}: the standard output is a terminal; give it a file or a pipe")


def _location(storage: str) -> Location:
    return Storage.of_argument(storage).location


def copying(command: T) -> T:
    """Add the arguments and options of a copy to a command, which takes them as *options*."""

    @wraps(command)
    def with_options(source: str, target: str, **given: object) -> object:
        return command(source, target, options=CopyOptions(**cast(Any, given)))

    return _with(_OPTIONS, cast(T, with_options))


def deleting(command: T) -> T:
    """Add the options of deletions to a command that copies."""
    return _with(_DELETIONS, command)


def _with(options: Sequence[Callable[[T], T]], command: T) -> T:
    for option in reversed(options):
        command = option(command)
    return command
