"""The hierarchy in the docstring of errors.py is the one of its classes."""

import pickle
from collections.abc import Iterator

import pytest

from blobfs import errors
from blobfs.drivers.s3.options import S3OptionInvalid
from blobfs.errors import BlobfsError, MountRefused, PathNotFound


def _listed() -> Iterator[tuple[str, str]]:
    """Yield each class of the docstring with its base."""
    assert errors.__doc__ is not None
    base = ""
    for word in errors.__doc__.split("\n\n")[1].split():
        if word.endswith(":"):
            base = word.removesuffix(":")
        else:
            yield word, base


def _defined(cls: type[BlobfsError]) -> Iterator[tuple[str, str]]:
    for below in cls.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below.__name__, cls.__name__
            yield from _defined(below)


def test_hierarchy_is_listed_as_it_is_defined() -> None:
    assert sorted(_listed()) == sorted(_defined(BlobfsError))


def test_every_class_has_one_base() -> None:
    names = [name for name, _ in _defined(BlobfsError)]
    assert len(names) == len(set(names))


def test_every_class_says_what_it_means() -> None:
    assert all(getattr(errors, name).__doc__ for name, _ in _defined(BlobfsError))


def test_path_not_found_tells_which() -> None:
    error = errors.PathNotFound("/a")
    assert (error.path, str(error)) == ("/a", "no such path: /a")


def test_unknown_blob_tells_which() -> None:
    error = errors.BlobUnknown("sha256:00")
    assert (error.digest, str(error)) == ("sha256:00", "unknown blob: sha256:00")


@pytest.mark.parametrize(
    "error", [PathNotFound("/a"), S3OptionInvalid("region", "must be so"), MountRefused("why")]
)
def test_error_of_another_process_is_the_same(error: BlobfsError) -> None:
    loaded = pickle.loads(pickle.dumps(error))
    assert (type(loaded), str(loaded), vars(loaded)) == (type(error), str(error), vars(error))
