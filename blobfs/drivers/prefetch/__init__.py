"""Prefetching: parts of remote objects are fetched ahead of their readers."""
