"""[S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they do. Each
promise of SEMANTICS.md is shown by a test, which quotes it. A docstring has `` words.``: the number
of the promise, and a sentence that is part of its text, but for Markdown and the case of letters.
What follows is the test's own. At least one of these tests is not marked ``long``: CI runs it.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import blobfs

TESTS = Path(__file__).parent
SEMANTICS = Path(blobfs.__file__).parent / "docs" / "SEMANTICS.md"

PROMISE = re.compile(r"^\* \*\*\[(S\d+\.\d+)\]\*\* (.*?)(?=\n\* |\n\n)", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r'\[(S\d+\.\d+)\]((?:(?!""")[^\[])*?)(?=\.\s|\."""|"""|\[)')


def _plain(text: str) -> str:
    """Return *text* without Markdown, in one line."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return " ".join(re.sub("[`*]", "", text).split())


def _marks(node: ast.stmt) -> set[str]:
    """Return the marks that a statement gives to a test, or to all tests of its file."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            marks = node.decorator_list
        case ast.Assign(targets=[ast.Name("pytestmark")], value=ast.List(elts=marks)):
            pass
        case ast.Assign(targets=[ast.Name("pytestmark")], value=mark):
            marks = [mark]
        case _:
            marks = []
    return set(map(ast.unparse, marks))


def _without_long_tests(source: str) -> str:
    """Return the text of a file without the tests that are marked ``long``."""
    marked = [node for node in ast.parse(source).body if "pytest.mark.long" in _marks(node)]
    if any(isinstance(node, ast.Assign) for node in marked):
        return ""
    lines = source.splitlines(keepends=True)
    for node in reversed(marked):
        lines[node.lineno - 1 : node.end_lineno] = []
    return "".join(lines)


def _quotes() -> Mapping[str, list[tuple[str, str]]]:
    """Return the place and the words of the quotes of each promise."""
    found = defaultdict(list)
    for file, source in SOURCES.items():
        for number, words in QUOTE.findall(source):
            found[number].append((str(file.relative_to(TESTS)), _plain(words)))
    return found


SOURCES = {file: file.read_text() for file in TESTS.rglob("*.py") if file != Path(__file__)}
PROMISES = {number: _plain(text) for number, text in PROMISE.findall(SEMANTICS.read_text() + "\n")}
QUOTES = _quotes()


def test_every_promise_is_quoted_by_tests_in_its_words() -> None:
    assert sorted(PROMISES.keys() - QUOTES.keys()) == [], "no test quotes these"
    wrong = [
        f"{place} quotes [{promise}] as\n  {words!r}\nwhich is not in\n  {text!r}"
        for promise, text in PROMISES.items()
        for place, words in QUOTES[promise]
        if len(words.split()) < 2 or words.lower() not in text.lower()
    ]
    assert not wrong, "\n".join(wrong)


def test_ci_shows_every_promise() -> None:
    """A test that is not marked ``long`` quotes it."""
    texts = map(_without_long_tests, SOURCES.values())
    shown = {number for text in texts for number, _ in QUOTE.findall(text)}
    assert sorted(PROMISES.keys() - shown) == []


def test_every_number_is_that_of_a_promise() -> None:
    assert set(re.findall(r"\[(S\d+\.\d+)\]", SEMANTICS.read_text())) == PROMISES.keys()
    assert QUOTES.keys() <= PROMISES.keys()
