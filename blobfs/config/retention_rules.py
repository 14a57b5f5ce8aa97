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
from pathlib import Path
from typing import Final

from blobfs.config import yaml_file
from blobfs.config.yaml_file import Section
from blobfs.maintenance.retention import Rule

_KEYS: Final = ("repositories", "remove", "keep", "keep-last", "keep-within")
_DURATION: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def read(path: Path) -> list[Rule]:
    """Read the rules in the file at *path*; raises MountRefused."""
    root = yaml_file.read(path)
    _refuse_unknown(root, ("rules",))
    rules = [_rule(section) for section in root.sections("rules")]
    if not any(rule.removes for rule in rules):
        raise root.refusal("rules", "say what to keep only: add remove, keep-last or keep-within")
    return rules


def _rule(section: Section) -> Rule:
    _refuse_unknown(section, _KEYS)
    return Rule(
        _pattern(section, "repositories", section.text("repositories") or ".*"),
        tuple(_pattern(section, "remove", text) for text in section.texts("remove")),
        tuple(_pattern(section, "keep", text) for text in section.texts("keep")),
        section.number("keep-last"),
        _seconds(section),
    )


def _refuse_unknown(section: Section, known: tuple[str, ...]) -> None:
    """Raise MountRefused for a misspelt key: tags would go that it should have kept."""
    for key in section.names():
        if key not in known:
            raise section.refusal(key, f"is not known; a rule has {', '.join(known)}")


def _pattern(section: Section, key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise section.refusal(key, f"is not a regular expression: {exc}") from None


def _seconds(section: Section) -> float:
    text = section.text("keep-within")
    if not text:
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise section.refusal("keep-within", "must be a duration such as 12h, 90d or 8w")
    return float(found[1]) * _UNITS_S[found[2]]
