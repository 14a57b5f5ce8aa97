"""The descriptor cache in Redis, in distribution's format."""
