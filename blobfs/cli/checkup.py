"""The checks of ``blobfs doctor``: the machine, the storage, and the services beside it."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from blobfs.cache.factory import is_redis, redis_failure
from blobfs.cli.notices import UNLOGGED
from blobfs.cli.reports import Report, human_size
from blobfs.cli.storage import Storage
from blobfs.drivers.capacity import Capacity
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import BlobfsError
from blobfs.fuse.device import refusal_of_allow_other, refusal_of_device, refusal_of_user
from blobfs.fuse.versions import versions
from blobfs.host import preflight
from blobfs.storage.registry import Registry

T = TypeVar("T")

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

_FEW_FILES: Final = 4096
"""Every user of a mount may get half of what is left of these after 1,024 for the daemon."""

_LITTLE_SPACE: Final = 2**30
_FEW_INODES: Final = 10_000

_CLOCK_S: Final = 60.0
_REFUSED_CLOCK_S: Final = 15 * 60.0
"""S3 refuses requests whose time differs by more (AWS, "RequestTimeTooSkewed")."""

_HELPER: Final = "mount.blobfs"
_HELPER_PLACES: Final = ("/sbin", "/usr/sbin", "/sbin/fs.d", "/sbin/fs")
_FSTAB: Final = Path("/etc/fstab")
_SYSTEM_LOG: Final = Path("/dev/log")


class Finding(NamedTuple):
    """The result of a check: its state, what was found, and what to do."""

    check: str
    state: str
    found: str
    advice: str = ""


def report(findings: list[Finding]) -> Report:
    """Return the table of *findings*; it counts the problems as damage."""
    problems = sum(finding.state == PROBLEM for finding in findings)
    return Report(("check", "state", "found", "advice"), findings, damaged=problems)


def of_machine() -> Iterator[Finding]:
    """Check what every mount on this machine needs."""
    yield Finding("versions", OK, ", ".join(f"{name} {of}" for name, of in versions().items()))
    yield _of_refusal("fuse device", refusal_of_device(), "/dev/fuse can be used")
    yield _of_refusal("right to mount", refusal_of_user(), _user())
    yield _of_refusal(
        "other users", refusal_of_allow_other(), "--allow-other is allowed", state=WARNING
    )
    yield _of_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield _of_log()
    yield _of_helper()


def of_storage(storage: str, cache: str | None) -> Iterator[Finding]:
    """Check STORAGE, and the Redis of *cache* or of the registry's file; never raises for them.

    The checks before a mount have the same deadline.
    """
    try:
        given = Storage.resolve(storage)
    except BlobfsError as exc:
        yield _problem("storage", exc)
        return
    yield from (_split("registry's file", WARNING, sentence) for sentence in given.warnings)
    if given.location.bucket is not None:
        yield from _of_bucket(given, given.location.bucket)
    try:
        registry = given.open()
    except BlobfsError as exc:
        yield _problem("storage", exc)
    else:
        with registry:
            yield Finding("storage", OK, f"{given.location.address} has a registry")
            yield from _of_registry(given, registry)
    yield from _of_redis(cache or given.redis)


def _user() -> str:
    program = shutil.which("fusermount3")
    return "this is root" if os.geteuid() == 0 else f"{program} mounts for this user"


def _of_open_files(limit: int) -> Finding:
    if 0 <= limit < _FEW_FILES:
        return Finding(
            "open files",
            WARNING,
            f"a process may open {limit:,} files",
            "raise the hard limit: ulimit -Hn 65536, or LimitNOFILE=65536 of a systemd unit",
        )
    return Finding("open files", OK, f"a process may open {limit:,} files")


def _of_log() -> Finding:
    if _SYSTEM_LOG.exists():
        return Finding("log", OK, f"{_SYSTEM_LOG} takes the log")
    return _split("log", WARNING, UNLOGGED)


def _of_helper() -> Finding:
    found = shutil.which(_HELPER, path=os.pathsep.join(_HELPER_PLACES))
    if found is not None:
        return Finding("fstab", OK, f"mount(8) finds {found}")
    advice = f"as root: ln -s {shutil.which(_HELPER) or _HELPER} /sbin/{_HELPER}"
    if any(line.split()[2:3] == ["blobfs"] for line in _mounts_of(_FSTAB)):
        return Finding(
            "fstab", PROBLEM, f"{_FSTAB} has mounts of blobfs, and /sbin has no {_HELPER}", advice
        )
    return Finding("fstab", OK, f"/sbin has no {_HELPER}, and {_FSTAB} needs none")


def _mounts_of(fstab: Path) -> list[str]:
    """Return the lines that are no comments; none of a file that cannot be read."""
    try:
        lines = fstab.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if not line.lstrip().startswith("#")]


def _of_bucket(given: Storage, bucket: S3Options) -> Iterator[Finding]:
    from blobfs.drivers.s3.account import clock_offset_s, source_of_credentials  # noqa: PLC0415

    credentials = _checked(
        "credentials",
        given,
        partial(source_of_credentials, bucket),
        lambda source: Finding("credentials", OK, f"from {source}"),
    )
    yield credentials
    if credentials.state == OK:
        yield _checked("clock", given, partial(clock_offset_s, bucket), of_clock)


def of_clock(offset_s: float | None) -> Finding:
    """Judge the seconds by which this machine's clock is ahead of the server's."""
    if offset_s is None:
        return Finding("clock", OK, "unknown: the server sends no time")
    amount = abs(offset_s)
    if amount <= _CLOCK_S:
        return Finding("clock", OK, f"{amount:.0f} s from the server's")
    found = f"{amount:,.0f} s {'ahead of' if offset_s > 0 else 'behind'} the server's"
    advice = "set the clock, or start an NTP client; S3 refuses a difference of 15 minutes"
    return Finding("clock", PROBLEM if amount > _REFUSED_CLOCK_S else WARNING, found, advice)


def _of_registry(given: Storage, registry: Registry) -> Iterator[Finding]:
    root = given.location.root
    refusal = registry.write_refusal if root is None else partial(preflight.unwritable, root)
    yield _checked("writing", given, refusal, _of_write_refusal)
    yield _checked("free space", given, registry.capacity, of_space)


def _of_write_refusal(refusal: str | None) -> Finding:
    if refusal is None:
        return Finding("writing", OK, "the storage can be written")
    advice = "a mount will be read-only; to write, run as a user who may, or change the rights"
    return Finding("writing", WARNING, refusal, advice)


def of_space(capacity: Capacity | None) -> Finding:
    """Judge the free space and the free inodes of a storage."""
    if capacity is None:
        return Finding("free space", OK, "no known limit")
    found = f"{human_size(capacity.available)} of {human_size(capacity.size)}"
    if capacity.files:
        found += f", {capacity.files_free:,} of {capacity.files:,} inodes"
    few = capacity.files > 0 and capacity.files_free < _FEW_INODES
    if capacity.available >= _LITTLE_SPACE and not few:
        return Finding("free space", OK, found)
    full = capacity.available == 0 or (capacity.files > 0 and capacity.files_free == 0)
    advice = "blobfs du shows what uses the space, blobfs gc --layers --untagged what can go"
    return Finding("free space", PROBLEM if full else WARNING, found, advice)


def _of_redis(url: str | None) -> Iterator[Finding]:
    if url is None or not is_redis(url):
        return
    try:
        failure = redis_failure(url)
    except BlobfsError as exc:
        yield _problem("Redis", exc)
        return
    if failure is None:
        yield Finding("Redis", OK, "it answers")
    else:
        advice = "start it, or correct its URL; a mount works without it, and is slower"
        yield Finding("Redis", PROBLEM, failure, advice)


def _checked(
    check: str, given: Storage, ask: Callable[[], T], judge: Callable[[T], Finding]
) -> Finding:
    """Return what *judge* finds in the answer of *ask*, which has a deadline."""
    try:
        return judge(given.checks.run(ask))
    except BlobfsError as exc:
        return _problem(check, exc)


def _of_refusal(check: str, refusal: str | None, otherwise: str, state: str = PROBLEM) -> Finding:
    return Finding(check, OK, otherwise) if refusal is None else _split(check, state, refusal)


def _problem(check: str, exc: BlobfsError) -> Finding:
    return _split(check, PROBLEM, str(exc))


def _split(check: str, state: str, sentence: str) -> Finding:
    """Split a message at its first semicolon: its end says what to do."""
    found, _, advice = sentence.partition("; ")
    return Finding(check, state, found, advice)
