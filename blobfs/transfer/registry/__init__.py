"""A registry behind HTTP as a place of copies: the client side of the distribution API.

``client`` makes requests: https first, with retries, redirects, and errors in our terms.
``authorization`` has the tokens, and ``logins`` the files in which skopeo and docker keep a login.
``api`` has the requests that ``source`` and ``target`` share, ``reader`` a blob that is read on
after a lost connection, and ``upload`` one that is stored in chunks.

A registry is not trusted. Bodies and lists are bounded. Digests decide, and not sizes or headers.
An authorization is sent only to the registry itself, and a login only to its token service, over
https unless the host is this machine or the user allows plain HTTP. No text of an error has a URL
with its query, since that may be a secret.
"""

from blobfs.transfer.registry.options import RegistryOptions
from blobfs.transfer.registry.source import RegistrySource
from blobfs.transfer.registry.target import RegistryTarget

__all__ = ["RegistryOptions", "RegistrySource", "RegistryTarget"]
