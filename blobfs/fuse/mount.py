"""The life of a mount: init, serve until an unmount or a signal, close."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import string
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pyfuse3
import trio

from blobfs.concurrency import ThreadCall
from blobfs.errors import BlobfsError, MountRefused, StorageTimeout
from blobfs.fuse import session
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.device import obstacle
from blobfs.fuse.handles import MAX_PER_USER, HandleBudget, raise_limit_of_files
from blobfs.fuse.operations import Operations
from blobfs.fuse.readonly_operations import ReadOnlyOperations
from blobfs.fuse.requests import LongestStep
from blobfs.fuse.stats import HealthSource, NoHealth, control_files
from blobfs.fuse.threads import StorageThreads
from blobfs.fuse.upload_dispatcher import UploadDispatcher
from blobfs.fuse.waiting import MAX_TASKS
from blobfs.host.daemon import END_SIGNALS
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.mountinfo import mount_at
from blobfs.storage.registry import Registry
from blobfs.vfs.kept_tags import KeptTags
from blobfs.vfs.tree import StorageUsage, Tree
from blobfs.vfs.uploads import Uploads
from blobfs.vfs.verification import Verification, Verify

log = logging.getLogger(__name__)

Task = Callable[[], Awaitable[None]]
"""A task that runs on the event loop of a mount, beside its requests, until it is cancelled."""

_MIN_TASKS: Final = 8
"""Idle tasks kept for the next requests; pyfuse3's default of 1 starts many tasks anew."""

_GRACE_S: Final = 3.0
"""Time that requests may still take after a signal to end the mount."""

_SUSPEND_S: Final = 3.0
"""Time to make uploads durable at the end of the mount."""

_UPLOAD_CALLS_S: Final = 2.0
"""The part of _SUSPEND_S in which uploads wait for the end of their interrupted calls."""

_MALLOC: Final = {-3: 128 * 2**20, -1: 128 * 2**20, -2: 64 * 2**20, -8: 1}
"""Parameters of mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of a mount.

    df(1) and mount(8) show *source* as the device. *config* is the content of
    ``/.blobfs/config.json``, so it holds no secrets. *health* is the source of
    ``/.blobfs/health.json``; once it is known, it is rendered on the event loop. *usage* is that of
    ``Tree``.
    """

    source: str = "blobfs"
    attributes: AttributeMapper = field(default_factory=AttributeMapper)
    verify: Verify = Verify.NONE
    expose_blobs: bool = False
    allow_other: bool = False
    read_only: bool = False
    allow_delete: bool = False
    receipt_ttl_s: float = 3600.0
    upload_deadline_s: float = 300.0
    max_upload: int = 64 * 2**30
    max_handles_per_user: int = MAX_PER_USER
    readahead_kb: int = 4096
    max_background: int = 64
    config: dict[str, object] = field(default_factory=dict)
    show_images: bool = False
    index_dir: Path | None = None
    kept_tags: Path | None = None
    index_size: int = 4 * 2**30
    flatten_owners: bool = False
    health: HealthSource = field(default_factory=NoHealth)
    usage: Callable[[], StorageUsage] | None = None

    def for_fuse(self) -> set[str]:
        """Return the options of mount(8), as libfuse names them."""
        source = _in_ascii(self.source).replace("\\", "\\\\").replace(",", "\\,")
        options = {f"fsname={source}", "subtype=blobfs", "default_permissions"}
        if self.read_only:
            options.add("ro")
        if self.allow_other:
            options.add("allow_other")
        return options


def _in_ascii(text: str) -> str:
    """Percent-encode other characters of *text*: pyfuse3 takes options in ASCII only."""
    return quote(os.fsencode(text), safe=string.printable)


def serve(
    registry: Registry,
    mountpoint: Path,
    options: MountOptions,
    ready: Callable[[], None],
    beside: Callable[[ReadOnlyOperations], Sequence[Task]] = lambda _: (),
) -> None:
    """Serve *registry* at *mountpoint* until an unmount, SIGTERM or SIGINT.

    *ready* is called once the mount serves requests. *beside* returns the tasks that run beside the
    given handlers; a task that fails does not end the mount. Raises MountRefused if the mount
    cannot be made.
    """
    # Later signals are handled once the event loop runs, so no signal leaves half a mount.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    threads = StorageThreads(inline=registry.is_local)
    longest_step = LongestStep()
    operations = _operations(registry, options, threads, longest_step)
    try:
        session.mount(operations, str(mountpoint), options.for_fuse())
    except RuntimeError as exc:
        raise MountRefused(
            f"cannot mount at {mountpoint}: {obstacle(allow_other=options.allow_other) or exc}"
        ) from exc
    _avoid_full_collections()
    if not registry.is_local:
        _keep_large_blocks()
    serving = False

    def begin() -> None:
        nonlocal serving
        ready()
        serving = True

    try:
        tasks: list[Task] = [
            partial(_announce, mountpoint, options, threads, begin),
            *(partial(_run_isolated, task) for task in beside(operations)),
        ]
        trio.run(_serve, operations, tasks, instruments=[longest_step])
        serving = False
    except ExceptionGroup as group:
        ours, others = group.split(BlobfsError)
        if ours is None or others is not None:
            raise
        raise MountRefused("; ".join(map(str, ours.exceptions))) from group
    finally:
        try:
            _suspend_uploads(operations)
        finally:
            # After a crash the dead mount stays. An empty directory in its place would tell rsync
            # and similar programs that everything was deleted.
            pyfuse3.close(unmount=not serving)
    log.info("unmounted %s", mountpoint)


