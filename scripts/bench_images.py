"""Times root filesystems of images, beside zcat, umoci and archivemount.

Everything is measured in one run on one machine, all sides in turn; the table gives medians and
their ratio. "processor" rows have the seconds of processor time of all programs, with the daemon.
Needs root (to drop caches, and for umoci), 10 GiB of disk, 1.2 GiB in /usr and about twenty
minutes:

    .venv/bin/python scripts/bench_images.py [--runs 5] [--work DIRECTORY]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import Row, drop, mounted, processes, resident_mib, run_parts
from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName, Tag

NAME: Final = RepositoryName("bench/image")
SOURCE: Final = Path("/usr")
LAYERS: Final = 4
LAYER_SIZE: Final = 256 * 2**20
LARGE: Final = 500 * 10**6
MIB: Final = 2**20

_OCI: Final = "application/vnd.oci.image"


class Storage:
    """A registry with two images from the files of ``/usr``, also as an OCI layout for umoci.

    ``tree`` has 1 GiB of files in four layers; ``large`` has one file of 500 MB.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "storage"
        self.layout = root / "layout"
        if root.exists():
            return
        (self.layout / "blobs/sha256").mkdir(parents=True)
        (self.layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        files = _files()
        parts = [_part(files, LAYER_SIZE) for _ in range(LAYERS)]
        self._add("tree", [self._layer(root, part) for part in parts])
        large = root / "large"
        _join(parts[-1], large)
        self._add("large", [self._layer(root, [large])])

    def layers(self, tag: str) -> list[Path]:
        """Return the files of the compressed layers of an image."""
        index = json.loads((self.layout / "index.json").read_text())
        [manifest] = [each for each in index["manifests"] if tag in each["annotations"].values()]
        document = json.loads(self._blob(manifest["digest"]).read_text())
        return [self._blob(layer["digest"]) for layer in document["layers"]]

    def _blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")

    def _layer(self, root: Path, files: Sequence[Path]) -> tuple[Path, str]:
        """Write a layer of *files*; returns its file and its diff ID."""
        names = root / "names"
        names.write_bytes(b"\0".join(os.fsencode(file)[1:] for file in files))
        packed = root / "layer.tar.gz"
        tar = ["tar", "-C", "/", "-c", "--null", "--no-recursion", "-T", str(names)]
        hasher = hashlib.sha256()
        with (
            packed.open("wb") as output,
            subprocess.Popen(tar, stdout=subprocess.PIPE) as archive,
            subprocess.Popen(["gzip", "-6"], stdin=subprocess.PIPE, stdout=output) as compressor,
        ):
            assert archive.stdout is not None
            assert compressor.stdin is not None
            while chunk := archive.stdout.read(MIB):
                hasher.update(chunk)
                compressor.stdin.write(chunk)
        return self._store(packed), f"sha256:{hasher.hexdigest()}"

    def _add(self, tag: str, layers: Sequence[tuple[Path, str]]) -> None:
        config = {
            "os": "linux",
            "architecture": "amd64",
            "created": "2024-02-29T12:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _described("config.v1+json", self._document(config)),
            "layers": [_described("layer.v1.tar+gzip", blob) for blob, _ in layers],
        }
        blob = self._document(manifest)
        index = self.layout / "index.json"
        tags = json.loads(index.read_text())["manifests"] if index.exists() else []
        annotation = {"annotations": {"org.opencontainers.image.ref.name": tag}}
        tags.append(_described("manifest.v1+json", blob) | annotation)
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": tags}))
        digest = Digest("sha256", blob.name)
        self._put(paths.link(paths.revisions(NAME), digest), digest)
        self._put(paths.link(paths.tag_index(NAME, Tag(tag)), digest), digest)
        self._put(paths.tag_current_link(NAME, Tag(tag)), digest)

    def _document(self, document: object) -> Path:
        file = self.layout / "document"
        file.write_text(json.dumps(document))
        return self._store(file)

    def _store(self, file: Path) -> Path:
        """Move a blob into the layout, and link it into the registry."""
        with file.open("rb") as content:
            digest = Digest.of_chunks(iter(lambda: content.read(MIB), b""))
        blob = self._blob(str(digest))
        file.replace(blob)
        data = Path(f"{self.root}{paths.blob_data(digest)}")
        data.parent.mkdir(parents=True, exist_ok=True)
        data.hardlink_to(blob)
        self._put(paths.link(paths.layers(NAME), digest), digest)
        return blob

    def _put(self, path: str, digest: Digest) -> None:
        file = Path(f"{self.root}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(digest))


def _described(kind: str, blob: Path) -> dict[str, object]:
    digest, size = f"sha256:{blob.name}", blob.stat().st_size
    return {"mediaType": f"{_OCI}.{kind}", "digest": digest, "size": size}


def _files() -> Iterator[Path]:
    """Yield the files and directories of SOURCE, each directory before its files."""
    for directory, subdirectories, names in os.walk(SOURCE):
        subdirectories.sort()
        yield Path(directory)
        yield from (Path(directory, name) for name in sorted(names))


def _part(files: Iterator[Path], size: int) -> list[Path]:
    """Take files of *size* bytes."""
    part = []
    while size > 0:
        part.append(next(files))
        size -= part[-1].lstat().st_size
    return part


def _join(files: Sequence[Path], target: Path) -> None:
    with target.open("wb") as output:
        while output.tell() < LARGE:
            for file in files:
                if file.is_file() and not file.is_symlink():
                    output.write(file.read_bytes())
        output.truncate(LARGE)


class Mount:
    """A mount of *storage* with a directory of indexes of its own, below *work*."""

    def __init__(self, storage: Storage, work: Path) -> None:
        self.index = work / "index"
        self.path = work / "mnt"
        self._storage = storage

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Mount without an index."""
        shutil.rmtree(self.index, ignore_errors=True)
        with self.again() as images:
            yield images

    @contextmanager
    def again(self) -> Iterator[Path]:
        """Mount; yields the directory of the images."""
        drop(3)
        options = ("--index-dir", str(self.index), "--log-file", str(self.path) + ".log")
        with mounted(self._storage.root, self.path, *options) as mount:
            yield mount / NAME / "_images"
        self.path.rmdir()


@contextmanager
def unpacked(storage: Storage, tag: str, bundle: Path) -> Iterator[Path]:
    """Unpack an image with umoci."""
    run("umoci", "unpack", "--image", f"{storage.layout}:{tag}", bundle)
    try:
        yield bundle / "rootfs"
    finally:
        shutil.rmtree(bundle)


Cost = tuple[float, float]
"""Seconds, and seconds of processor time of all processes."""


def run(*words: object) -> None:
    subprocess.run(
        [str(word) for word in words], check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def cost(action: Callable[[], object], mount: Path | None = None) -> Cost:
    """Return the cost of *action*, with that of the processes of *mount*."""
    before, began = _processor(mount), time.perf_counter()
    action()
    return time.perf_counter() - began, _processor(mount) - before


def _processor(mount: Path | None) -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    for process in () if mount is None else processes(_root(mount)):
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _root(mount: Path) -> Path:
    return next(each for each in (mount, *mount.parents) if each.is_mount())


def _control(mount: Path, name: str) -> str:
    return (_root(mount) / ".blobfs" / name).read_text()


def rows(
    runs: int, what: str, sides: Mapping[str, Callable[[], Cost]], bars: Sequence[float]
) -> Iterator[Row]:
    """Measure all *sides* in turn; yields a row for each but the first, which is ours."""
    rounds = [[side() for side in sides.values()] for _ in range(runs)]
    ours, *peers = zip(*rounds, strict=True)
    for name, peer, bar in zip(list(sides)[1:], peers, bars, strict=True):
        wall, processor = zip(*ours, strict=True), zip(*peer, strict=True)
        for unit, mine, theirs in zip(("", ", processor"), wall, processor, strict=True):
            yield Row(what + unit, list(mine), list(theirs), name, 0 if unit else bar)


def storage_beside(work: Path) -> Storage:
    """Return the storage that all parts of a run share."""
    return Storage(work.parent / "images")


def listing(work: Path, runs: int) -> Iterator[Row]:
    """``ls -lR``: for the first time, and after a remount."""
    storage = storage_beside(work)
    mount = Mount(storage, work)

    def first() -> Cost:
        with mount.fresh() as images:
            return cost(lambda: run("ls", "-lR", images / "tree/rootfs"), images)

    def list_layers() -> Cost:
        drop(3)
        layers = " ".join(map(str, storage.layers("tree")))
        return cost(lambda: run("sh", "-c", f"for l in {layers}; do zcat <$l | tar t; done"))

    def unpack() -> Cost:
        def action() -> None:
            with unpacked(storage, "tree", work / "bundle") as root:
                run("ls", "-lR", root)

        drop(3)
        return cost(action)

    sides = {"": first, "zcat | tar t of its layers": list_layers, "umoci unpack, ls -lR": unpack}
    yield from rows(runs, "first ls -lR of an image of 1 GiB", sides, (1.0, 1.0))

    compressed = sum(layer.stat().st_size for layer in storage.layers("tree"))
    stored = sum(file.stat().st_size for file in mount.index.rglob("*") if file.is_file())
    yield Row("MiB of its index", [stored / MIB], [compressed * 0.03 / MIB], "3 % of layers", 1.0)

    again, entries = [], 0
    for _ in range(runs):
        with mount.again() as images:
            again.append(cost(lambda: run("ls", "-lR", images / "tree/rootfs"), images))
            entries = sum(1 for _ in (images / "tree/rootfs").rglob("*"))
            assert not _layer_work(images)
    asked = [0.5 * entries / 10_000]
    what = f"ls -lR of {entries:,} entries after a remount"
    wall, processor = ([each[side] for each in again] for side in (0, 1))
    yield Row(what, wall, asked, "0.5 s for 10,000", 1.0)
    yield Row(f"{what}, processor", processor, asked, "0.5 s for 10,000", 0)


def _layer_work(mount: Path) -> float:
    """Return what the metrics of a mount say of the reading of layers; 0 for none."""
    lines = _control(mount, "metrics").splitlines()
    names = ("blobfs_image_index_read_bytes_total ", "blobfs_image_spans_decompressed_total ")
    return sum(float(line.split()[1]) for line in lines if line.startswith(names))


def _read_bytes(mount: Path) -> int:
    """Return the number of bytes that the daemon has read of all its files."""
    lines = (processes(_root(mount))[0] / "io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar: "))


def reading(work: Path, runs: int) -> Iterator[Row]:
    """A file at a random place, and a large file from its start to its end."""
    storage = storage_beside(work)
    mount = Mount(storage, work)
    with mount.fresh() as images:
        root = images / "tree/rootfs"
        run("ls", images / "large/rootfs")
        files = [file for file in root.rglob("*") if _is_middling(file)]
        cats, fetched = [], []
        for file in random.Random(1).sample(files, min(len(files), 10 * runs)):
            drop(3)
            before = _read_bytes(images)
            cats.append(cost(partial(run, "cat", file), images)[0])
            fetched.append((_read_bytes(images) - before) / MIB)
        yield Row("cat of a file of 1 MB, cold", cats, [0.1], "100 ms", 1.0)
        yield Row("MiB that it reads at most", [max(fetched)], [12], "12 MiB", 1.0)
        yield from _beside_archivemount(storage, work, root, runs)

        [layer] = storage.layers("large")
        [file] = (each for each in (images / "large/rootfs").rglob("large"))

        def ours() -> Cost:
            drop(3)
            return cost(lambda: run("cat", file), images)

        def zcat() -> Cost:
            drop(3)
            return cost(lambda: run("sh", "-c", f"zcat <{layer} >/dev/null"))

        sides = {"": ours, "zcat of its layer": zcat}
        yield from rows(runs, "cat of a file of 500 MB", sides, (0.7,))


def _beside_archivemount(storage: Storage, work: Path, root: Path, runs: int) -> Iterator[Row]:
    layer = storage.layers("tree")[0]
    with archivemounted(layer, work / "archivemount") as peer:
        [file, *_] = (file for file in peer.rglob("*") if _is_middling(file))

        def cat(at: Path) -> Cost:
            drop(3)
            return cost(lambda: run("cat", at / file.relative_to(peer)))

        sides = {"": partial(cat, root), "archivemount of its layer": partial(cat, peer)}
        yield from rows(runs, "cat of the first such file, cold", sides, (0,))


@contextmanager
def archivemounted(archive: Path, at: Path) -> Iterator[Path]:
    """Mount a layer alone with archivemount."""
    at.mkdir()
    run("archivemount", "-o", "readonly", archive, at)
    try:
        yield at
    finally:
        run("umount", at)


def _is_middling(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and 0.8 * MIB < file.stat().st_size < 1.2 * MIB


def searching(work: Path, runs: int) -> Iterator[Row]:
    """``grep -r`` over all files, the index made before."""
    storage = storage_beside(work)
    mount = Mount(storage, work)
    with mount.fresh() as images:
        idle = resident_mib(mount.path)
        run("ls", images / "tree/rootfs")

        def ours() -> Cost:
            drop(3)
            return cost(lambda: _grep(images / "tree/rootfs"), images)

        def unpack() -> Cost:
            def action() -> None:
                with unpacked(storage, "tree", work / "bundle") as root:
                    _grep(root)

            drop(3)
            return cost(action)

        sides = {"": ours, "umoci unpack, grep -r": unpack}
        yield from rows(runs, "grep -r over 1 GiB", sides, (1 / 1.5,))
        held = resident_mib(mount.path, "VmHWM") - idle
        yield Row("MiB of memory at most, over those before", [held], [128.0], "128 MiB", 1.0)


def _grep(root: Path) -> None:
    words = ["grep", "-rc", "no such text", str(root)]
    subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def umoci_version() -> str:
    shown = subprocess.run(["umoci", "--version"], capture_output=True, text=True, check=True)
    return shown.stdout.strip()


if __name__ == "__main__":
    run_parts(__doc__, (listing, reading, searching), umoci_version())
