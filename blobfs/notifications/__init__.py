"""Notifications of a mount's events, posted to endpoints as distribution's registry does.

The problem: an endpoint may be down for hours, while the mount and the machine may end at any time.
Events must not be lost then, and operations on the mount must not wait for an endpoint.

- ``broadcaster`` receives events, and puts an envelope (``envelope``) for each endpoint into the
  ``queue``. An event of a change is sent after the change is durable, never before. It is durable
  in the queue when the operation returns. Events of pulls wait in memory for a moment, because
  reads are frequent and must not wait for a disk.
- ``queue`` is an SQLite file on this machine, shared by all mounts of a storage. It is bounded, and
  drops the oldest events when it is full.
- ``sender`` posts the envelopes of one endpoint in order, through ``sink``, until each is accepted.
  A lock on a file ensures that one mount of a storage sends; another one continues after its end.

An event may be posted twice after a crash, and the order for one endpoint is kept. A failing queue
loses events, which are counted and logged, but it does not fail the operation.
"""
