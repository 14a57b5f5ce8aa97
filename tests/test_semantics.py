"""[S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they do. Each
promise of SEMANTICS.md is shown by a test, which quotes it. A docstring has `` words.``: the number
of the promise, and a sentence that is part of its text, but for Markdown and the case of letters.
What follows is the test's own.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

import blobfs

TESTS = Path(__file__).parent
SEMANTICS = Path(blobfs.__file__).parent / "docs" / "SEMANTICS.md"

PROMISE = re.compile(r"^\* \*\*\[(S\d+\.\d+)\]\*\* (.*?)(?=\n\* |\n\n)", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r'\[(S\d+\.\d+)\]((?:(?!""")[^\[])*?)(?=\.\s|\."""|"""|\[)')


def _plain(text: str) -> str:
    """Return *text* without Markdown, in one line."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return " ".join(re.sub("[`*]", "", text).split())


def _quotes() -> Mapping[str, list[tuple[str, str]]]:
    """Return the place and the words of the quotes of each promise."""
    found = defaultdict(list)
    for file in TESTS.rglob("*.py"):
        if file != Path(__file__):
            for number, words in QUOTE.findall(file.read_text()):
                found[number].append((str(file.relative_to(TESTS)), _plain(words)))
    return found


PROMISES = {number: _plain(text) for number, text in PROMISE.findall(SEMANTICS.read_text() + "\n")}
QUOTES = _quotes()


@pytest.mark.parametrize("promise", PROMISES)
def test_promise_is_quoted_by_tests_in_its_words(promise: str) -> None:
    text = PROMISES[promise]
    assert promise in QUOTES, f"no test quotes [{promise}]"
    for place, words in QUOTES[promise]:
        quotes = len(words.split()) > 1 and words.lower() in text.lower()
        assert quotes, f"{place} quotes [{promise}] as\n  {words!r}\nwhich is not in\n  {text!r}"


def test_every_number_is_that_of_a_promise() -> None:
    assert set(re.findall(r"\[(S\d+\.\d+)\]", SEMANTICS.read_text())) == PROMISES.keys()
    assert QUOTES.keys() <= PROMISES.keys()
