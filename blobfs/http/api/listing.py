"""``/v2/<name>/tags/list`` and ``/v2/_catalog``: sorted names, in pages."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import islice
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from blobfs.errors import RepositoryUnknown
from blobfs.http.api.errors import ErrorCode, Json, error_response
from blobfs.http.workers import Workers
from blobfs.storage.registry import Registry

_DEFAULT_COUNT: Final = 100
"""Repositories on a page, as in distribution."""

_MAX_COUNT: Final = 1000
"""The largest number of repositories on a page, as in distribution."""

_ALL: Final = 10**9

_NUMBER: Final = re.compile("[0-9]{1,9}")


class Listing:
    """Serves lists of tags and repositories, sorted by the bytes of their components."""

    def __init__(self, registry: Registry, workers: Workers) -> None:
        self._registry = registry
        self._workers = workers

    async def tags(self, request: Request) -> Response:
        """Serve ``GET /v2/<name>/tags/list``: all tags, or at most ``n``."""
        name = request.path_params["name"]
        count = _count(request, _ALL)
        if count is None:
            return _not_a_count(request)
        found = await self._workers.run(self._tags_after, name, _last(request))
        return _page(request, {"name": name}, "tags", found[: count + 1], count)

    def _tags_after(self, name: str, last: str) -> list[str]:
        repository = self._registry.repository(name)
        tags: list[str] = sorted(repository.tags.enumerate())
        if not tags and not self._registry.is_repository(repository.name):
            raise RepositoryUnknown(name)
        return tags[bisect_right(tags, last) :]

    async def catalog(self, request: Request) -> Response:
        """Serve ``GET /v2/_catalog``: the repositories."""
        count = _count(request, _DEFAULT_COUNT)
        if count is None or count > _MAX_COUNT:
            return _not_a_count(request)
        found = await self._workers.run(self._repositories_after, _last(request), count + 1)
        return _page(request, {}, "repositories", found, count)

    def _repositories_after(self, last: str, count: int) -> list[str]:
        return list(islice(self._registry.enumerate(after=last), count))


def _last(request: Request) -> str:
    return request.query_params.get("last", "")


def _count(request: Request, default: int) -> int | None:
    """Return the requested number of names; None if it is not a number."""
    text = request.query_params.get("n", "")
    if not text:
        return default
    return int(text) if _NUMBER.fullmatch(text) else None


def _not_a_count(request: Request) -> Response:
    asked = {"n": request.query_params["n"]}
    return error_response(ErrorCode.PAGINATION_NUMBER_INVALID, detail=asked)


def _page(
    request: Request, document: dict[str, object], key: str, found: list[str], count: int
) -> Response:
    """Return the first *count* of *found*, with a link to the next page if there are more."""
    names = found[:count]
    headers = {}
    if names and len(found) > count:
        query = urlencode({"last": names[-1], "n": count})
        headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    return Json({**document, key: names}, headers=headers)