def _avoid_full_collections() -> None:
    """Keep the garbage collector from walking every inode that the kernel holds.

    With 100,000 inodes a full collection stopped the event loop for 160 ms. Objects that live for
    long have no cycles. Exceptions make cycles; the young generations still collect them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 5, 10**9)


def _keep_large_blocks() -> None:
    """Make the C library reuse the memory of freed large blocks.

    Otherwise it maps each block anew, and the kernel clears it: 0.1 s for 1 GiB in blocks
    of 8 MiB. One arena for all threads saves 90 MB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    for parameter, value in _MALLOC.items():
        mallopt(parameter, value)


def _suspend_uploads(operations: ReadOnlyOperations) -> None:
    """Make uploads durable; wait for at most _SUSPEND_S, because the storage may hang."""
    try:
        suspend = partial(operations.suspend_uploads, _UPLOAD_CALLS_S)
        ThreadCall("suspending", suspend).result(_SUSPEND_S)
    except StorageTimeout:
        log.warning("the storage does not answer: uploads keep what was synced before")


async def _serve(operations: ReadOnlyOperations, tasks: Sequence[Task]) -> None:
    async with trio.open_nursery() as nursery:
        requests = trio.CancelScope()
        nursery.start_soon(_unmount_at_signal, operations, requests)
        for task in tasks:
            nursery.start_soon(task)
        with requests:
            await pyfuse3.main(min_tasks=_MIN_TASKS, max_tasks=MAX_TASKS)
        nursery.cancel_scope.cancel()


async def _run_isolated(task: Task) -> None:
    """Run *task*, and log its exceptions, so that the mount goes on."""
    try:
        await task()
    except Exception:
        log.exception("a task beside the mount failed; the mount goes on without it")


async def _unmount_at_signal(operations: ReadOnlyOperations, requests: trio.CancelScope) -> None:
    with trio.open_signal_receiver(*END_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        number = await anext(signals)
        log.info("%s: unmounting", signal.Signals(number).name)
        pyfuse3.terminate()
        operations.interrupt_uploads()
        await trio.sleep(_GRACE_S)
        log.warning("requests still wait for the storage; the mount ends without their replies")
        requests.cancel()
        await trio.sleep_forever()  # further signals change nothing


async def _announce(
    mountpoint: Path, options: MountOptions, threads: StorageThreads, ready: Callable[[], None]
) -> None:
    # This mount itself serves the request, as soon as the kernel has finished INIT.
    await threads.run_in_thread(os.stat, mountpoint / ".blobfs")
    _tune_kernel(
        mountpoint, readahead_kb=options.readahead_kb, max_background=options.max_background
    )
    log.info("%s is mounted at %s", options.source, mountpoint)
    ready()


def _tune_kernel(mountpoint: Path, *, readahead_kb: int, max_background: int) -> None:
    """Set the size of the kernel's read-ahead, and its limit of background requests.

    The read-ahead needs root. A refused setting is logged, with the command that sets it.
    """
    mount = mount_at(mountpoint)
    if mount is None:
        return
    _, _, minor = mount.device.partition(":")
    if readahead_kb:
        _write_setting(Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb"), readahead_kb)
    _write_setting(Path(f"/sys/fs/fuse/connections/{minor}/max_background"), max_background)


def _write_setting(path: Path, value: int) -> None:
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except FileNotFoundError:
        log.debug("%s does not exist", path)  # no fusectl, as in most containers
    except OSError as exc:
        log.info("%s; to set it: echo %d | sudo tee %s", exc.strerror, value, path)


def _images(registry: Registry, options: MountOptions) -> Images | None:
    if options.index_dir is None:
        return None
    return Images(registry, IndexStore(options.index_dir, options.index_size))


def _operations(
    registry: Registry, options: MountOptions, threads: StorageThreads, longest_step: LongestStep
) -> ReadOnlyOperations:
    kept = None if options.kept_tags is None else KeptTags(options.kept_tags)
    uploads = Uploads(options.receipt_ttl_s, None if options.read_only else kept)
    uploads.restore(registry)
    tree = Tree(
        registry,
        Verification(options.verify),
        uploads,
        expose_blobs=options.expose_blobs,
        allow_delete=options.allow_delete,
        control=control_files(lambda: operations, longest_step, options.config, options.health),
        usage=options.usage,
        images=_images(registry, options),
        show_images=options.show_images,
        flatten_owners=options.flatten_owners,
    )
    dispatcher = UploadDispatcher(
        threads,
        deadline_s=options.upload_deadline_s,
        max_undeclared=options.max_upload,
    )
    # Without a handler for flush, the kernel sends no request at each close of a file.
    handlers = ReadOnlyOperations if options.read_only else Operations
    budget = HandleBudget(options.max_handles_per_user, raise_limit_of_files())
    operations = handlers(tree, threads, options.attributes, dispatcher, budget)
    return operations
