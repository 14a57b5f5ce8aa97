"""A copy of a storage that registries write to."""

import threading
from pathlib import Path

import pytest

from tests.support.command import invoke
from tests.support.copies import Copies
from tests.support.services import DockerRegistry, delete_manifest, push
from tests.support.tiny_images import TinyImages

pytestmark = [pytest.mark.registry, pytest.mark.long]

_COPIES = 6


def test_what_was_there_before_is_copied_beside_pushes_and_deletes(tmp_path: Path) -> None:
    """[S22.6] A tag is copied as it was when it was looked at"""
    copies = Copies(tmp_path)
    images = TinyImages(tmp_path / "images")
    stay = {f"s{n}": images.add_image(f"s{n}", n, n + 1, 100) for n in range(6)}
    change = {f"c{n}": images.add_image(f"c{n}", n, n + 1, 200 + n) for n in range(8)}
    ended = threading.Event()
    rounds = [0, 0]

    def write(registry: DockerRegistry, writer: int) -> None:
        while not ended.is_set():
            name = f"c{(rounds[writer] * 2 + writer) % len(change)}"
            push(images.directory, registry.address, f"app{writer}", name)
            if rounds[writer] % 2:
                delete_manifest(registry.address, f"app{writer}", change[name])
            rounds[writer] += 1

    with DockerRegistry.serving(copies.source) as registry:
        for tag in stay:
            push(images.directory, registry.address, "app0", tag)
        writers = [threading.Thread(target=write, args=(registry, n)) for n in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(_COPIES):
                result = copies.cp()
                assert result.exit_code == 0, result.stderr
                tags = copies.tags()
                assert {tag: tags[f"app0:{tag}"] for tag in stay} == stay
                assert invoke("verify", "--content", copies.target).exit_code == 0
        finally:
            ended.set()
            for writer in writers:
                writer.join()
    assert min(rounds) > 2
