"""Mounts the storage of a Docker/OCI registry as a filesystem."""

from __future__ import annotations

from blobfs.storage.registry import Registry, open_registry

__all__ = ["Registry", "open_registry"]
