"""The command line: reads options, builds the objects, calls them, prints."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from blobfs import daemon, logs, preflight, reports
from blobfs.config import Settings
from blobfs.drivers.factory import is_s3, local_root
from blobfs.errors import BlobfsError, MountRefused
from blobfs.fuse.attributes import Presentation, Timeouts
from blobfs.fuse.mount import MountOptions, serve
from blobfs.reference import Reference, RepositoryName
from blobfs.storage.openuploads import lost, of_repository
from blobfs.storage.registry import Registry, open_registry
from blobfs.unmounting import unmount
from blobfs.vfs.verification import Verify

T = TypeVar("T")


class _Group(click.Group):
    """Says a foreseen error in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BlobfsError as exc:
            raise click.ClickException(str(exc)) from exc
        except OSError as exc:
            if exc.errno == errno.EPIPE:
                raise  # click ends quietly
            raise click.ClickException(f"{exc.filename or 'output'}: {exc.strerror}") from exc


class _Octal(click.ParamType[int]):
    name = "octal"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            number = value if isinstance(value, int) else int(str(value), 8)
        except ValueError:
            self.fail(f"{value!r} is not an octal number such as 022", param, ctx)
        if not 0 <= number <= 0o777:
            self.fail("a umask is between 000 and 777", param, ctx)
        return number


class _Parsed(click.ParamType[Any]):
    """An argument that one of our value types reads."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except BlobfsError as exc:
            self.fail(str(exc), param, ctx)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = re.fullmatch(r"(\d+)([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 30m, 12h or 7d", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


class _Size(click.ParamType[int]):
    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d{1,12})([KMGT]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size such as 500M or 10G", param, ctx)
        return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False, resolve_path=True)
_DIRECTORY = click.Path(path_type=Path, file_okay=False, resolve_path=True)
_SECONDS = click.FloatRange(min=0, max=10**9)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "BLOBFS"})
@click.version_option(package_name="blobfs", message="%(package)s %(version)s")
def main() -> None:
    """Mount the storage of a Docker/OCI registry as a filesystem, or look into it without.

    STORAGE is the registry's root, which holds docker/registry/v2: a directory, as a path or
    as file:///path, or s3://bucket/prefix, with options such as ?regionendpoint=…&region=….
    Every option can be given as BLOBFS_<COMMAND>_<OPTION>.
    """


@main.command()
@click.argument("storage")
@click.argument("mountpoint", type=_PATH)
@click.option("--create", is_flag=True, help="Begin a registry in a directory that is none.")
@click.option("--foreground", is_flag=True, help="Do not leave the terminal; log to stderr.")
@click.option("--read-only", is_flag=True, help="Refuse every change (EROFS).")
@click.option("--allow-other", is_flag=True, help="Let other users look.")
@click.option("--uid", type=click.IntRange(min=0), default=os.getuid, help="Owner of all files.")
@click.option("--gid", type=click.IntRange(min=0), default=os.getgid, help="Group of all files.")
@click.option("--umask", type=_Octal(), default="000", show_default=True, help="Modes to deny.")
@click.option(
    "--entry-timeout",
    type=_SECONDS,
    default=3600.0,
    show_default=True,
    help="Seconds the kernel keeps a name that has a digest in it.",
)
@click.option(
    "--attr-timeout",
    type=_SECONDS,
    default=86400.0,
    show_default=True,
    help="Seconds the kernel keeps the attributes of such a name.",
)
@click.option(
    "--tag-timeout",
    type=_SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds the kernel keeps tags, directories and listings.",
)
@click.option(
    "--negative-timeout",
    type=_SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds the kernel keeps that a name is not there.",
)
@click.option("--allow-delete", is_flag=True, help="Let rm remove layers and manifests.")
@click.option(
    "--receipt-ttl",
    type=_SECONDS,
    default=3600.0,
    show_default=True,
    help="Seconds that a committed upload stays in _uploads.",
)
@click.option(
    "--upload-deadline",
    type=click.FloatRange(min=0.1, max=10**6),
    default=300.0,
    show_default=True,
    help="Seconds that the commit in a close may take; it goes on after them.",
)
@click.option("--expose-blobs", is_flag=True, help="Show /_blobs, without access checks.")
@click.option(
    "--verify",
    type=click.Choice([mode.value for mode in Verify]),
    show_default="first for S3, else none",
    help="Hash blobs that are read from end to end: never, until found good, or each time.",
)
@click.option(
    "--read-memory",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="MiB that reading ahead may hold (S3).",
)
@click.option(
    "--read-part",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="MiB that one request reads at most (S3).",
)
@click.option(
    "--read-streams",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Requests that read ahead side by side (S3).",
)
@click.option("--cache-dir", type=_DIRECTORY, help="Where to keep blobs that were read (S3).")
@click.option(
    "--cache-size",
    type=_Size(),
    default="10G",
    show_default=True,
    help="What they may take; the last used stay.",
)
@click.option(
    "--cache-min-free",
    type=_Size(),
    default="1G",
    show_default=True,
    help="What they leave free on the disk.",
)
@click.option(
    "--readahead-kb",
    type=click.IntRange(min=0),
    default=4096,
    show_default=True,
    help="How far the kernel reads ahead (needs root); 0 leaves it as it is.",
)
@click.option(
    "--max-background",
    type=click.IntRange(1, 65535),
    default=64,
    show_default=True,
    help="Requests that the kernel keeps under way ahead of need.",
)
@click.option("--log-file", type=_FILE, help="Where to log; else the system's log.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--pid-file", type=_FILE, help="Where to write the daemon's pid.")
def mount(storage: str, mountpoint: Path, **options: Any) -> None:  # noqa: ANN401  (click's)
    """Show the registry in STORAGE at the empty directory MOUNTPOINT.

    Returns once the mount answers. To end it: blobfs umount MOUNTPOINT.
    """
    root = local_root(storage)
    if root is not None:
        preflight.check_storage(root, create=options["create"])
    place = preflight.check_mountpoint(mountpoint, root)
    _check_cache(options["cache_dir"], storage, place)
    options["verify"] = options["verify"] or ("first" if is_s3(storage) else "none")
    settings = Settings(storage if root is None else str(root), place, **options)
    logs.configure(settings.logging, to_stderr=settings.foreground)
    if settings.foreground:
        _serve(settings, lambda: None)
    else:
        daemon.daemonize(lambda ready: _serve(settings, ready))
        click.echo(f"{settings.source} is mounted at {mountpoint}")


@main.command()
@click.argument("mountpoint", type=_PATH)
def umount(mountpoint: Path) -> None:
    """Take the mount at MOUNTPOINT away, alive or dead, and wait for its daemon's end."""
    unmount(mountpoint)


