"""Mounts the storage of a Docker/OCI registry as a filesystem."""
