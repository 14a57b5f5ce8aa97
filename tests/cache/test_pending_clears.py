"""Clears that are to be repeated."""

from blobfs.cache.resilient import PendingClears
from tests.support.cache_samples import ONE, OTHER, described

DIGESTS = [described(b"%d" % number).digest for number in range(250)]


def test_nothing_is_pending_at_first() -> None:
    pending = PendingClears()
    assert not pending
    assert not pending.oldest().numbers
    assert not pending.covers(DIGESTS[0], None)


def test_clear_of_one_repository_says_nothing_of_another() -> None:
    pending = PendingClears()
    pending.add(DIGESTS[:1], ONE)
    assert pending.covers(DIGESTS[0], ONE)
    assert not pending.covers(DIGESTS[0], OTHER)
    assert not pending.covers(DIGESTS[1], ONE)


def test_clear_of_a_blob_is_one_for_every_repository() -> None:
    pending = PendingClears()
    pending.add(DIGESTS[:1], None)
    assert pending.covers(DIGESTS[0], ONE)
    assert pending.covers(DIGESTS[0], None)


def test_batches_are_given_out_by_repository_oldest_first_a_hundred_at_a_time() -> None:
    pending = PendingClears()
    pending.add(DIGESTS[:150], ONE)
    pending.add(DIGESTS[150:], OTHER)
    sizes = []
    while pending:
        batch = pending.oldest()
        sizes.append((batch.repository, len(batch.numbers)))
        pending.done(batch)
    assert sizes == [(ONE, 100), (ONE, 50), (OTHER, 100)]


def test_batch_stays_until_it_is_done() -> None:
    pending = PendingClears()
    pending.add(DIGESTS[:2], ONE)
    pending.oldest()
    assert pending.covers(DIGESTS[0], ONE)


def test_clear_added_again_meanwhile_stays() -> None:
    pending = PendingClears()
    pending.add(DIGESTS[:2], ONE)
    batch = pending.oldest()
    pending.add(DIGESTS[:1], ONE)
    pending.done(batch)
    assert [pending.covers(digest, ONE) for digest in DIGESTS[:2]] == [True, False]


def test_oldest_are_lost_above_the_most() -> None:
    pending = PendingClears(most=2)
    pending.add(DIGESTS[:3], ONE)
    assert len(pending) == 2
    assert not pending.covers(DIGESTS[0], ONE)
