"""The images tests push: OCI layouts made by the real umoci and debootstrap.

They are kept between runs in $BLOBFS_TEST_CACHE (~/.cache/blobfs-tests by default), each under a
name that changes with the function that builds it. That directory may be removed at any time.
"""

import fcntl
import hashlib
import inspect
import json
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.support.services import run

log = logging.getLogger(__name__)

_CREATED: Final = "2024-02-29T12:00:00Z"
_CREATED_NS: Final = 1_709_208_000 * 10**9


def small() -> Path:
    """Tags v1 and v2: the same three layers, of 4 KiB to 1 MiB, with two configs. 0.2 s.

    Its digests do not depend on who builds it, or when.
    """
    return _kept(_build_small)


def multi() -> Path:
    """Tag latest: an index of two images, for linux/amd64 and for linux/arm64. 0.1 s."""
    return _kept(_build_multi)


def large() -> Path:
    """Tag v1: one layer of 24 MB, which nothing compresses. 1 s."""
    return _kept(_build_large)


def debian() -> Path:
    """Tag bookworm: Debian 12 by debootstrap, and a layer that changes it. Root; 100 MB, 40 s."""
    return _kept(_build_debian)


def _build_small(layout: Path, scratch: Path) -> None:
    image = _Image.new(layout, "v1", scratch)
    image.add_layer(
        {"etc/os-release": b"ID=small\n", "etc/motd": random.Random(1).randbytes(4_000)}
    )
    image.add_layer({"usr/lib/libapp.so": random.Random(2).randbytes(2**20)})
    image.add_layer({"usr/bin/app": random.Random(3).randbytes(20_000) * 4, "srv/empty": b""})
    _configure(image.reference, "--tag", "v2", "--config.env", "VERSION=2")
    _umoci("gc", "--layout", layout)


def _build_multi(layout: Path, scratch: Path) -> None:
    for architecture in ("amd64", "arm64"):
        image = _Image.new(layout, architecture, scratch)
        image.add_layer({"etc/os-release": b"ID=multi\n"})
        image.add_layer({"usr/bin/app": architecture.encode() + random.Random(4).randbytes(5_000)})
        # Last: a bundle's next layer forgets what was configured since it was unpacked.
        _configure(image.reference, "--architecture", architecture)
    _umoci("gc", "--layout", layout)
    _compose_index(layout, "latest")


def _build_large(layout: Path, scratch: Path) -> None:
    image = _Image.new(layout, "v1", scratch)
    image.add_layer({"srv/data": random.Random(6).randbytes(24 * 10**6)})
    _umoci("gc", "--layout", layout)


def _build_debian(layout: Path, scratch: Path) -> None:
    image = _Image.new(layout, "bookworm", scratch)
    # Its own namespaces end its processes and mounts with it. The copies of other tests' mounts
    # go at once: they would keep the daemons of those alive.
    leave = 'umount --all --lazy --types fuse.blobfs; exec "$@"'
    unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", leave, "sh")
    debootstrap = ("debootstrap", "--variant=minbase", "bookworm", image.root, _mirror("bookworm"))
    run(*unshare, *debootstrap, timeout_s=1800)
    image.commit_layer()
    for package in (image.root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    shutil.rmtree(image.root / "usr/share/doc")
    (image.root / "etc/motd").write_text("A changed file.\n")
    (image.root / "srv/data").write_bytes(random.Random(5).randbytes(8 * 2**20))
    image.commit_layer()
    _umoci("gc", "--layout", layout)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that grows in an OCI layout; its next layer is what changed below *root*."""

    reference: str  # as umoci takes it: layout:tag
    bundle: Path

    @classmethod
    def new(cls, layout: Path, tag: str, scratch: Path) -> Self:
        """A new image without layers, in a layout that is made for the first one."""
        image = cls(f"{layout}:{tag}", scratch / tag)
        if not layout.exists():
            _umoci("init", "--layout", layout)
        _umoci("new", "--image", image.reference)
        _configure(image.reference)
        # Without root, files are still to belong to root in the image.
        rootless = () if os.geteuid() == 0 else ("--rootless",)
        _umoci("unpack", *rootless, "--image", image.reference, image.bundle)
        return image

    @property
    def root(self) -> Path:
        return self.bundle / "rootfs"

    def add_layer(self, files: Mapping[str, bytes]) -> None:
        """Commit a layer of *files*, with the same modes and times whenever it is done."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for path in (self.root, *self.root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, ns=(_CREATED_NS, _CREATED_NS))
        self.commit_layer()

    def commit_layer(self) -> None:
        # Not "umoci insert": 0.4.7 leaves out the end of its tar archive.
        arguments = ("--refresh-bundle", "--history.created", _CREATED)
        _umoci("repack", *arguments, "--image", self.reference, self.bundle)


def _compose_index(layout: Path, tag: str) -> None:
    """Put an index of a layout's images, whose tags are architectures, in their place."""
    path = layout / "index.json"
    index = json.loads(path.read_bytes())
    for image in index["manifests"]:
        architecture = image.pop("annotations")["org.opencontainers.image.ref.name"]
        image["platform"] = {"architecture": architecture, "os": "linux"}
    index["mediaType"] = "application/vnd.oci.image.index.v1+json"
    content = json.dumps(index).encode()
    encoded = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / encoded).write_bytes(content)
    index["manifests"] = [
        {
            "mediaType": index["mediaType"],
            "digest": f"sha256:{encoded}",
            "size": len(content),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
    ]
    path.write_text(json.dumps(index))


def _configure(reference: str, *options: str) -> None:
    _umoci("config", "--image", reference, "--created", _CREATED, "--no-history", *options)


def _umoci(verb: str, *arguments: str | Path) -> None:
    run("umoci", verb, *arguments)


def _mirror(release: str) -> str:
    """Where this machine takes *release* from, by apt's own reading of its sources."""
    filters = ("Created-By: Packages", f"Release: {release}", "Component: main")
    targets = run(
        "apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", *filters
    )
    urls = [url for url in targets.decode().split() if url.startswith(("http", "file:"))]
    return urls[0] if urls else "http://deb.debian.org/debian"


def _kept(build: Callable[[Path, Path], None]) -> Path:
    """The layout *build* makes, from an earlier run or made now; one process builds at a time."""
    recipe = hashlib.sha256(inspect.getsource(build).encode()).hexdigest()[:12]
    name = build.__name__.removeprefix("_build_")
    cache = _cache()
    layout = cache / f"{name}-{recipe}"
    if layout.exists():
        return layout
    with _locked(cache):
        for leftover in cache.glob("building-*"):  # of a run that was killed
            shutil.rmtree(leftover)
        if not layout.exists():
            _build(build, layout)
    return layout


def _build(build: Callable[[Path, Path], None], layout: Path) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="building-", dir=layout.parent) as directory:
        scratch = Path(directory)
        build(scratch / "layout", scratch)
        (scratch / "layout").rename(layout)
    log.info("built %s in %.1f s", layout, time.monotonic() - started)


def _cache() -> Path:
    cache = Path(os.environ.get("BLOBFS_TEST_CACHE") or "~/.cache/blobfs-tests").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    return cache.resolve()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
