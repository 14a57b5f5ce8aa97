"""A call of the storage that hangs holds up no request that does not need its answer."""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest
import trio

from blobfs.concurrency import refuse_to_take_long
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader, FileWriter, StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.wrapper import DriverWrapper, ReaderWrapper, WriterWrapper
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.operations import Operations
from blobfs.fuse.requests import LongestStep
from blobfs.fuse.threads import StorageThreads
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.registry import Registry
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify
from tests.support.layout import Layout, image

CTX = cast(pyfuse3.RequestContext, SimpleNamespace(uid=1000, gid=1000, pid=os.getpid(), umask=0))
LAYER = b"a layer"
LARGE = bytes(range(256)) * 8192
PATIENCE_S = 10.0

BLOCKED = (
    "stat", "stat_many", "listdir", "read_at", "open", "put_content", "create", "delete",
    "reader.read_at", "writer.write", "writer.flush", "writer.move_to", "writer.cancel",
)  # fmt: skip


class BlockingDriver(DriverWrapper):
    """Hangs in the next call of *blocked* until ``let_go``; on an event loop that takes long."""

    def __init__(self, driver: StorageDriver, *, is_local: bool) -> None:
        super().__init__(driver)
        self.is_local = is_local
        self.blocked = ""
        self.hangs = threading.Event()
        self._over = threading.Event()

    def let_go(self) -> None:
        """End the call that hangs."""
        self._over.set()

    def meet(self, call: str) -> None:
        """Hang, if it is this call's turn."""
        if call != self.blocked:
            return
        refuse_to_take_long()
        self.blocked = ""
        self.hangs.set()
        self._over.wait()

    def open(self, path: str, size: int | None = None) -> FileReader:
        self.meet("open")
        return _Reader(super().open(path, size), self)

    def create(self, path: str) -> FileWriter:
        self.meet("create")
        return _Writer(super().create(path), self)

    def append(self, path: str, token: str = "") -> FileWriter:
        return _Writer(super().append(path, token), self)


def _meeting(name: str) -> Callable[..., object]:
    def call(self: BlockingDriver, *args: object) -> object:
        self.meet(name)
        return getattr(DriverWrapper, name)(self, *args)

    return call


for _name in ("stat", "stat_many", "listdir", "read_at", "put_content", "delete"):
    setattr(BlockingDriver, _name, _meeting(_name))


class _Reader(ReaderWrapper):
    def __init__(self, reader: FileReader, driver: BlockingDriver) -> None:
        super().__init__(reader)
        self._driver = driver

    def read_at(self, offset: int, size: int) -> bytes:
        self._driver.meet("reader.read_at")
        return super().read_at(offset, size)

    def read_nowait(self, offset: int, size: int) -> None:
        return None


class _Writer(WriterWrapper):
    def __init__(self, writer: FileWriter, driver: BlockingDriver) -> None:
        super().__init__(writer)
        self._driver = driver

    def write(self, data: bytes) -> None:
        self._driver.meet("writer.write")
        super().write(data)

    def can_write_nowait(self, size: int) -> bool:
        return False

    def flush(self) -> None:
        self._driver.meet("writer.flush")
        super().flush()

    def move_to(self, target: str) -> bool:
        self._driver.meet("writer.move_to")
        return super().move_to(target)

    def cancel(self) -> None:
        self._driver.meet("writer.cancel")
        super().cancel()


