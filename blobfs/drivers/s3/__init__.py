"""The driver for Amazon S3 and for servers that implement its API.

The file ``/a/b`` is the object ``<root>/a/b``, as in distribution. A directory is a common prefix
of keys; nothing is stored for it. S3 replaces an object as a whole: it has no append, no rename and
no partial write.

* Writing: a file being written is a multipart upload, invisible until ``complete``. Its parts are
  sent while the program writes, so that memory is bounded and ``commit`` is short. Only the last
  part may be smaller than 5 MiB, and the content of a part cannot be read. So the bytes that do not
  fill a part are stored at each ``flush`` as a hidden object, the tail. With it another process can
  continue the upload. The tail holds hashes of the parts' ETags: they show whether another program
  has written to the upload.
* Moving: a server-side copy, in parallel parts if the object is large, then a removal. A copy or a
  completed upload counts only after a HEAD has shown the object with its size.
* Reading: each ``read_at`` is one ranged GET, bound to the ETag of the first answer. A replaced
  object raises FileChanged and never gives mixed bytes. Prefetching is another package.
* Responses: boto3 takes an empty body or a proxy's page for a valid answer, and so an outage for
  missing files. Each response is compared with the form of its operation.

``driver`` has the contract of a driver, ``writer`` and ``multipart`` the uploads, ``reader`` the
ranged requests, ``small_gets`` those through obstore, ``answers`` the validation. ``client``
creates boto3's client and translates its errors; ``options`` parses the URL. All of them are
thread-safe but the writer, which one thread at a time uses. No lock is held during a request.
"""
