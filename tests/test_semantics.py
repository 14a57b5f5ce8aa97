"""SEMANTICS.md promises nothing that no test quotes."""

import re
from pathlib import Path

import pytest

import blobfs

PROMISE = re.compile(r"\[S\d+\.\d+\]")

TESTS = Path(__file__).parent
SEMANTICS = Path(blobfs.__file__).parent / "docs" / "SEMANTICS.md"


def _promises(text: str) -> set[str]:
    return set(PROMISE.findall(text))


@pytest.mark.parametrize("promise", sorted(_promises(SEMANTICS.read_text())))
def test_promise_is_quoted_by_a_test(promise: str) -> None:
    others = (file for file in TESTS.rglob("*.py") if file != Path(__file__))
    assert any(promise in file.read_text() for file in others)


def test_tests_quote_only_promises_that_are_made() -> None:
    quoted = {p for file in TESTS.rglob("*.py") for p in _promises(file.read_text())}
    assert quoted <= _promises(SEMANTICS.read_text())
