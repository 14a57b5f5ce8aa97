"""The commands of ``blobfs uploads``."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import click

from blobfs.cli import reports
from blobfs.cli.opening import each_readable, open_existing, progress
from blobfs.cli.output import print_report
from blobfs.cli.storage import Storage
from blobfs.cli.types import JSON, REPOSITORY, STORAGE, Duration, Parsed
from blobfs.digest import Digest
from blobfs.errors import Exists, NotPermitted, UploadUnknown
from blobfs.logs import printable
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.inventory import UnfinishedUpload, lost, of_repository
from blobfs.timestamps import format_time

_AGE: Final = "7d, or the age of uploadpurging in the registry's file"
_NONE_IS_OLD: Final = "nothing was removed, as no upload is that old; --older-than gives an age"


class _Uploads(click.Group):
    """Command group whose default command is ``list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        word = args[0] if args else "--help"
        is_typo = get_close_matches(word, self.commands) and not Path(word).exists()
        if word not in {*self.commands, *ctx.help_option_names} and not is_typo:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Uploads)
def uploads() -> None:
    """List and end unfinished uploads; blobfs uploads STORAGE lists them.

    UPLOAD is the id or the name of an upload in REPOSITORY.
    """


@uploads.command("list", short_help="List unfinished uploads, and remains of lost ones.")
@STORAGE
@click.option("--abort", is_flag=True, help="Remove the listed uploads, as purge does.")
@click.option(
    "--older-than",
    type=Duration(),
    envvar=["BLOBFS_UPLOADS_LIST_OLDER_THAN", "BLOBFS_UPLOADS_OLDER_THAN"],
    help=f"List only uploads older than this, such as 12h.  [default with --abort: {_AGE}]",
)
@JSON
def list_(storage: str, *, abort: bool, older_than: float | None, as_json: bool) -> None:
    """List the unfinished uploads in STORAGE, and the remains of lost ones.

    An object store keeps, and bills, the parts of lost uploads; a crash may leave temporary files
    in a directory. Both are listed without a repository.
    """
    _list(storage, older_than, abort=abort, as_json=as_json)


@uploads.command(short_help="Remove old uploads, and remains of lost ones.")
@STORAGE
@click.option("--older-than", type=Duration(), help=f"Remove only older ones.  [default: {_AGE}]")
@JSON
def purge(storage: str, *, older_than: float | None, as_json: bool) -> None:
    """Remove the old uploads in STORAGE, and the remains of lost ones. They are printed."""
    _list(storage, older_than, abort=True, as_json=as_json)


def _list(storage: str, older_than: float | None, *, abort: bool, as_json: bool) -> None:
    given = Storage.of_argument(storage)
    if older_than is None:
        older_than = given.purge_age_s if abort else 0.0
    left_out: list[str] = []
    with given.open() as registry:
        listed = [u for u in _unfinished(registry, left_out) if u.age(time.time()) >= older_than]
        if abort:
            for upload in progress(listed, "Removing"):
                upload.remove()
    report = replace(reports.uploads(listed), damaged=len(left_out))
    removed = f"{len(listed)} removed" if listed else _NONE_IS_OLD
    notes = [*left_out, removed] if abort and not as_json else left_out
    print_report(report, as_json=as_json, notes=notes)


def _unfinished(registry: Registry, left_out: list[str]) -> list[UnfinishedUpload]:
    each = each_readable(registry, lambda repository: list(of_repository(repository)), left_out)
    return [*(upload for _, found in each for upload in found), *lost(registry)]


_REPOSITORY: Final = click.argument("name", metavar="REPOSITORY", type=REPOSITORY)


@uploads.command(short_help="Show an upload, and why its commit failed.")
@STORAGE
@_REPOSITORY
@click.argument("upload")
@JSON
def show(storage: str, name: RepositoryName, upload: str, *, as_json: bool) -> None:
    """Show an upload: its size, when it began, what was declared, why its commit failed."""
    with open_existing(storage) as registry:
        repository = registry.existing(name)
        upload_id = _id(repository, upload)
        store = repository.store_of(upload_id)
        record = store.record(upload_id)
        fields = {
            "repository": name,
            "id": upload_id,
            "name": record.name or None,
            "bytes": store.stat(upload_id).size,
            "began": format_time(store.started_at(upload_id)),
            "declared digest": str(record.digest) if record.digest else None,
            "declared bytes": record.size,
            "reason": record.reason or None,
        }
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    for label, value in fields.items():
        if value is not None:
            click.echo(f"{label:<16} {printable(str(value))}")


@uploads.command(short_help="Verify an upload, and make it a blob.")
@STORAGE
@_REPOSITORY
@click.argument("upload")
@click.option("--digest", type=Parsed("digest", Digest.parse), help="The digest that it must have.")
def commit(storage: str, name: RepositoryName, upload: str, *, digest: Digest | None) -> None:
    """Verify the bytes of an upload, and make them a blob of REPOSITORY.

    The digest must be given, or have been declared, as else an incomplete upload would do.
    """
    with open_existing(storage) as registry:
        repository = registry.existing(name)
        upload_id = _id(repository, upload)
        store = repository.store_of(upload_id)
        wanted = digest or store.record(upload_id).digest
        if wanted is None:
            raise NotPermitted(f"no digest was declared for {upload}; give --digest")
        with store.resume(upload_id) as writer:
            descriptor = writer.commit(wanted)
    click.echo(f"{name}@{descriptor.digest} has {descriptor.size} bytes")


@uploads.command()
@STORAGE
@_REPOSITORY
@click.argument("upload")
def cancel(storage: str, name: RepositoryName, upload: str) -> None:
    """Remove an upload with its bytes."""
    with open_existing(storage) as registry:
        repository = registry.existing(name)
        upload_id = _id(repository, upload)
        repository.store_of(upload_id).discard(upload_id)
    click.echo(f"{upload} of {name} is removed")


def _id(repository: Repository, upload: str) -> str:
    """Return the id of the upload with this id or name; raises UploadUnknown, Exists."""
    found = {each.id for each in of_repository(repository) if upload in {each.id, each.name}}
    if upload in found:
        return upload
    if not found:
        raise UploadUnknown(upload)
    if len(found) > 1:
        raise Exists(f"{len(found)} uploads are called {upload}; give one of {', '.join(found)}")
    return found.pop()
