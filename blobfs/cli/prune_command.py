"""The commands ``blobfs prune``, ``trash`` and ``undelete``."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from blobfs.cli.opening import each_readable, open_existing
from blobfs.cli.output import print_report
from blobfs.cli.reports import BROKEN, Report, Row
from blobfs.cli.types import FILE, JSON, REPOSITORY, STORAGE, TAGGED, Duration, Option
from blobfs.config import retention_rules
from blobfs.errors import Exists, ManifestUnknown, TagUnknown, TooLarge
from blobfs.maintenance.retention import Rule, TagAge, expired
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.tagtrash import TrashedTag
from blobfs.timestamps import format_seconds


class _Pattern(click.ParamType[re.Pattern[str]]):
    """A regular expression, for a whole name."""

    name = "regex"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[str]:
        try:
            return re.compile(str(value))
        except re.error as exc:
            self.fail(f"{value!r} is not a regular expression: {exc}", param, ctx)


_PATTERN: Final = _Pattern()

_KEPT: Final = "kept"
"""The state of a tag that could not be removed."""

_NOTHING_REMOVED: Final = "nothing was changed; --delete removes these tags"
_NONE_IS_OLD: Final = "the rules keep all tags"


@click.command()
@STORAGE
@click.option("--repositories", type=_PATTERN, default=".*", help="Only repositories like this.")
@click.option("--remove", type=_PATTERN, multiple=True, help="Remove tags like this only.")
@click.option("--keep", type=_PATTERN, multiple=True, help="Keep tags like this always.")
@click.option(
    "--keep-last", cls=Option, type=click.IntRange(0), default=0, metavar="N",
    help="Keep the newest N.",
)  # fmt: skip
@click.option(
    "--keep-within",
    type=Duration(),
    default="0s",
    help="Keep those tagged in this time, such as 90d.",
)
@click.option("--rules", type=FILE, help="Read rules from this YAML file.")
@click.option("--delete", is_flag=True, help="Remove the tags; without it they are shown.")
@JSON
def prune(
    storage: str,
    *,
    repositories: re.Pattern[str],
    remove: tuple[re.Pattern[str], ...],
    keep: tuple[re.Pattern[str], ...],
    keep_last: int,
    keep_within: float,
    rules: Path | None,
    delete: bool,
    as_json: bool,
) -> None:
    """Remove old tags in STORAGE by rules; without --delete they are only shown.

    All regular expressions are for whole names. Tags like --remove, or all tags if it is not
    given, are removed, but for the newest of --keep-last, those of --keep-within, and those like
    --keep. What one rule keeps no other removes. A tag is as old as its last change.

    Removed tags are in the trash: blobfs undelete brings them back, until blobfs gc --untagged has
    removed their manifests. gc frees the space. Exits with 1 if a tag could not be removed.
    """
    rule = Rule(repositories, remove, keep, keep_last, keep_within)
    applied = [rule, *([] if rules is None else retention_rules.read(rules))]
    if not any(each.removes for each in applied):
        raise click.UsageError("give --remove, --keep-last, --keep-within or --rules")
    rows: list[Row] = []
    notes: list[str] = []
    with open_existing(storage) as registry:
        for repository, tag in _expired(registry, applied, notes):
            digest, state = _removed(repository, tag, delete=delete)
            rows.append((repository.name, tag.name, _date(tag.tagged_ns), digest, state))
    kept = sum(str(state).startswith(_KEPT) for *_, state in rows)
    report = Report(
        ("repository", "tag", "tagged", "digest", "state"), rows, damaged=kept + len(notes)
    )
    if not (as_json or (delete and rows)):
        notes.append(_NOTHING_REMOVED if rows else _NONE_IS_OLD)
    print_report(report, as_json=as_json, notes=notes)


def _expired(
    registry: Registry, rules: Sequence[Rule], left_out: list[str]
) -> Iterator[tuple[Repository, TagAge]]:
    now_ns = time.time_ns()
    for repository, tags in each_readable(registry, _ages, left_out):
        for tag in sorted(expired(rules, repository.name, tags, now_ns)):
            yield repository, tag


def _ages(repository: Repository) -> list[TagAge]:
    return [TagAge(tag, repository.tags.mtime_ns(tag)) for tag in repository.tags.enumerate()]


def _removed(repository: Repository, aged: TagAge, *, delete: bool) -> tuple[str | None, str]:
    """Remove a tag if *delete*; returns its digest, and what became of it."""
    tag = Tag(aged.name)
    try:
        digest = repository.tags.get(tag)
        if not delete:
            return str(digest), "to be removed"
        repository.trash.put(tag, digest)
    except (*BROKEN, Exists, TooLarge) as exc:
        return None, f"{_KEPT}: {exc}"
    return str(digest), "removed"


def _date(ns: int) -> str | None:
    return format_seconds(ns / 1e9) if ns else None


@click.command()
@STORAGE
@click.argument("repository", type=REPOSITORY, required=False)
@click.option("--empty", is_flag=True, help="Remove what is listed for good.")
@JSON
def trash(storage: str, repository: RepositoryName | None, *, empty: bool, as_json: bool) -> None:
    """List the removed tags in STORAGE that blobfs prune has put into the trash.

    The state is gone if a collection has removed the manifest: such a tag cannot be brought back.
    """
    rows: list[Row] = []
    notes: list[str] = []
    with open_existing(storage) as registry:
        if repository is not None:
            found = registry.existing(repository)
            each: Iterable[tuple[Repository, list[TrashedTag]]] = [(found, _trashed(found))]
        else:
            each = each_readable(registry, _trashed, notes)
        for found, all_trashed in each:
            for trashed in all_trashed:
                state = "kept" if found.trash.can_restore(trashed) else "gone"
                removed = _date(trashed.removed_ns)
                if empty:
                    found.trash.discard(trashed)
                    state = "emptied"
                rows.append((found.name, trashed.tag, removed, str(trashed.digest), state))
    columns = ("repository", "tag", "removed", "digest", "state")
    print_report(Report(columns, rows, damaged=len(notes)), as_json=as_json, notes=notes)


def _trashed(repository: Repository) -> list[TrashedTag]:
    return list(repository.trash.enumerate())


@click.command()
@STORAGE
@click.argument("reference", type=TAGGED)
@click.option("--replace", is_flag=True, help="Replace a tag that exists.")
def undelete(storage: str, reference: Reference, *, replace: bool) -> None:
    """Bring back the tag REPOSITORY:TAG in STORAGE from the trash, with its history."""
    if not isinstance(reference.target, Tag):
        raise click.UsageError("give REPOSITORY:TAG; a digest has no trash")
    with open_existing(storage) as registry:
        found = registry.existing(reference.repository).trash
        try:
            trashed = found.restore(reference.target, replace=replace)
        except TagUnknown as exc:
            raise click.ClickException(f"{exc}; blobfs trash STORAGE lists those removed") from None
        except ManifestUnknown as exc:
            raise click.ClickException(
                f"{exc}; it was removed after its tag: push the image again"
            ) from None
    click.echo(f"{reference} is {trashed.digest} again")
