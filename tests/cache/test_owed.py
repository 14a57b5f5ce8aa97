"""The clears that are to be made again."""

from blobfs.cache.pending_clears import PendingClears
from tests.cache.samples import ONE, OTHER, described

DIGESTS = [described(b"%d" % number).digest for number in range(250)]


def test_nothing_is_owed_at_first() -> None:
    owed = PendingClears()
    assert not owed
    assert not owed.some().numbers
    assert not owed.covers(DIGESTS[0], None)


def test_clear_of_one_repository_says_nothing_of_another() -> None:
    owed = PendingClears()
    owed.add(DIGESTS[:1], ONE)
    assert owed.covers(DIGESTS[0], ONE)
    assert not owed.covers(DIGESTS[0], OTHER)
    assert not owed.covers(DIGESTS[1], ONE)


def test_clear_of_a_blob_is_one_for_every_repository() -> None:
    owed = PendingClears()
    owed.add(DIGESTS[:1], None)
    assert owed.covers(DIGESTS[0], ONE)
    assert owed.covers(DIGESTS[0], None)


def test_debts_are_given_out_by_repository_oldest_first_a_hundred_at_a_time() -> None:
    owed = PendingClears()
    owed.add(DIGESTS[:150], ONE)
    owed.add(DIGESTS[150:], OTHER)
    sizes = []
    while owed:
        debt = owed.some()
        sizes.append((debt.repository, len(debt.numbers)))
        owed.paid(debt)
    assert sizes == [(ONE, 100), (ONE, 50), (OTHER, 100)]


def test_debt_stays_until_it_is_paid() -> None:
    owed = PendingClears()
    owed.add(DIGESTS[:2], ONE)
    owed.some()
    assert owed.covers(DIGESTS[0], ONE)


def test_what_is_owed_again_meanwhile_is_not_paid() -> None:
    owed = PendingClears()
    owed.add(DIGESTS[:2], ONE)
    debt = owed.some()
    owed.add(DIGESTS[:1], ONE)
    owed.paid(debt)
    assert [owed.covers(digest, ONE) for digest in DIGESTS[:2]] == [True, False]


def test_oldest_are_lost_above_the_most() -> None:
    owed = PendingClears(most=2)
    owed.add(DIGESTS[:3], ONE)
    assert len(owed) == 2
    assert not owed.covers(DIGESTS[0], ONE)
