"""Neither way of opening files leaves the directory it was given."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.drivers import openat2 as beneath
from blobfs.drivers.openat2 import Opener

each_opener = pytest.mark.parametrize(
    "open_below", [beneath.openat2, beneath.open_by_component], ids=["openat2", "by component"]
)
each_flag = pytest.mark.parametrize(
    "flags",
    [os.O_RDONLY, os.O_WRONLY, os.O_PATH, os.O_WRONLY | os.O_CREAT | os.O_TRUNC],
    ids=["read", "write", "path", "create"],
)

OUTWARD = {
    "absolute": "{outside}/secret",
    "relative": "../outside/secret",
    "out and in again": "../inside/file",
    "absolute but inside": "{inside}/file",
    "dangling": "../outside/nothing",
    "itself": "link",
    "the directory above": "..",
    "through a middle directory": "middle/secret",
    "through another link": "other",
}


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    inside = tmp_path / "inside"
    (inside / "d").mkdir(parents=True)
    (inside / "d/file").write_bytes(b"file")
    (inside / "file").write_bytes(b"file")
    (inside / "middle").symlink_to("../outside")
    (inside / "other").symlink_to("../outside/secret")
    return inside


@pytest.fixture
def directory(inside: Path) -> Iterator[int]:
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _read(open_below: Opener, directory: int, path: str) -> bytes:
    with open(open_below(directory, path, os.O_RDONLY, 0), "rb") as file:
        return file.read()


def test_openat2_is_what_this_kernel_allows(directory: int) -> None:
    assert beneath.opener(directory) is beneath.openat2


@each_opener
@pytest.mark.parametrize("path", ["file", "d/file", "./file", "d/./file"])
def test_files_below_are_opened(directory: int, open_below: Opener, path: str) -> None:
    assert _read(open_below, directory, path) == b"file"


@each_opener
def test_directory_itself_is_opened(directory: int, open_below: Opener) -> None:
    fd = open_below(directory, ".", os.O_PATH, 0)
    same = os.path.sameopenfile(fd, directory)
    os.close(fd)
    assert same


@each_opener
def test_descriptor_is_not_left_to_children(directory: int, open_below: Opener) -> None:
    fd = open_below(directory, "file", os.O_RDONLY, 0)
    inheritable = os.get_inheritable(fd)
    os.close(fd)
    assert not inheritable


@each_opener
def test_created_file_has_the_mode_asked_for(
    directory: int, inside: Path, open_below: Opener
) -> None:
    os.close(open_below(directory, "new", os.O_WRONLY | os.O_CREAT, 0o640))
    assert (inside / "new").stat().st_mode & 0o777 == 0o640


@each_opener
@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("nothing", errno.ENOENT),
        ("nothing/at/all", errno.ENOENT),
        ("file/below", errno.ENOTDIR),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
    ids=["missing", "far missing", "below a file", "too long"],
)
def test_failure_is_told_as_the_kernel_tells_it(
    directory: int, open_below: Opener, path: str, number: int
) -> None:
    with pytest.raises(OSError, match=r"nothing|file|nnn") as caught:
        open_below(directory, path, os.O_RDONLY, 0)
    assert caught.value.errno == number


@each_opener
@pytest.mark.parametrize("path", ["..", "../outside/secret", "d/../../outside/secret", "d/../.."])
def test_path_that_climbs_out_is_refused(directory: int, open_below: Opener, path: str) -> None:
    with pytest.raises(OSError, match=r"\.\.") as caught:
        open_below(directory, path, os.O_PATH, 0)
    assert caught.value.errno == errno.EXDEV


@each_flag
@each_opener
@pytest.mark.parametrize("target", OUTWARD.values(), ids=OUTWARD.keys())
def test_symlink_that_leads_out_is_refused(
    directory: int, inside: Path, open_below: Opener, target: str, flags: int
) -> None:
    (inside / "link").symlink_to(target.format(inside=inside, outside=inside.parent / "outside"))
    with pytest.raises(OSError, match="link") as caught:
        open_below(directory, "link", flags, 0o600 if flags & os.O_CREAT else 0)
    assert caught.value.errno in {errno.EXDEV, errno.ELOOP}


@each_flag
@each_opener
@pytest.mark.parametrize("name", ["secret", "nothing"])
def test_directory_that_is_a_symlink_out_is_refused(
    directory: int, inside: Path, open_below: Opener, name: str, flags: int
) -> None:
    with pytest.raises(OSError, match="middle"):
        open_below(directory, f"middle/{name}", flags, 0o600 if flags & os.O_CREAT else 0)
    assert [path.name for path in (inside.parent / "outside").iterdir()] == ["secret"]


@each_opener
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH], ids=["read", "path"])
@pytest.mark.parametrize("path", ["link", "links/file"])
def test_symlink_that_stays_inside_is_refused_too(
    directory: int, inside: Path, open_below: Opener, path: str, flags: int
) -> None:
    (inside / "link").symlink_to("file")
    (inside / "links").symlink_to("d")
    with pytest.raises(OSError, match="link") as caught:
        open_below(directory, path, flags, 0)
    assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}


@pytest.mark.usefixtures("no_descriptor_left_open")
@each_opener
def test_failing_leaves_no_descriptor_open(
    directory: int, inside: Path, open_below: Opener
) -> None:
    (inside / "link").symlink_to("nowhere")
    for path in ("nothing", "d/nothing", "file/below", "link", "middle/secret", "..", "d/../.."):
        with pytest.raises(OSError, match="Errno"):
            open_below(directory, path, os.O_PATH, 0)
