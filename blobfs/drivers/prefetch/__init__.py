"""Prefetching: parts of remote objects are fetched ahead of their readers.

Each read of a remote object is a request that takes milliseconds. A reader that goes through a file
in order would wait for each of them, and one request alone does not use the network's bandwidth. So
a file that is read in order is fetched ahead, in several parallel requests. Random reads are
requested as they come.

* ``driver`` wraps a driver; its readers plan each read, wait for the parts, and copy the bytes.
* ``prefetcher`` detects sequential streams among the reads of a file: the kernel sends several
  reads at once, in any order, and a program may read a file at several places. It also decides the
  size of the parts and the distance ahead. The first parts are small, so that the first bytes come
  soon; the distance is a multiple of the bytes that the stream has read.
* ``part_store`` holds the parts of all files in bounded memory. Open files of one path and size
  share their parts until the path is changed through this driver. Parts that no stream needs are
  dropped first, the least recently used before the others.
* ``fetcher`` requests the parts in a bounded number of threads. A part that a reader waits for goes
  before those fetched ahead. A request that takes much longer than usual is made a second time.

Invariants: the one lock is that of the ``PartStore``, and no request is made while it is held. The
memory of a part is reserved before its request; a read that gets no memory is requested directly.
An error of a part fetched ahead is not raised: the reader requests the bytes again by itself.
"""
