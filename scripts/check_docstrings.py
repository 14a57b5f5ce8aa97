#!/usr/bin/env python3
"""Refuses docstrings that begin with a question word, and long docstrings of modules.

The first line of a docstring names the thing with a noun or says the action with a verb. Text
that needs more than 15 lines belongs in the docstring of the package, in its ``__init__.py``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_DIRECTORIES = ("blobfs", "scripts")
_QUESTION_WORDS = {"What", "Who", "Where", "Whether", "How"}
_MOST_LINES = 15

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def findings(path: Path) -> Iterator[str]:
    """Yield a line of text for each docstring of the file at *path* that breaks a rule."""
    place = path.relative_to(_ROOT)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, _Documented) or not (text := ast.get_docstring(node)):
            continue
        first = text.split(maxsplit=1)[0].strip(".,:;")
        if first in _QUESTION_WORDS:
            yield f"{place}:{node.body[0].lineno}: the docstring begins with {first}"
        lines = len(text.splitlines())
        if isinstance(node, ast.Module) and path.name != "__init__.py" and lines > _MOST_LINES:
            yield f"{place}:1: the module's docstring has {lines} lines, {_MOST_LINES} at most"


def main() -> int:
    """Print all findings; returns 1 if there are any."""
    paths = sorted(path for name in _DIRECTORIES for path in (_ROOT / name).rglob("*.py"))
    found = [finding for path in paths for finding in findings(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