class Mount:
    """The handlers of a mount, called as the kernel would, on a storage whose calls may hang."""

    def __init__(self, *, is_local: bool) -> None:
        self.driver = BlockingDriver(InMemoryDriver(), is_local=is_local)
        layout = Layout(self.driver)
        for name in "one", "other":
            repository = RepositoryName(name)
            layer = layout.layer(LAYER + name.encode(), repository)
            revision = layout.revision(image(layer, layer), repository)
            layout.tag(revision, Tag("v1"), repository)
        tree = Tree(Registry(BaseDriver(self.driver)), Verification(Verify.NONE), allow_delete=True)
        self.operations = Operations(tree, StorageThreads(inline=is_local), AttributeMapper())

    async def walk(self, path: str) -> pyfuse3.InodeT:
        """The inode at a path."""
        inode = pyfuse3.ROOT_INODE
        for name in path.split("/"):
            entry = await self.operations.lookup(inode, pyfuse3.FileNameT(name.encode()), CTX)
            inode = pyfuse3.InodeT(entry.st_ino)
        return inode

    async def look(self, repository: str) -> None:
        """Ask for everything of a repository."""
        operations = self.operations
        layer = Digest.of(LAYER + repository.encode())
        for path in ("_layers/sha256", "_manifests/tags", "_uploads"):
            directory = await self.walk(f"{repository}/{path}")
            await operations.getattr(directory, CTX)
            await operations.releasedir(await operations.opendir(directory, CTX))
        file = await self.walk(f"{repository}/_layers/sha256/{layer.encoded}")
        opened = await operations.open(file, os.O_RDONLY, CTX)
        assert await operations.read(opened.fh, 0, 100) == LAYER + repository.encode()
        await operations.release(opened.fh)
        await operations.getxattr(file, pyfuse3.XAttrNameT(b"user.blobfs.digest"), CTX)
        await operations.listxattr(file, CTX)
        await operations.readlink(await self.walk(f"{repository}/_manifests/tags/v1"), CTX)
        await operations.statfs(CTX)

    async def change(self, repository: str) -> None:
        """Upload, tag, untag and remove in a repository."""
        operations = self.operations
        uploads = await self.walk(f"{repository}/_uploads")
        for number, name in enumerate((b"layer.tar", b"cancelled")):
            info, _ = await operations.create(uploads, name, 0o644, os.O_WRONLY, CTX)
            await operations.write(info.fh, 0, LARGE[number:] + repository.encode())
            await operations.fsync(info.fh, False)
            if name == b"cancelled":
                await operations.unlink(uploads, name, CTX)
            await operations.flush(info.fh)
            await operations.release(info.fh)
        await operations.rename(uploads, b"layer.tar", uploads, b"layer", 0, CTX)
        await operations.unlink(uploads, b"layer", CTX)
        tags = await self.walk(f"{repository}/_manifests/tags")
        target = await operations.readlink(await self.walk(f"{repository}/_manifests/tags/v1"), CTX)
        await operations.symlink(tags, b"v2", target, CTX)
        await operations.rename(tags, b"v2", tags, b"v3", 0, CTX)
        await operations.unlink(tags, b"v3", CTX)
        root = pyfuse3.ROOT_INODE
        await operations.mkdir(root, f"new-{repository}".encode(), 0o755, CTX)
        await operations.rmdir(root, f"new-{repository}".encode(), CTX)

    async def tell(self) -> None:
        """Ask for what is in memory."""
        directory = await self.walk(".blobfs")
        await self.operations.getattr(directory, CTX)
        await self.operations.opendir(directory, CTX)
        await self.operations.getattr(pyfuse3.ROOT_INODE, CTX)


@pytest.fixture(params=[True, False], ids=["local", "far away"])
def mount(request: pytest.FixtureRequest) -> Iterator[Mount]:
    mount = Mount(is_local=request.param)
    # Were the event loop to wait for a lock, nothing else would end that.
    end = threading.Timer(PATIENCE_S, mount.driver.let_go)
    end.start()
    yield mount
    mount.driver.let_go()
    end.cancel()


@pytest.mark.parametrize("blocked", BLOCKED)
async def test_call_that_hangs_holds_up_nobody_else(mount: Mount, blocked: str) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it."""
    longest_step = LongestStep()
    trio.lowlevel.add_instrument(longest_step)
    await trio.lowlevel.checkpoint()
    longest_step.seconds = 0.0  # it has not seen this step begin
    async with trio.open_nursery() as hanging:
        mount.driver.blocked = blocked
        requests: list[Callable[[str], Awaitable[None]]] = [mount.look, mount.change]
        for request in requests:
            if not mount.driver.hangs.is_set():
                hanging.start_soon(request, "one")
                await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(PATIENCE_S / 2):
            while not mount.driver.hangs.is_set():  # noqa: ASYNC110
                await trio.sleep(0.01)
            for request in requests:
                await request("other")
            await mount.tell()
        mount.driver.let_go()
    assert longest_step.seconds < PATIENCE_S / 2
    await mount.look("one")
