"""The keys of a registry's configuration file that blobfs ignores, with the reasons.

Source of truth: distribution 2.8.3 and 3.1.1, ``configuration/configuration.go`` and the storage
drivers.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Ignored(NamedTuple):
    """Keys of *section* that are ignored for one reason.

    *names* are separated by spaces. ``[]`` follows the name of a list, and ``*`` is any name, with
    all that is below it. *only* is the version of distribution that has the keys, if it is one.
    """

    section: str
    names: str
    why: str
    only: str = ""

    @property
    def keys(self) -> list[str]:
        """The full names."""
        return [f"{self.section}.{name}".strip(".") for name in self.names.split()]


_NO_DRIVER: Final = "blobfs has no such driver, and refuses the file as STORAGE"
_OWN_SERVER: Final = "the server of `--http` has its own options"
_NO_LOGIN: Final = "blobfs checks no credentials; the modes of the mount and its place do"
_OTHERS: Final = "`/readyz` says nothing about other servers"
_OWN_CLIENT: Final = "blobfs has its own time limits and connections"

IGNORED: Final = (
    Ignored("log", "fields.*", "the fields of a line of the log are those of blobfs"),
    Ignored("log", "accesslog.disabled", "there is no log of accesses"),
    Ignored("log", "reportcaller", "lines of the log name a module", "3"),
    Ignored(
        "log.hooks[]",
        "disabled type levels options.from options.to options.smtp.addr options.smtp.username"
        " options.smtp.password options.smtp.insecure",
        "blobfs sends no mail",
    ),
    Ignored("storage", "inmemory.*", "that storage is in the memory of the registry's process"),
    Ignored("storage", "azure.* gcs.*", _NO_DRIVER),
    Ignored("storage", "oss.* swift.*", _NO_DRIVER, "2.8"),
    Ignored("storage", "cos.* rados.*", _NO_DRIVER, "older"),
    Ignored(
        "storage.filesystem", "maxthreads", "blobfs bounds its own threads, whatever the driver"
    ),
    *(
        Ignored(f"storage.{driver}", names, why)
        for driver in ("s3", "s3aws", "s3goamz")
        for names, why in (
            ("v4auth", "requests always have the signature of version 4"),
            ("loglevel", "a log of requests would have credentials"),
            ("redirectendpoint", "`--serve-redirect` redirects to `regionendpoint`"),
        )
    ),
    Ignored("storage.cache", "blobdescriptorsize", "the cache in memory has its own limits", "3"),
    Ignored("storage.redirect", "disable", "`--serve-redirect` decides"),
    Ignored("storage.tag", "concurrencylimit", "blobfs bounds its own requests", "3"),
    Ignored(
        "storage.maintenance.uploadpurging",
        "enabled interval dryrun",
        "blobfs removes uploads only by a command",
    ),
    Ignored("", "auth.*", _NO_LOGIN),
    Ignored("", "middleware.*", "blobfs serves the storage as it is"),
    Ignored(
        "reporting",
        "bugsnag.apikey bugsnag.releasestage bugsnag.endpoint newrelic.licensekey newrelic.name"
        " newrelic.verbose",
        "blobfs reports to nobody",
        "2.8",
    ),
    Ignored(
        "http",
        "addr net prefix relativeurls draintimeout headers.* http2.disabled debug.addr"
        " debug.prometheus.enabled debug.prometheus.path",
        _OWN_SERVER,
    ),
    Ignored("http", "h2c.enabled", _OWN_SERVER, "3"),
    Ignored("http", "secret", "it signs uploads by HTTP, which blobfs does not have"),
    Ignored(
        "http.tls",
        "certificate key clientcas minimumtls ciphersuites letsencrypt.cachefile letsencrypt.email"
        " letsencrypt.hosts",
        _OWN_SERVER,
    ),
    Ignored("http.tls", "clientauth letsencrypt.directoryurl", _OWN_SERVER, "3"),
    Ignored("redis", "dialtimeout readtimeout writetimeout", _OWN_CLIENT),
    Ignored("redis.pool", "maxidle maxactive idletimeout", _OWN_CLIENT, "2.8"),
    Ignored(
        "redis",
        "clientname protocol maxretries minretrybackoff maxretrybackoff contexttimeoutenabled"
        " poolfifo poolsize pooltimeout minidleconns maxidleconns maxactiveconns connmaxidletime"
        " connmaxlifetime maxredirects readonly routebylatency routerandomly disableidentity"
        " identitysuffix unstableresp3 isclustermode masterid tls.clientcas",
        _OWN_CLIENT,
        "3",
    ),
    Ignored(
        "health.storagedriver",
        "enabled interval threshold",
        "`/readyz` asks the storage when it is asked, once a second at most",
    ),
    Ignored("health.file[]", "interval threshold", "`/readyz` looks when it is asked"),
    Ignored(
        "health.http[]",
        "uri headers.* statuscode timeout interval threshold",
        _OTHERS,
    ),
    Ignored("health.tcp[]", "addr timeout interval threshold", _OTHERS),
    Ignored(
        "proxy",
        "remoteurl username password ttl",
        "blobfs shows what a proxy has stored, and fetches nothing",
    ),
    Ignored("proxy", "exec.command exec.lifetime cachewritetimeout", "as above", "3"),
    Ignored("compatibility.schema1", "signingkeyfile enabled", "blobfs signs nothing", "2.8"),
    Ignored(
        "validation",
        "enabled disabled manifests.urls.allow manifests.urls.deny",
        "manifests are checked as by a registry without this section",
    ),
    Ignored(
        "validation.manifests.indexes",
        "platforms platformlist[].architecture platformlist[].os",
        "as above",
        "3",
    ),
    Ignored("policy.repository", "classes", "blobfs stores every class"),
    Ignored("catalog", "maxentries", "blobfs lists in pages of its own"),
    Ignored("tags", "maxtags", "blobfs lists in pages of its own", "3"),
)
