"""Tags and repositories, a page at a time."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import open_registry, paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag
from tests.support.api_server import ask, serving
from tests.support.layout import APP, Layout

# In the order of a catalog: a name before those below it, each level in order.
NAMES = ["a", "a/1", "a/b", "a/b/c", "a-b", "a.b", "a0", "b/c", "b/c-d", "b/d"]


@pytest.fixture
def address(tmp_path: Path, layout: Layout) -> Iterator[str]:
    for name in NAMES:
        layout.link(paths.layers(RepositoryName(name)), Digest.of(b""))
    with open_registry(str(tmp_path)) as registry, serving(registry) as address:
        yield address


def pages(address: str, path: str, key: str) -> list[list[str]]:
    """What is on each page, from one to the next by their links."""
    found = []
    following: str | None = path
    while following is not None:
        answer = ask(address, following)
        found.append(answer.json()[key])
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
        following = None if link is None else link[1]
    return found


@pytest.mark.parametrize("count", [1, 3, 5, 9, 10, 11])
def test_pages_of_a_catalog_have_every_repository_once(address: str, count: int) -> None:
    """[S16.10] `?n=` and `?last=` page through tags and repositories, with a `Link` to the next
    page.
    """
    found = pages(address, f"/v2/_catalog?n={count}", "repositories")
    assert found == [NAMES[start : start + count] for start in range(0, len(NAMES), count)]


@pytest.mark.parametrize("last", ["", "0", "a", "a/0", "a/b/", "a/b/z", "a-", "b", "b/c/z", "zz"])
def test_page_begins_after_a_name_that_need_not_be_there(address: str, last: str) -> None:
    """[S16.10] `?n=` and `?last=` page through tags and repositories, with a `Link` to the next
    page.
    """
    [found] = pages(address, f"/v2/_catalog?last={last}", "repositories")
    assert found == [name for name in NAMES if name.split("/") > last.split("/")]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_pages_of_tags_have_every_tag_once(address: str, layout: Layout, count: int) -> None:
    """[S16.10] Tags come in the order of their bytes."""
    tags = ["1.0", "1.10", "1.9", "Latest", "latest"]
    for tag in tags:
        layout.tag(Digest.of(b"{}"), Tag(tag))
    found = pages(address, f"/v2/{APP}/tags/list?n={count}", "tags")
    assert found == [tags[start : start + count] for start in range(0, len(tags), count)]


@pytest.mark.parametrize(
    "count", ["-1", "x", "%d9%a3", "1000000000999", "0" * 5000], ids=lambda count: count[:13]
)
def test_what_is_no_number_of_tags_is_refused(address: str, count: str) -> None:
    """[S16.10] `?n=` and `?last=` page through tags and repositories."""
    answer = ask(address, f"/v2/{APP}/tags/list?n={count}")
    assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")


def test_repository_without_tags_has_none(address: str) -> None:
    assert ask(address, "/v2/a/b/tags/list").json() == {"name": "a/b", "tags": []}


def test_what_is_no_tag_is_not_listed(address: str, layout: Layout) -> None:
    layout.tag(Digest.of(b"{}"))
    layout.put(f"{paths.tags(APP)}/stray")
    layout.put(f"{paths.tags(APP)}/untagged/index/stray")
    assert ask(address, f"/v2/{APP}/tags/list").json()["tags"] == ["latest"]