@main.command("ls")
@click.argument("storage")
@click.argument("repository", type=_Parsed("repository", RepositoryName), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one array.")
def list_(storage: str, repository: RepositoryName | None, *, as_json: bool) -> None:
    """List the repositories in STORAGE, or the tags of REPOSITORY."""
    with _opened(storage) as registry:
        if repository is None:
            report = reports.repositories(registry, _progress)
        else:
            report = reports.tags(registry, repository)
    click.echo(report.as_json() if as_json else report.as_table())


@main.command()
@click.argument("storage")
@click.argument("reference", type=_Parsed("repository@digest|repository:tag", Reference.parse))
def cat(storage: str, reference: Reference) -> None:
    """Print a blob or manifest, verified, from STORAGE.

    REFERENCE is REPOSITORY@DIGEST for a blob or manifest, REPOSITORY:TAG for a manifest.
    """
    with _opened(storage) as registry:
        for chunk in reports.content(registry, reference):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@main.command()
@click.argument("storage")
@click.option("--abort", is_flag=True, help="Remove those that are listed, for good.")
@click.option(
    "--older-than",
    type=_Duration(),
    help="List those that began so long ago, such as 12h.  [default: 7d with --abort]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one array.")
def uploads(storage: str, *, abort: bool, older_than: float | None, as_json: bool) -> None:
    """List the uploads in STORAGE that have not ended, and what is left of lost ones.

    An object store keeps, and bills, parts of uploads that nobody sees any more; those are listed
    without a repository.
    """
    if older_than is None:
        older_than = 7 * 86400.0 if abort else 0.0
    with _opened(storage) as registry:
        repositories = _progress(registry.enumerate(), "Reading")
        found = [
            *(u for name in repositories for u in of_repository(registry.repository(name))),
            *lost(registry),
        ]
        listed = [u for u in found if time.time() - (u.began or 0.0) >= older_than]
        if abort:
            for upload in _progress(listed, "Removing"):
                upload.remove()
    report = reports.uploads(listed)
    click.echo(report.as_json() if as_json else report.as_table())


def _opened(storage: str) -> Registry:
    root = local_root(storage)
    if root is not None:
        preflight.check_storage(root, create=False)
    registry = open_registry(storage)
    if is_s3(storage):
        preflight.check_registry(registry, storage, create=False)
    return registry


def _check_cache(directory: Path | None, storage: str, mountpoint: Path) -> None:
    if directory is None:
        return
    if not is_s3(storage):
        raise MountRefused(f"--cache-dir is for s3 only, and {storage} is no s3://bucket/prefix")
    if directory.is_relative_to(mountpoint):
        raise MountRefused(f"--cache-dir {directory} is in the mount; give another directory")


def _serve(settings: Settings, ready: Callable[[], None]) -> None:
    def announce() -> None:
        if settings.pid_file is not None:
            try:
                settings.pid_file.write_text(f"{os.getpid()}\n")
            except OSError as exc:
                raise MountRefused(f"{settings.pid_file}: {exc.strerror}") from None
        ready()

    options = MountOptions(
        source=settings.source,
        presentation=Presentation(
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
        readahead_kb=settings.readahead_kb,
        max_background=settings.max_background,
        config=settings.public(),
    )
    try:
        with open_registry(settings.storage, settings.remote) as registry:
            if is_s3(settings.storage):
                preflight.check_registry(registry, settings.storage, create=settings.create)
            serve(registry, settings.mountpoint, options, announce)
    finally:
        if settings.pid_file is not None:
            settings.pid_file.unlink(missing_ok=True)


def _progress(items: Iterable[T], label: str) -> Iterator[T]:
    """The same items, with a bar on stderr if a person is watching."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(list(items), label=label, file=sys.stderr) as bar:
        yield from bar
