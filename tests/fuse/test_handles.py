"""The bounds of what users hold open; those of the budget are shown without a mount."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs.errors import TooManyOpen
from blobfs.fuse.handles import Claim, HandleBudget, HandleTable
from tests.support.layout import Layout
from tests.support.mounts import MountedRegistry, failing_with, mounted
from tests.support.services import cannot

ALICE, BOB = 1000, 1001


def _opens_until_refused(budget: HandleBudget, uid: int) -> list[Claim]:
    claims: list[Claim] = []
    try:
        while len(claims) < 1000:
            claims.append(budget.claim(uid, f"{uid}/{len(claims)}", 1))
    except TooManyOpen:
        return claims
    raise AssertionError("never refused")


def test_one_user_takes_no_more_descriptors_than_are_left_for_others() -> None:
    budget = HandleBudget(limit_of_files=100)  # of which the daemon keeps half
    assert [len(_opens_until_refused(budget, uid)) for uid in (ALICE, BOB)] == [25, 12]


def test_handles_of_one_file_are_charged_for_one_descriptor() -> None:
    budget = HandleBudget(limit_of_files=8)
    for _ in range(100):
        budget.claim(ALICE, "blob", 1)
    assert len(_opens_until_refused(budget, ALICE)) == 1  # of two, one is taken


def test_handles_without_a_descriptor_count() -> None:
    budget = HandleBudget(per_user=2)
    budget.claim(ALICE)
    budget.claim(ALICE)
    with pytest.raises(TooManyOpen, match="--max-handles-per-user"):
        budget.claim(ALICE)


def test_root_has_the_same_bound() -> None:
    budget = HandleBudget(per_user=1)
    budget.claim(0)
    with pytest.raises(TooManyOpen):
        budget.claim(0)


def test_released_handles_can_be_opened_again() -> None:
    budget = HandleBudget(per_user=10**6, limit_of_files=100)
    for _ in range(3):
        claims = _opens_until_refused(budget, ALICE)
        assert len(claims) == 25
        for claim in claims:
            claim.release()


def test_reader_and_writer_of_one_file_are_released_in_any_order() -> None:
    budget = HandleBudget(limit_of_files=100)
    reader, writer = budget.claim(ALICE, "upload", 1), budget.claim(ALICE, "upload", 2)
    reader.release()
    writer.release()
    assert len(_opens_until_refused(budget, ALICE)) == 25


def test_claim_of_an_open_that_fails_is_released() -> None:
    budget = HandleBudget(per_user=1)
    with pytest.raises(KeyError), budget.claim(ALICE):
        raise KeyError
    budget.claim(ALICE)


def test_claim_lasts_as_long_as_its_handle() -> None:
    budget, table = HandleBudget(per_user=1), HandleTable[str]()
    with budget.claim(ALICE) as claim:
        fh = table.add("file", claim)
    with pytest.raises(TooManyOpen):
        budget.check(ALICE)
    table.pop(fh)
    budget.check(ALICE)


@contextmanager
def _soft_limit_of_files(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def bounded(layout: Layout, storage: Path, tmp_path: Path) -> Iterator[MountedRegistry]:
    """A mount with a layer, begun with a low soft limit of files, 20 handles for each user."""
    layout.layer(b"layer")
    with _soft_limit_of_files(256):
        mount = mounted(storage, tmp_path, "--allow-other", "--max-handles-per-user", "20")
        with mount as made:
            yield made


@contextmanager
def _opened_by_nobody(directory: int, names: list[str]) -> Iterator[list[int]]:
    """Open each of *names*, relative to *directory*, until that is refused with ENFILE."""
    opened: list[int] = []
    os.seteuid(65534)
    try:
        for name in names:
            with failing_with(errno.ENFILE):
                while len(opened) < 100:
                    opened.append(os.open(name, os.O_RDONLY, dir_fd=directory))
        os.seteuid(0)
        yield opened
    finally:
        os.seteuid(0)
        for fd in opened:
            os.close(fd)


@pytest.mark.fuse
def test_user_with_too_many_handles_is_refused_and_others_go_on(bounded: MountedRegistry) -> None:
    """[S11.1] An open beyond that is ENFILE for this user only, and the log has a line.
    [S11.2] All handles of a blob share one descriptor in a local storage.
    """
    if os.getuid() != 0:
        cannot("only root can become somebody else")
    (layer,) = bounded.path.glob("team/app/_layers/sha256/*")
    names = [str(layer.relative_to(bounded.path)), ".blobfs/version", "team"]
    descriptors = Path(f"/proc/{bounded.pid}/fd")
    before = len(list(descriptors.iterdir()))
    directory = os.open(bounded.path, os.O_PATH)  # nobody may not come through pytest's directories
    try:
        with _opened_by_nobody(directory, names) as opened:
            assert len(opened) == 20
            assert layer.read_bytes() == b"layer"
            assert len(list(descriptors.iterdir())) <= before + 1
    finally:
        os.close(directory)
    (line,) = bounded.warnings()
    assert "ENFILE" in line
    assert "user 65534" in line


@pytest.mark.fuse
def test_daemon_raises_its_soft_limit_of_files(bounded: MountedRegistry) -> None:
    """[S11.2] The daemon raises its soft limit of open files to the hard one."""
    soft, hard = resource.prlimit(bounded.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
