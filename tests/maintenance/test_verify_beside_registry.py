"""A storage that a registry writes to while it is verified."""

import threading
import time
from pathlib import Path

import pytest

from blobfs.drivers.location import Location
from blobfs.inventory.inventory import Inventory
from blobfs.maintenance.verify import verify
from tests.support.services import DockerRegistry, delete_manifest, push
from tests.support.tiny_images import TinyImages

pytestmark = pytest.mark.registry

_PUSHED_S = 6.0


def test_pushes_and_deletes_that_are_under_way_are_no_faults(tmp_path: Path) -> None:
    """[S19.1] What a registry writes meanwhile is no fault."""
    images = TinyImages(tmp_path / "images")
    digests = {f"i{n}": images.add_image(f"i{n}", n, n + 1, 100) for n in range(8)}
    ended = threading.Event()
    rounds = 0

    def change(registry: DockerRegistry) -> None:
        nonlocal rounds
        until = time.monotonic() + _PUSHED_S
        try:
            while time.monotonic() < until:
                name = f"i{rounds % len(digests)}"
                push(images.directory, registry.address, f"app{rounds % 3}", name)
                if rounds % 2:
                    delete_manifest(registry.address, f"app{rounds % 3}", digests[name])
                rounds += 1
        finally:
            ended.set()

    with DockerRegistry.serving(tmp_path / "storage") as registry:
        changes = threading.Thread(target=change, args=(registry,))
        changes.start()
        looks = 0
        while not ended.is_set():
            with Inventory.taken(Location.of(str(tmp_path / "storage"))) as inventory:
                assert verify(inventory, settle_s=1).faults == []
            looks += 1
        changes.join()
    assert min(looks, rounds) > 3
