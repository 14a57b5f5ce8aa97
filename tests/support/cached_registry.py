"""A docker-registry whose descriptor cache is in Redis, and what it asks its storage for."""

import http.client
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support import images
from tests.support.redis_server import RedisServer
from tests.support.services import free_port, inspect, push, serving

SMALL: Final = RepositoryName("library/small")


def storage_actions(address: str) -> Counter[str]:
    """How often each has been done, as a registry's metrics at *address* tell, or a mount's."""
    with urlopen(f"http://{address}/metrics") as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    counted: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name.endswith("_storage_action_seconds_count"):
                counted[sample.labels["action"]] += int(sample.value)
    return counted


@dataclass(frozen=True, slots=True)
class CachedRegistry:
    """Serves *root*, in which ``SMALL`` has an image: the digest and the size of its last layer."""

    root: Path
    address: str
    debug_address: str
    digest: Digest
    size: int

    @classmethod
    @contextmanager
    def serving(cls, directory: Path, redis: RedisServer) -> Iterator[Self]:
        """Serve a new storage in *directory* inside the ``with`` block."""
        root, address = directory / "storage", f"127.0.0.1:{free_port()}"
        debug_address = f"127.0.0.1:{free_port()}"
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(root)},
                "cache": {"blobdescriptor": "redis"},
                "delete": {"enabled": True},
            },
            "redis": {"addr": redis.address},
            "http": {
                "addr": address,
                "debug": {"addr": debug_address, "prometheus": {"enabled": True}},
            },
        }
        config_path = directory / "registry.yml"
        config_path.write_text(json.dumps(config))
        command = ("docker-registry", "serve", config_path)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
        with serving(command, address, "/v2/", directory / "registry.log", environment):
            push(images.small(), address, SMALL, "v1")
            layer = json.loads(inspect(address, SMALL, "v1").content)["layers"][-1]
            digest = Digest.parse(layer["digest"])
            yield cls(root, address, debug_address, digest, layer["size"])

    def size_told(self, repository: RepositoryName = SMALL) -> int | None:
        """How long the layer is, as the registry says; None if it has none of that digest."""
        with closing(http.client.HTTPConnection(self.address, timeout=10)) as connection:
            connection.request("HEAD", f"/v2/{repository}/blobs/{self.digest}")
            response = connection.getresponse()
            return int(response.headers["Content-Length"]) if response.status == 200 else None
