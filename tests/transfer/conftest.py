"""The places that the contracts of a transfer are checked for."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.places import Place, bucket_place, directory_place, memory_place

PLACES = ["directory", "memory", pytest.param("bucket", marks=pytest.mark.s3)]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        match request.param:
            case "directory":
                yield directory_place(tmp_path)
            case "memory":
                yield memory_place()
            case _:
                yield stack.enter_context(bucket_place(request.getfixturevalue("moto")))
