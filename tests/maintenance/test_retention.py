"""Retention rules against a plain description of them."""

import re
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from blobfs.maintenance.retention import Rule, TagAge, expired

NOW = 10**9
SECOND = 10**9
NAMES = ["latest", "v1", "v2", "ci-1", "ci-2", "ci-3", "x"]
PATTERNS = ["latest", "v.*", "ci-.*", ".*", "ci", "[0-9]"]

patterns = st.lists(st.sampled_from(PATTERNS).map(re.compile), max_size=2).map(tuple)
rules = st.builds(
    Rule,
    st.sampled_from(["team/.*", ".*", "other"]).map(re.compile),
    patterns,
    patterns,
    st.integers(0, 3),
    st.sampled_from([0.0, 2.0, 10.0]),
)
tags = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 20)).map(
    lambda ages: [TagAge(name, NOW * SECOND - age * SECOND) for name, age in ages.items()]
)


def stays(rule: Rule, tag: TagAge, tags: Sequence[TagAge]) -> bool:
    """Say in other words that *rule* keeps *tag*."""
    if any(pattern.fullmatch(tag.name) for pattern in rule.keep):
        return True
    others = [t for t in tags if not any(p.fullmatch(t.name) for p in rule.keep)]
    if rule.remove:
        others = [t for t in others if any(p.fullmatch(t.name) for p in rule.remove)]
    if tag not in others:
        return False
    newer = [t for t in others if (-t.tagged_ns, t.name) < (-tag.tagged_ns, tag.name)]
    age_s = NOW - tag.tagged_ns / SECOND
    return len(newer) < rule.keep_last or bool(rule.keep_within_s and age_s <= rule.keep_within_s)


def goes(rule: Rule, tag: TagAge) -> bool:
    """Say in other words that *rule* removes *tag* if nothing keeps it."""
    if not (rule.remove or rule.keep_last or rule.keep_within_s):
        return False
    return not rule.remove or any(pattern.fullmatch(tag.name) for pattern in rule.remove)


@given(st.lists(rules, max_size=3), tags)
@example([Rule(re.compile("team/app"), keep=(re.compile("v1"),), keep_last=1)], [])
def test_tag_goes_if_a_rule_removes_it_and_no_rule_keeps_it(
    rules: list[Rule], tags: list[TagAge]
) -> None:
    """[S19.43] What one rule keeps no other rule removes."""
    concerning = [rule for rule in rules if rule.repositories.fullmatch("team/app")]
    wanted = [
        tag
        for tag in tags
        if any(goes(rule, tag) for rule in concerning)
        and not any(stays(rule, tag, tags) for rule in concerning)
    ]
    assert expired(rules, "team/app", tags, NOW * SECOND) == wanted


@given(st.lists(rules, max_size=3), tags)
def test_nothing_that_keep_matches_is_ever_removed(rules: list[Rule], tags: list[TagAge]) -> None:
    gone = {tag.name for tag in expired(rules, "team/app", tags, NOW * SECOND)}
    for rule in rules:
        if rule.repositories.fullmatch("team/app"):
            assert not any(p.fullmatch(name) for p in rule.keep for name in gone)


@given(st.integers(1, 5), tags)
def test_the_newest_tags_stay(count: int, tags: list[TagAge]) -> None:
    gone = expired([Rule(re.compile(".*"), keep_last=count)], "team/app", tags, NOW * SECOND)
    left = [tag for tag in tags if tag not in gone]
    assert len(left) == min(count, len(tags))
    assert not gone or min(t.tagged_ns for t in left) >= max(t.tagged_ns for t in gone)


def test_tag_of_unknown_age_stays() -> None:
    rule = Rule(re.compile(".*"), keep_within_s=1.0)
    assert expired([rule], "team/app", [TagAge("v1", 0)], NOW * SECOND) == []


def test_rule_that_only_keeps_removes_nothing() -> None:
    rule = Rule(re.compile(".*"), keep=(re.compile("v1"),))
    assert expired([rule], "team/app", [TagAge("v2", 1)], NOW * SECOND) == []
