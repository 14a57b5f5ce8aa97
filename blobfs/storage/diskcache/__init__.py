"""The cache on disk for the blobs of a remote storage."""
