"""Random sequences of layers over few names: the tree is that of ``umoci unpack``."""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobfs.images.tar import read_members
from blobfs.images.tree import NODES, Merge
from tests.support import layers
from tests.support.image_trees import differences, merged, tree_of, unpacked
from tests.support.layers import LayerImages, MemorySource, archive

pytestmark = [
    pytest.mark.registry,
    pytest.mark.usefixtures("as_root"),
]

Layers = list[list[bytes]]

names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
anywhere = st.one_of(
    paths,
    st.lists(st.sampled_from([b"a", b"b", b"..", b"."]), min_size=1, max_size=4).map(b"/".join),
    paths.map(lambda path: b"/" + path),
)
times = st.integers(-(10**18), 17 * 10**17)
small = st.integers(0, 3)
modes = st.sampled_from([0o644, 0o755, 0o4711, 0o2775, 0o1777, 0])
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.b", b"trusted.c"]), st.just(b"1"), max_size=2
)

# A hard link to itself is refused by umoci; these are no names of their targets.
link_paths = st.tuples(st.lists(names, max_size=2), st.sampled_from([b"h", b"i"]))

members = st.one_of(
    st.builds(
        lambda path, content, mode, uid, mtime, found: layers.member(
            path, b"x" * content, mode=mode, uid=uid, mtime_ns=mtime, xattrs=found
        ),
        anywhere, small, modes, small, times, xattrs,
    ),
    st.builds(
        lambda path, mode, gid, mtime, found: layers.directory(
            path, mode, gid=gid, mtime_ns=mtime, xattrs=found
        ),
        anywhere, modes, small, times, xattrs,
    ),
    st.builds(layers.symlink, paths, anywhere),
    st.builds(
        lambda path, target: layers.hardlink(b"/".join([*path[0], path[1]]), target),
        link_paths, anywhere,
    ),
    st.builds(lambda path: layers.member(path, kind=b"6"), paths),
    st.builds(layers.whiteout, st.one_of(paths, st.sampled_from([b"h", b"a/h", b"b/i"]))),
    st.builds(layers.opaque, st.one_of(paths, st.just(b""))),
)  # fmt: skip

images = st.lists(st.lists(members, max_size=8), min_size=1, max_size=5)


class _Bad(Exception):
    """A member that umoci refuses."""


def _checked(layer: Sequence[bytes], check: Callable[[], bool]) -> Iterator[object]:
    for index, block in enumerate(layer):
        yield from read_members(MemorySource(archive(block)))
        if not check():
            raise _Bad(index)


def _first_bad(content: Layers) -> tuple[int, int] | None:
    """The layer and the place in it of the first member that is left out, or has a fault."""
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.executescript(NODES)
        merge = Merge(db, 0)

        def is_good() -> bool:
            faults = db.execute("SELECT COUNT(*) FROM node WHERE fault IS NOT NULL").fetchone()[0]
            return not faults and not merge.unplaced

        for number, layer in enumerate(content):
            try:
                merge.add_layer(number, _checked(layer, is_good))  # type: ignore[arg-type]
            except _Bad as exc:
                return number, exc.args[0]
    return None


def _check(content: Layers) -> None:
    """Compare the image, without its bad members; and with the first of them, umoci refuses it."""
    first_bad = None
    while (bad := _first_bad(content)) is not None:
        number, index = bad
        if first_bad is None:
            first_bad = [*content[:number], content[number][: index + 1]]
        content = [
            layer[:index] + layer[index + 1 :] if each == number else layer
            for each, layer in enumerate(content)
        ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        layout = LayerImages(directory / "layout")
        archives = [archive(*layer) for layer in content]
        layout.add("good", *archives)
        theirs, failure = unpacked(layout, "good", directory / "good")
        assert failure == ""
        with merged(archives, directory / "tree") as rootfs:
            assert differences(tree_of(rootfs), theirs) == []
        if first_bad is not None:
            layout.add("bad", *(archive(*layer) for layer in first_bad))
            assert unpacked(layout, "bad", directory / "bad")[1] != ""


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(content=images)
def test_tree_of_random_layers_is_that_of_umoci(content: Layers) -> None:
    _check(content)


@pytest.mark.long
@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(content=images)
def test_tree_of_many_random_layers_is_that_of_umoci(content: Layers) -> None:
    _check(content)
