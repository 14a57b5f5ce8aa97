"""Retention: rules that say which tags of a repository stay, and which go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TagAge(NamedTuple):
    """A tag and the time of its last change, in ns since the epoch; 0 if that is unknown."""

    name: str
    tagged_ns: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, for the repositories whose whole name matches *repositories*.

    The rule concerns the tags whose whole name matches one of *remove*, or all tags if there is
    none, and not one of *keep*. Of these it keeps the *keep_last* newest and those that were tagged
    within *keep_within_s*, and removes the rest.
    """

    repositories: re.Pattern[str]
    remove: tuple[re.Pattern[str], ...] = ()
    keep: tuple[re.Pattern[str], ...] = ()
    keep_last: int = 0
    keep_within_s: float = 0.0

    @property
    def removes(self) -> bool:
        """True if the rule says what to remove, and does not only keep tags."""
        return bool(self.remove or self.keep_last or self.keep_within_s)

    def kept(self, tags: Sequence[TagAge], now_ns: int) -> set[str]:
        """The names of the tags that the rule keeps."""
        kept = {tag.name for tag in tags if _matches(self.keep, tag.name)}
        newest = sorted(self._concerned(tags), key=_newest_first)
        since_ns = now_ns - self.keep_within_s * 1e9
        kept.update(tag.name for tag in newest[: self.keep_last])
        if self.keep_within_s:
            kept.update(tag.name for tag in newest if tag.tagged_ns >= since_ns)
        kept.update(tag.name for tag in newest if not tag.tagged_ns)  # its age is unknown
        return kept

    def removed(self, tags: Sequence[TagAge]) -> set[str]:
        """The names of the tags that the rule removes unless it, or another one, keeps them."""
        return {tag.name for tag in self._concerned(tags)} if self.removes else set()

    def _concerned(self, tags: Iterable[TagAge]) -> list[TagAge]:
        return [
            tag
            for tag in tags
            if (not self.remove or _matches(self.remove, tag.name))
            and not _matches(self.keep, tag.name)
        ]


def expired(
    rules: Iterable[Rule], repository: str, tags: Sequence[TagAge], now_ns: int
) -> list[TagAge]:
    """Return the tags of *repository* that go: some rule removes them, and none keeps them."""
    concerning = [rule for rule in rules if rule.repositories.fullmatch(repository)]
    removed = set().union(*(rule.removed(tags) for rule in concerning))
    kept = set().union(*(rule.kept(tags, now_ns) for rule in concerning))
    return [tag for tag in tags if tag.name in removed - kept]


def _matches(patterns: Iterable[re.Pattern[str]], text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in patterns)


def _newest_first(tag: TagAge) -> tuple[int, str]:
    return -tag.tagged_ns, tag.name
