"""Copies that are killed, and sources that change while they are copied."""

import os
import signal
import subprocess
import sys

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import Tag
from tests.support.command import invoke
from tests.support.copies import Copies, Noted, completed, counts, events
from tests.support.layout import APP


def _stock(copies: Copies, images: int = 20) -> None:
    """Images that share a layer, and an index of them all."""
    children = [
        copies.put_image(f"v{n}", b"config %d" % n, b"shared", b"layer %d" % n)
        for n in range(images)
    ]
    copies.put_index("multi", *children)


def _command(copies: Copies) -> list[str]:
    """The command line of a copy that prints its events."""
    return [sys.executable, "-m", "blobfs", "cp", str(copies.source), str(copies.target),
            "--json", "--state-dir", str(copies.state), "--jobs", "1"]  # fmt: skip


def _killed_after(copies: Copies, lines: int) -> None:
    """Start a copy, and kill it after so many events."""
    with subprocess.Popen(_command(copies), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.kill()


def test_an_interrupt_says_how_to_go_on(copies: Copies) -> None:
    """Ctrl-C ends a copy within a moment, with one line."""
    copies.put_image("v1", b"config", *(os.urandom(4 * 2**20) for _ in range(4)))
    command = [*_command(copies), "--bwlimit", "8M"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.decode() == "Error: stopped; run the same command again to go on\n"
    assert copies.has_journal()
    assert copies.cp().exit_code == 0


@pytest.mark.parametrize("lines", [0, 33, 64])
def test_a_killed_copy_leaves_whole_images_and_goes_on(copies: Copies, lines: int) -> None:
    """[S22.2] So no reader of the target sees an incomplete image, also after a kill at any moment

    [S22.5] A copy that was stopped or killed goes on if the same command is given again
    """
    _stock(copies)
    _killed_after(copies, lines)
    before = copies.files(copies.target) if copies.target.exists() else {}
    if before:
        assert invoke("verify", "--content", copies.target).exit_code == 0
    inodes = {path: path.stat().st_ino for path in copies.target.rglob("data")}
    result = copies.cp("--json")
    assert result.exit_code == 0
    assert copies.files(copies.target) == copies.files(copies.source)
    assert {path: path.stat().st_ino for path in inodes} == inodes
    sent = [event["name"] for event in events(result, "blob") if event["result"] == "sent"]
    assert not [digest for digest in sent if f"/{digest[7:]}/" in " ".join(before)]
    assert not copies.has_journal()


def test_a_stopped_copy_also_copies_what_has_changed_since(copies: Copies) -> None:
    """[S22.5] Then it copies what has changed since that plan"""
    copies.put_image("bad", b"config", b"layer")
    copies.blob(copies.source, Digest.of(b"layer")).unlink()
    assert copies.cp("--fail-fast").exit_code == 1
    assert copies.has_journal()
    copies.put_image("good", b"config", b"another")
    result = copies.cp()
    assert result.exit_code == 1
    assert result.stderr.count("left out: team/app:bad") == 1
    assert set(copies.tags()) == {"team/app:good"}
    assert not copies.has_journal()


def test_a_stopped_copy_can_begin_anew(copies: Copies) -> None:
    """[S22.5] With `--restart` it makes a new plan at once, as a copy that has ended does"""
    copies.put_image("bad", b"config", b"layer")
    copies.blob(copies.source, Digest.of(b"layer")).unlink()
    assert copies.cp("--fail-fast").exit_code == 1
    copies.layout.blob(b"layer")
    summary = counts(copies.cp("--restart", "--json"))
    assert [summary[kind]["there"] for kind in summary] == [1, 0, 0]
    assert [summary[kind]["sent"] for kind in summary] == [1, 1, 1]


def test_what_changes_after_the_plan_is_looked_at_again(copies: Copies) -> None:
    """[S22.6] If a part of it vanishes meanwhile, its repository is looked at a second time

    [S22.6] A tag or a manifest without a tag that was removed meanwhile is left out
    """
    moved = copies.put_image("moved", b"config", b"old")
    copies.put_image("removed", b"config", b"removed")
    copies.put_image("kept", b"config", b"kept")
    with copies.opened() as copy:
        new = copies.put_image("moved", b"config", b"new")
        for content in (b"old", b"removed"):
            copies.blob(copies.source, Digest.of(content)).unlink()
        copies.blob(copies.source, moved).unlink()
        copies.layout.driver.delete(paths.tag(APP, Tag("removed")))
        assert completed(copy) == []
    assert copies.tags() == {
        "team/app:kept": copies.tags(copies.source)["team/app:kept"],
        "team/app:moved": str(new),
    }
    assert invoke("verify", copies.target).exit_code == 0


def test_a_blob_that_the_target_loses_meanwhile_is_sent_again(copies: Copies) -> None:
    """A collection beside a copy may remove what was stored already."""
    copies.put_image("v1", b"config", b"layer")
    lost = Digest.of(b"layer")
    losses = [copies.blob(copies.target, lost)]

    def lose(_: str, name: str) -> None:
        if name == str(lost) and losses:
            losses.pop().unlink()

    with copies.opened() as copy:
        assert completed(copy, Noted(lose)) == []
    assert not losses
    assert set(copies.tags()) == {"team/app:v1"}
    assert copies.files(copies.target) == copies.files(copies.source)
