"""The file of ``blobfs prune --rules``: retention rules in YAML.

::

    rules:
      - repositories: team/.*    # whole names, as a regular expression; all by default
        remove: ["ci-.*"]
        keep: ["latest", "v[0-9.]+"]
        keep-last: 10
        keep-within: 90d
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blobfs.config import yaml_file
from blobfs.config.schema import Loader, Origins, fields_of, taken
from blobfs.config.yaml_file import Value
from blobfs.maintenance.retention import Rule
from blobfs.timestamps import parse_duration


@dataclass(frozen=True, slots=True)
class RuleSection:
    """A rule."""

    repositories: str = taken(".*", "the repositories")
    remove: tuple[str, ...] = taken((), "the tags to remove")
    keep: tuple[str, ...] = taken((), "the tags to keep")
    keep_last: int = taken(0, "the newest tags to keep")
    keep_within: str = taken("", "the age of tags to keep")


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The file."""

    rules: tuple[RuleSection, ...] = ()


def read(path: Path) -> list[Rule]:
    """Read the rules in the file at *path*; raises MountRefused."""
    root = yaml_file.read(path, unique=True)  # a lost `keep` would remove tags
    loader = Loader(str(path))
    file = loader.load(RulesFile, root)
    _refuse_unknown(root, loader.origins)
    rules = [_rule(rule, f"rules[{i}]", loader.origins) for i, rule in enumerate(file.rules)]
    if not any(rule.removes for rule in rules):
        raise loader.origins.refusal(
            "rules", "say what to keep only: add remove, keep-last or keep-within"
        )
    return rules


def _refuse_unknown(root: Value, origins: Origins) -> None:
    """Raise MountRefused for a misspelt key: tags would go that it should have kept."""
    for origin, name, key, known in _keys(root):
        if key not in known:
            origins[name] = origin
            raise origins.refusal(name, f"is not known; a rule has {', '.join(known)}")


def _keys(root: Value) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield the origin, full name and name of each key, and the names that are known there."""
    for key, value in (root.mapping or {}).items():
        yield value.origin, key, key, ["rules"]
        for i, rule in enumerate(value.items or ()):
            known = [field.name for field in fields_of(RuleSection)]
            for name, below in (rule.mapping or {}).items():
                yield below.origin, f"rules[{i}].{name}", name, known


def _rule(rule: RuleSection, name: str, origins: Origins) -> Rule:
    def patterns(key: str, texts: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
        try:
            return tuple(re.compile(text) for text in texts)
        except re.error as exc:
            raise origins.refusal(f"{name}.{key}", f"is not a regular expression: {exc}") from None

    return Rule(
        patterns("repositories", (rule.repositories,))[0],
        patterns("remove", rule.remove),
        patterns("keep", rule.keep),
        rule.keep_last,
        _seconds(rule.keep_within, f"{name}.keep-within", origins),
    )


def _seconds(text: str, name: str, origins: Origins) -> float:
    if not text:
        return 0.0
    seconds = parse_duration(text)
    if seconds is None:
        raise origins.refusal(
            name, "must be a duration such as 12h, 90d or 8w, of 100 years at most"
        )
    return seconds
