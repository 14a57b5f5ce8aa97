"""The commands ``blobfs cp``, ``sync``, ``backup`` and ``restore``."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import click

from blobfs.cli.copy_options import CopyOptions, copying, deleting
from blobfs.cli.copy_progress import CopyProgress
from blobfs.cli.opening import Counts
from blobfs.cli.output import DAMAGED, echo, print_report
from blobfs.cli.reports import Report
from blobfs.cli.types import LONG_HELP
from blobfs.errors import Interrupted, MountRefused, StorageFull, StorageUnavailable
from blobfs.logs import printable
from blobfs.maintenance.gc.mount_points import unmounted_of_fstab
from blobfs.mountinfo import FSTAB
from blobfs.transfer.copying import OpenCopy, workers_for
from blobfs.transfer.mirroring import check_mirror
from blobfs.transfer.outcome import Failure, failures
from blobfs.transfer.places import Place
from blobfs.transfer.streams import spool_directory

_NOTHING: Final = (
    "nothing was selected: SOURCE has no such tags; with --all manifests without a tag are copied"
)

_DRY: Final = "nothing was changed, as --dry-run was given"

_UNKNOWN: Final = ("unknown repository: ", "unknown tag: ")

_GO_ON: Final = "run the same command again to go on"


@click.command(context_settings=LONG_HELP)
@copying
def cp(source: str, target: str, *, options: CopyOptions) -> None:
    """Copy images from SOURCE to TARGET, each blob once, verified.

    A place is a storage, which is a directory, s3://bucket/prefix or a registry's config.yml; an
    OCI image layout, oci:DIR or oci-archive:FILE; a registry over HTTP, docker://HOST; or for one
    blob a file. With - for a FILE the standard input or output is used.

    A part of a place is PLACE!/repository, PLACE!/repository:tag, PLACE!/repository@digest, or
    PLACE!/prefix/ for all repositories below a prefix. For a registry it is
    docker://HOST/repository:tag, and for a layout also oci:DIR:repository:tag.

    Images have the same names in TARGET, unless it names others in the same form. They appear
    there while the copy runs, each complete. What TARGET has is not sent again. If a run is
    stopped, the same command goes on.

    The table at the end counts what TARGET had (there), what was linked to a blob that it had,
    what was copied without being sent, and what was sent; bytes are those that were sent.

    Exits with 1 if something could not be copied, which is listed.

    BLOBFS_SRC_CREDS and BLOBFS_DEST_CREDS can have a login, as USER:PASSWORD.
    """
    _run(source, target, options, replaces=False)


@click.command(context_settings=LONG_HELP)
@copying
@deleting
def sync(source: str, target: str, *, options: CopyOptions) -> None:
    """Copy as blobfs cp does, and with --delete remove from TARGET what SOURCE does not have.

    Tags are removed, and repositories unless patterns are given, after everything was copied.
    Nothing is removed if something could not be copied, if SOURCE has no images, or if more tags
    would go than --max-delete allows. blobfs gc frees the space in a storage.
    """
    _run(source, target, options, replaces=True)


@click.command(context_settings=LONG_HELP)
@copying
@deleting
def backup(source: str, target: str, *, options: CopyOptions) -> None:
    """Copy all of SOURCE to TARGET, such as oci:DIR: blobfs sync with --all.

    oci-archive:- writes an archive to the standard output, for another machine:
    blobfs backup SOURCE oci-archive:- | ssh HOST blobfs restore oci-archive:- TARGET
    """
    _run(source, target, replace(options, everything=True), replaces=True)


@click.command(context_settings=LONG_HELP)
@copying
def restore(source: str, target: str, *, options: CopyOptions) -> None:
    """Copy the backup SOURCE, or a part of it, to TARGET: blobfs cp with --all.

    An archive in the standard input, oci-archive:-, is kept in $TMPDIR or /var/tmp meanwhile.
    """
    _run(source, target, replace(options, everything=True), replaces=False)


def _run(source: str, target: str, options: CopyOptions, *, replaces: bool) -> None:
    """Copy; the copy *replaces* an archive."""
    copy = options.copy(source, target, replaces=replaces)
    if options.delete:
        check_mirror(copy.route, copy.selection)
        _check_mounted(copy.route.source)
    progress = CopyProgress(as_json=options.as_json)
    has_journal = copy.is_repeatable and not options.dry_run
    state = options.states / f"cp-{copy.key}.db" if has_journal else None
    go_on = _GO_ON if copy.is_repeatable else "copy again"
    act = _show if options.dry_run else _transfer
    try:
        with workers_for(copy.route, options.jobs, options.cluster) as crew:
            with Counts() as counts:
                opened = copy.open(
                    state, crew, counts.add, restart=options.restart, on_pause=progress.pause
                )
            with opened:
                if opened.is_empty:
                    echo(_NOTHING)
                act(opened, progress, options)
    except sqlite3.Error as exc:
        place, way = (state.parent, "--state-dir") if state else (spool_directory(), "TMPDIR")
        raise MountRefused(
            f"the journal in {place}: {exc}; free space there, or name another directory by {way};"
            f" {go_on}"
        ) from None
    except KeyboardInterrupt:
        raise click.ClickException(f"stopped; {go_on}") from None
    except (StorageUnavailable, StorageFull, Interrupted) as exc:
        is_of_storage = isinstance(exc, StorageFull) and copy.route.target.location
        full = f"{copy.route.target}: " if is_of_storage else ""
        advice = "" if str(exc).endswith(go_on) else f"; {go_on}"
        raise click.ClickException(printable(f"{full}{exc}{advice}")) from exc


def _check_mounted(source: Place) -> None:
    """Raise MountRefused if a part of the source is not mounted, which seems empty then."""
    missing = unmounted_of_fstab(source.location) if source.location else []
    if missing:
        raise MountRefused(
            f"{missing[0]} of {source} is a mount point of {FSTAB}, and nothing is mounted; mount"
            " it, or omit --delete"
        )


def _transfer(opened: OpenCopy, progress: CopyProgress, options: CopyOptions) -> None:
    """Copy, and print the outcome; exits with 1 after failures."""
    opened.run(progress, fail_fast=options.fail_fast)
    removed = partial(progress.deletion, "removed")
    kept = opened.delete(removed, at_most=options.max_delete) if options.delete else []
    opened.finish()
    failed = list(failures(opened.catalog))
    notes = [*_sentences(failed, opened.copy.route.source), *kept]
    to_stderr = opened.copy.is_to_stdout
    if options.as_json:
        _print_failures(failed)
        click.echo(json.dumps({**progress.summary(), "failures": len(failed), "kept": kept}))
    elif not opened.copy.is_of_a_file:
        print_report(progress.report(), as_json=False, human=options.human,
                     notes=[*notes, f"{progress.seconds:.1f} s"], to_stderr=to_stderr)  # fmt: skip
    else:
        for note in notes:
            echo(note)
        if not (notes or to_stderr):
            click.echo(opened.blob)
    if notes:
        sys.exit(DAMAGED)


def _show(opened: OpenCopy, progress: CopyProgress, options: CopyOptions) -> None:
    """Print what would be copied by repository, what cannot be, and what would be deleted."""
    report = Report(
        ("repository", "tags", "blobs", "bytes"), opened.ask(CopyProgress(as_json=False))
    )
    failed = list(failures(opened.catalog))
    kept: list[str] = []
    if options.delete:
        would_remove = partial(progress.deletion, "would remove")
        kept = opened.delete(would_remove, at_most=options.max_delete, dry_run=True)
    if options.as_json:
        for row in report.rows:
            event = {"event": "plan", **dict(zip(report.columns, row, strict=True))}
            click.echo(json.dumps(event))
        _print_failures(failed)
        for note in kept:
            echo(note)
    else:
        notes = [*_sentences(failed, opened.copy.route.source), *kept, _DRY]
        print_report(report, as_json=False, human=options.human, notes=notes)
    if failed:
        sys.exit(DAMAGED)


def _sentences(failed: Iterable[Failure], source: Place) -> Iterator[str]:
    """Yield the failures, and where the names are listed if the source does not have one."""
    is_unknown = False
    for failure in failed:
        yield str(failure)
        is_unknown |= failure.reason.startswith(_UNKNOWN)
    if is_unknown and source.location is not None:
        place = source.location
        yield f"blobfs ls {place} lists the repositories, blobfs ls {place} REPOSITORY the tags"


def _print_failures(failed: Iterable[Failure]) -> None:
    for failure in failed:
        click.echo(json.dumps({"event": "failure", **failure._asdict()}))
