"""The keys of a registry's configuration file, and a search for misspelt ones.

Source of truth: distribution 2.8.3 and 3.1.1 together: ``configuration/configuration.go``, the
parameters of the storage drivers, and go-redis's ``UniversalOptions`` for ``redis`` in version 3.
A registry ignores unknown keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from blobfs.config.yaml_file import Section

_S3: Final = (
    "accelerate accesskey bucket chunksize encrypt forcepathstyle keyid loglevel"
    " multipartcopychunksize multipartcopymaxconcurrency multipartcopythresholdsize objectacl"
    " redirectendpoint region regionendpoint rootdirectory secretkey secure sessiontoken skipverify"
    " storageclass usedualstack usefipsendpoint useragent v4auth"
)
_KNOWN: Final = {
    "": "auth catalog compatibility health http log loglevel middleware notifications policy proxy"
    " redis reporting storage tags validation version",
    "storage": "azure cache cos delete filesystem gcs inmemory maintenance oss rados redirect s3"
    " s3aws s3goamz swift tag",
    "storage.cache": "blobdescriptor blobdescriptorsize layerinfo",
    "storage.filesystem": "maxthreads rootdirectory",
    "storage.s3": _S3,
    "storage.s3aws": _S3,
    "http": "addr debug draintimeout h2c headers host http2 net prefix relativeurls secret tls",
    "redis": "addr addrs clientname connmaxidletime connmaxlifetime contexttimeoutenabled db"
    " dialtimeout disableidentity identitysuffix isclustermode masterid mastername"
    " maxactiveconns maxidleconns maxredirects maxretries maxretrybackoff minidleconns"
    " minretrybackoff password pool poolfifo poolsize pooltimeout protocol readonly readtimeout"
    " routebylatency routerandomly sentinelpassword sentinelusername tls unstableresp3 username"
    " writetimeout",
    "redis.tls": "certificate clientcas enabled key rootcas",
    "notifications": "endpoints events",
    "notifications.events": "includereferences pulls",
}
_ENDPOINT: Final = "backoff disabled headers ignore ignoredmediatypes name threshold timeout url"
_IGNORE: Final = "actions mediatypes"

_SIMILARITY: Final = 0.7
"""A ratio of difflib: ``adr`` and ``addr`` have 0.86, ``hots`` and ``host`` 0.75."""


def misspelt(root: Section) -> Iterator[str]:
    """Yield a message for each unknown key that is similar to a known one.

    It checks only the sections that blobfs reads. Other unknown keys may belong to a newer
    registry. Raises MountRefused for a value that should be a section and is not.
    """
    for name, known in _KNOWN.items():
        section = root
        for key in filter(None, name.split(".")):
            section = section.section(key)
        yield from _misspelt_in(section, known)
    for endpoint in root.section("notifications").sections("endpoints"):
        yield from _misspelt_in(endpoint, _ENDPOINT)
        yield from _misspelt_in(endpoint.section("ignore"), _IGNORE)


def _misspelt_in(section: Section, known: str) -> Iterator[str]:
    names = known.split()
    for key in section.names():
        if key in names:
            continue
        if nearest := get_close_matches(key.lower(), names, n=1, cutoff=_SIMILARITY):
            yield section.remark(key, f"is not known; {nearest[0]} is: correct or remove it")
