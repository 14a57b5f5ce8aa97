"""Listings of a remote storage, kept in memory for a while."""
