"""Uploads: blobs and manifests on their way into a repository."""
