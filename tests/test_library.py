"""What the package offers to a program that imports it, as its documentation says."""

import doctest

import blobfs


def test_example_of_the_package_is_true() -> None:
    found = doctest.testmod(blobfs, raise_on_error=False, report=True)
    assert found.attempted > 0
    assert found.failed == 0


def test_all_that_is_offered_is_there() -> None:
    assert all(hasattr(blobfs, name) for name in blobfs.__all__)
