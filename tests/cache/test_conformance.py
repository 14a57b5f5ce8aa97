"""What every descriptor cache does, bare or made resilient.

The cases are those of distribution, ``registry/storage/cache/cachecheck/suite.go``, and of the
tests beside its cached statter.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from blobfs.cache.base import DescriptorCache
from blobfs.digest import Descriptor, Digest
from blobfs.errors import DigestInvalid, NameInvalid
from blobfs.reference import RepositoryName
from tests.support.cache_samples import ONE, OTHER, described

BLOB = described(b"a layer")
ALIAS = Digest.of(b"a layer", "sha384")
JSON = Descriptor(BLOB.digest, BLOB.size, "application/json")


@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_nothing_is_known_at_first(
    cache: DescriptorCache, repository: RepositoryName | None
) -> None:
    assert cache.stat(ALIAS, repository) is None
    assert cache.stat_many([ALIAS, BLOB.digest], repository) == [None, None]


def test_nothing_is_asked_of_a_name_or_digest_that_is_none(cache: DescriptorCache) -> None:
    with pytest.raises(NameInvalid):
        cache.stat(BLOB.digest, RepositoryName(""))
    with pytest.raises(DigestInvalid):
        cache.stat(Digest.parse(""), ONE)
    with pytest.raises(DigestInvalid):
        cache.set(Digest.parse(""), BLOB, ONE)


@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor(BLOB.digest, -1),
        Descriptor(BLOB.digest, 7, media_type=""),
        described(b"another"),
        Descriptor(ALIAS, 7),
    ],
    ids=["a negative size", "no media type", "another blob's", "another name for it"],
)
@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_descriptor_that_cannot_be_right_is_not_remembered(
    cache: DescriptorCache, descriptor: Descriptor, repository: RepositoryName | None
) -> None:
    cache.set(BLOB.digest, descriptor, repository)
    assert cache.stat(BLOB.digest, repository) is None
    assert cache.stat(descriptor.digest, repository) is None


def test_what_is_set_is_known(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB)
    assert cache.stat(BLOB.digest) == BLOB


def test_what_a_repository_has_is_known_of_the_blob_too(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB, ONE)
    assert cache.stat(BLOB.digest, ONE) == BLOB
    assert cache.stat(BLOB.digest) == BLOB


def test_repository_has_only_what_was_set_for_it(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB)
    cache.set(BLOB.digest, BLOB, ONE)
    assert cache.stat(BLOB.digest, OTHER) is None


@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_blob_is_known_under_both_its_digests(
    cache: DescriptorCache, repository: RepositoryName | None
) -> None:
    cache.set(ALIAS, BLOB, repository)
    assert cache.stat(ALIAS, repository) == BLOB
    assert cache.stat(ALIAS, repository) == BLOB, "a second time"
    assert cache.stat(ALIAS) == BLOB
    assert cache.stat(BLOB.digest) == BLOB


def test_repository_has_a_blob_only_by_the_name_that_was_set(cache: DescriptorCache) -> None:
    """In distribution it has it under both, also where one link has been deleted."""
    cache.set(ALIAS, BLOB, ONE)
    assert cache.stat(BLOB.digest, ONE) is None
    cache.set(BLOB.digest, JSON, ONE)
    cache.set(ALIAS, BLOB, ONE)
    assert cache.stat(BLOB.digest, ONE) == JSON


def test_media_type_of_a_repository_is_its_own(cache: DescriptorCache) -> None:
    cache.set(ALIAS, BLOB, ONE)
    cache.set(ALIAS, JSON, ONE)
    assert cache.stat(ALIAS, ONE) == JSON
    assert cache.stat(ALIAS) == BLOB


def test_media_type_of_a_blob_stays_what_it_was_first(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB)
    cache.set(BLOB.digest, JSON)
    assert cache.stat(BLOB.digest) == BLOB


@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_size_is_what_was_said_last(
    cache: DescriptorCache, repository: RepositoryName | None
) -> None:
    cache.set(BLOB.digest, Descriptor(BLOB.digest, 1), ONE)
    cache.set(BLOB.digest, BLOB, repository)
    assert cache.stat(BLOB.digest, ONE) == BLOB


@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_time_is_what_was_said_last(
    cache: DescriptorCache, repository: RepositoryName | None
) -> None:
    def time_of(digest: Digest, repository: RepositoryName | None = None) -> int | None:
        found = cache.stat(digest, repository)
        assert found is not None
        return found.mtime_ns

    for mtime_ns in (1_700_000_000_123_456_789, -1, None):
        told = replace(BLOB, mtime_ns=mtime_ns)
        cache.set(ALIAS, told, repository)
        assert [time_of(ALIAS, repository), time_of(BLOB.digest)] == [mtime_ns, mtime_ns]


def test_time_is_forgotten_with_the_blob(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, replace(BLOB, mtime_ns=17), ONE)
    cache.clear(BLOB.digest)
    cache.set(BLOB.digest, BLOB, OTHER)
    found = cache.stat(BLOB.digest, ONE)
    assert found is not None
    assert found.mtime_ns is None


@pytest.mark.parametrize("size", [0, 2**40, 10**18 - 1])
def test_any_size_is_known(cache: DescriptorCache, size: int) -> None:
    descriptor = Descriptor(BLOB.digest, size)
    cache.set(BLOB.digest, descriptor)
    assert cache.stat(BLOB.digest) == descriptor


def test_media_type_may_be_anything(cache: DescriptorCache) -> None:
    descriptor = described(b"a layer", 'application/x; of="é\\" 語')
    cache.set(BLOB.digest, descriptor, ONE)
    assert cache.stat(BLOB.digest, ONE) == descriptor


@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_what_is_cleared_is_not_known(
    cache: DescriptorCache, repository: RepositoryName | None
) -> None:
    cache.set(BLOB.digest, BLOB, repository)
    cache.clear(BLOB.digest, repository)
    assert cache.stat(BLOB.digest, repository) is None
    assert cache.stat(BLOB.digest) is None


def test_clear_of_what_is_not_known_is_no_error(cache: DescriptorCache) -> None:
    cache.clear(BLOB.digest)
    cache.clear(BLOB.digest, ONE)
    assert cache.stat(BLOB.digest, ONE) is None


def test_blob_that_is_cleared_is_gone_for_every_repository(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB, ONE)
    cache.set(BLOB.digest, BLOB, OTHER)
    cache.clear(BLOB.digest)
    assert [cache.stat(BLOB.digest, repository) for repository in (ONE, OTHER)] == [None, None]


def test_blob_that_is_stored_again_is_had_by_those_who_had_it(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB, ONE)
    cache.clear(BLOB.digest)
    cache.set(BLOB.digest, BLOB, OTHER)
    assert cache.stat(BLOB.digest, ONE) == BLOB


def test_what_one_repository_lost_does_not_come_back_with_another(cache: DescriptorCache) -> None:
    """Distribution before 3.1.0 cleared the blob only, and set gave it back to all."""
    cache.set(BLOB.digest, BLOB, ONE)
    cache.clear(BLOB.digest, ONE)
    cache.set(BLOB.digest, BLOB, OTHER)
    assert cache.stat(BLOB.digest, ONE) is None
    assert cache.stat(BLOB.digest, OTHER) == BLOB


def test_what_a_repository_lost_it_can_be_given_again(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB, ONE)
    cache.clear(BLOB.digest, ONE)
    cache.set(BLOB.digest, JSON, ONE)
    assert cache.stat(BLOB.digest, ONE) == JSON


@pytest.mark.parametrize("count", [0, 1, 3, 1234])
@pytest.mark.parametrize("repository", [None, ONE], ids=["the blob", "a repository"])
def test_many_are_like_one(
    cache: DescriptorCache, count: int, repository: RepositoryName | None
) -> None:
    blobs = [described(b"%d" % number) for number in range(count)]
    digests = [blob.digest for blob in blobs]
    cache.set_many({blob.digest: blob for blob in blobs[::2]}, repository)
    known = [blob if number % 2 == 0 else None for number, blob in enumerate(blobs)]
    assert cache.stat_many(digests, repository) == known
    cache.clear_many(digests, repository)
    assert cache.stat_many(digests, repository) == [None] * count


def test_many_may_name_one_twice(cache: DescriptorCache) -> None:
    cache.set(BLOB.digest, BLOB)
    assert cache.stat_many([BLOB.digest, ALIAS, BLOB.digest]) == [BLOB, None, BLOB]


def test_threads_do_not_disturb_each_other(cache: DescriptorCache) -> None:
    def use(number: int) -> bool:
        blob = described(b"%d" % number)
        repository = RepositoryName(f"r{number % 5}")
        cache.set(blob.digest, blob, repository)
        known = cache.stat(blob.digest, repository) == blob
        cache.clear(blob.digest, repository)
        return known and cache.stat(blob.digest, repository) is None

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(use, range(200)))
