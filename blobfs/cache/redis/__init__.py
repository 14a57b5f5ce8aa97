"""The descriptor cache in Redis, in distribution's format, shared with the registries.

A registry and the mounts beside it read and write the same keys, so a descriptor that one of them
stores is a hit for all, and a delete through a mount reaches the registry's cache. The keys and
their values must therefore equal distribution's, byte for byte; ``keys`` has them. The time of
a blob is a key of our own, because distribution has no field for it.

``options`` parses the URL, ``client`` creates redis-py's client for one server, sentinels or a
cluster, and ``cache`` sends the commands in pipelines, one round trip per hundred digests.

* Entries do not expire. A server evicts them by ``maxmemory-policy allkeys-lru``.
* On one server, a set or a clear is a transaction. A cluster has no transactions across servers;
  there a clear removes the repository's membership first, so that an interrupted clear gives the
  repository nothing back.
* Each round trip has a time limit on a thread of its own, because redis-py's socket timeouts
  bound neither a name resolution nor a slow stream of packets.
"""
