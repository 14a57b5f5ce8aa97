"""The progress of a copy: a bar on a terminal, lines elsewhere, or events in JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import click

from blobfs.cli.opening import ByteBar
from blobfs.cli.output import echo
from blobfs.cli.reports import Report, Row, human_size
from blobfs.concurrency import CallLock
from blobfs.transfer.mirroring import Surplus
from blobfs.transfer.route import Fault
from blobfs.transfer.target_tasks import Done, How

_INTERVAL_S: Final = 10.0
"""Time between two lines of progress that are not for a terminal."""

_KINDS: Final = ("blob", "manifest", "tag")


class CopyProgress:
    """Counts the items of a copy, and shows them. Thread-safe: ``_lines_lock`` guards the line.

    Items are noted by the thread of the copy only.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts: Counter[tuple[str, How]] = Counter()
        self._sent: Counter[str] = Counter()
        self._bar = ByteBar("Copying")
        self._lines_lock = CallLock()
        self._began = self._plan_began = self._shown_at = time.monotonic()
        self._bytes = self._total = 0
        self._current = ""
        self._paused_at = self._began - _INTERVAL_S

    @contextmanager
    def showing(self, total: int) -> Iterator[None]:
        """Show the progress of a plan with *total* bytes; items of an earlier plan come again."""
        for kind in _KINDS:
            self._counts[kind, How.THERE] -= self._done(kind)
        with self._lines_lock:
            self._bytes, self._total, self._plan_began = 0, total, time.monotonic()
        with self._bar.showing(0 if self._as_json else total):
            yield

    def again(self, blobs: int, size: int) -> None:
        """Do not count blobs, and bytes, that come again."""
        self._counts["blob", How.THERE] -= blobs
        self.add_bytes(-size)

    def add_bytes(self, count: int) -> None:
        """Count bytes that came into the target, or were there."""
        self._bar.add(count)
        with self._lines_lock:
            self._bytes += count
            self._show_line()

    def item(self, kind: str, repository: str, name: str, result: Done | Fault) -> None:
        """Count an item, and print its event."""
        if isinstance(result, Done):
            self._counts[kind, result.how] += 1
            if result.how is How.SENT:
                self._sent[kind] += result.size
        self._bar.note = self._current = f"{repository}:{name}" if kind == "tag" else repository
        if self._as_json:
            self._print_event(kind, repository, name, result)

    def pause(self, reason: str) -> None:
        """Print why an attempt is made again, but not each time."""
        now = time.monotonic()
        with self._lines_lock:
            if now < self._paused_at + _INTERVAL_S:
                return
            self._paused_at = now
        if sys.stderr.isatty():
            click.echo("\r\033[K", nl=False, err=True)
        echo(f"{reason}; trying again")

    def deletion(self, verb: str, found: Surplus) -> None:
        """Print a tag or repository that was ``removed``, or that a run ``would remove``."""
        if self._as_json:
            event = {"event": verb, "repository": found.repository, "tag": found.tag}
            click.echo(json.dumps(event))
        else:
            echo(f"{verb} {found}")

    def report(self) -> Report:
        """Return the table of what was copied in which way."""
        rows: list[Row] = [
            (kind, *(max(0, self._counts[kind, way]) for way in How), self._sent[kind])
            for kind in _KINDS
        ]
        return Report(("kind", *(way.value for way in How), "bytes"), rows)

    def summary(self) -> dict[str, object]:
        """Return the table as an event."""
        report = self.report()
        found: dict[str, object] = {
            f"{kind}s": dict(zip(report.columns[1:], counts, strict=True))
            for kind, *counts in report.rows
        }
        return {"event": "summary", **found, "seconds": round(self.seconds, 3)}

    @property
    def seconds(self) -> float:
        """The time since the beginning."""
        return time.monotonic() - self._began

    def _done(self, kind: str) -> int:
        return sum(self._counts[kind, way] for way in How)

    def _print_event(self, kind: str, repository: str, name: str, result: Done | Fault) -> None:
        event: dict[str, object] = {"event": kind, "repository": repository, "name": name}
        if isinstance(result, Done):
            event |= {"result": result.how.value, "bytes": result.size}
        elif not result.is_looked_at_again:
            event |= {"result": "failed", "reason": result.text}
        else:
            return  # it is looked at again
        click.echo(json.dumps(event))

    def _show_line(self) -> None:
        now = time.monotonic()
        if self._as_json or sys.stderr.isatty() or now < self._shown_at + _INTERVAL_S:
            return
        self._shown_at = now
        rate = self._bytes / max(1e-3, now - self._plan_began)
        items = ", ".join(f"{self._done(kind):,} {kind}s" for kind in _KINDS)
        text = (
            f"{human_size(self._bytes)} of {human_size(self._total)}, {human_size(int(rate))}/s,"
            f" {items}"
        )
        if self._bytes * 100 > self._total:
            left_s = max(0, round((self._total - self._bytes) / rate))
            text += f", {timedelta(seconds=left_s)} left"
        echo(f"{text}, last {self._current}" if self._current else text)
