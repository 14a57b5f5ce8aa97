"""A program that uploads without end, and tells on standard output what it was promised.

    python uploadstream.py MOUNT SEED [REPOSITORY...]

Each line is a report: what begins before it does, what is done once a call has said so.
"""

import errno
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

REPOSITORIES: Final = ("team/app", "team/web", "base")

MIB: Final = 2**20

_OCI: Final = "application/vnd.oci.image.manifest.v1+json"


def content_of(seed: int, size: int) -> bytes:
    """What an upload is to hold in the end."""
    return random.Random(seed).randbytes(size)


class Stream:
    """Makes one upload after the other below *mount*; its random numbers say which."""

    def __init__(self, mount: Path, seed: int, repositories: Sequence[str]) -> None:
        self._mount = mount
        self._repositories = repositories
        self._random = random.Random(seed)
        self._seed = seed
        self._count = 0
        self._partial: list[tuple[str, int, int]] = []  # path, seed, size
        self._committed: dict[str, list[str]] = {name: [] for name in repositories}

    def run(self) -> None:
        """Go on until a call fails."""
        for name in self._repositories:
            (self._mount / name).mkdir(parents=True, exist_ok=True)
        steps = [self.whole] * 8 + [self.part] * 3 + [self.rest] * 3 + [self.image] * 3
        steps += [self.again, self.linked, self.removed]
        while True:
            self._random.choice(steps)()

    def whole(self) -> None:
        """An upload from its beginning to its end."""
        path, seed, size = self._planned(declared=self._random.random() < 0.5)
        self._write(path, seed, size, os.O_CREAT | os.O_TRUNC, begin=0, end=size)
        self._report("committed", path=path, seed=seed, size=size)

    def part(self) -> None:
        """The beginning of one, which is refused for want of the rest."""
        path, seed, size = self._planned(declared=True)
        with _refused():
            end = self._random.randrange(1, size)
            self._write(path, seed, size, os.O_CREAT | os.O_TRUNC, begin=0, end=end)
        self._partial.append((path, seed, size))

    def rest(self) -> None:
        """The rest of one that has begun."""
        for path, seed, size in self._taken():
            begin = (self._mount / path).stat().st_size
            self._write(path, seed, size, os.O_APPEND, begin=begin, end=size)
            self._report("committed", path=path, seed=seed, size=size)

    def again(self) -> None:
        """One that has begun, from its beginning."""
        for path, seed, size in self._taken():
            self._write(path, seed, size, os.O_TRUNC, begin=0, end=size)
            self._report("committed", path=path, seed=seed, size=size)

    def removed(self) -> None:
        """One that has begun, given up."""
        for path, _, _ in self._taken():
            self._report("removes", path=path)
            (self._mount / path).unlink()

    def linked(self) -> None:
        """A layer of one repository in another."""
        source, target = self._random.sample(self._repositories, 2)
        for digest in self._some(source):
            if digest not in self._committed[target]:
                layer = f"_layers/sha256/{digest[7:]}"
                os.link(self._mount / source / layer, self._mount / target / layer)
                self._committed[target].append(digest)
                self._report("linked", repository=target, digest=digest)

    def image(self) -> None:
        """A manifest, with a tag that may have stood for another."""
        repository = self._random.choice(self._repositories)
        for digest in self._some(repository):
            descriptor = {"mediaType": "application/x-part", "digest": digest, "size": 1}
            document = {"schemaVersion": 2, "mediaType": _OCI, "config": descriptor, "layers": []}
            content = json.dumps(document | {"annotations": {"n": str(self._next())}}).encode()
            tag = f"v{self._random.randrange(3)}"
            revision = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self._report("tags", repository=repository, tag=tag, digest=revision)
            (self._mount / repository / "_manifests/_uploads" / tag).write_bytes(content)
            self._report("tagged", repository=repository, tag=tag, digest=revision)

    def _planned(self, *, declared: bool) -> tuple[str, int, int]:
        seed = self._next()
        small = self._random.random() < 0.7
        size = (
            self._random.randrange(2, MIB // 3) if small else self._random.randrange(MIB, 3 * MIB)
        )
        digest = f"sha256:{hashlib.sha256(content_of(seed, size)).hexdigest()}"
        repository = self._random.choice(self._repositories)
        return f"{repository}/_uploads/{digest if declared else seed}", seed, size

    def _write(self, path: str, seed: int, size: int, flags: int, *, begin: int, end: int) -> None:
        """Write a part of what it is to hold in the end, and close it."""
        self._report("begins", path=path, seed=seed, size=size, restarts=begin == 0)
        content = content_of(seed, size)[:end]
        synced = self._random.randrange(begin, end) if self._random.random() < 0.4 else None
        fd = os.open(self._mount / path, os.O_WRONLY | flags)
        try:
            while begin < end:
                begin += os.write(fd, content[begin : begin + self._random.randrange(1, 2 * MIB)])
                if synced is not None and begin > synced:
                    os.fsync(fd)
                    self._report("synced", path=path, size=begin)
                    synced = None
        finally:
            os.close(fd)
        if end == size:
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self._committed[path.rpartition("/_uploads/")[0]].append(digest)

    def _taken(self) -> Iterator[tuple[str, int, int]]:
        """One of those that have begun, if there is any."""
        if self._partial:
            yield self._partial.pop(self._random.randrange(len(self._partial)))

    def _some(self, repository: str) -> list[str]:
        return self._random.sample(self._committed[repository], bool(self._committed[repository]))

    def _next(self) -> int:
        self._count += 1
        return self._seed * 1_000_000 + self._count

    def _report(self, what: str, **details: object) -> None:
        os.write(sys.stdout.fileno(), json.dumps({"what": what, **details}).encode() + b"\n")


@contextmanager
def _refused() -> Iterator[None]:
    """What is closed inside is not what was declared."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.EBADMSG:
            raise
    else:
        raise AssertionError("a part was taken for the whole")


if __name__ == "__main__":
    Stream(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or REPOSITORIES).run()
