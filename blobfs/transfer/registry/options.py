"""The options of a connection to a registry, and its TLS.

Source of truth of the directories: ``containers-certs.d(5)``, and Docker's "Verify repository
client with certificates".
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from blobfs.errors import MountRefused

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """The options of one place, named as skopeo's are.

    *credentials* are a user and a password, which go before those of files. With *anonymous* no
    login is looked for. *tls_verify* False allows any certificate, and plain HTTP.
    """

    tls_verify: bool = True
    cert_dir: Path | None = None
    authfile: Path | None = None
    anonymous: bool = False
    credentials: tuple[str, str] | None = field(default=None, repr=False)


def allowed_schemes(host: str, options: RegistryOptions) -> tuple[str, ...]:
    """Return the schemes to try with ``host[:port]``, the best one first."""
    name = urlsplit(f"//{host}").hostname
    is_plain_allowed = name in _LOOPBACK or not options.tls_verify
    return ("https", "http") if is_plain_allowed else ("https",)


def ssl_context(host: str, options: RegistryOptions) -> ssl.SSLContext:
    """Return the TLS of a registry, with the files of its directory; raises MountRefused."""
    context = ssl.create_default_context()
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    directory = options.cert_dir or _default_directory(host)
    if directory is None:
        return context
    path = directory
    try:
        for path in sorted(directory.iterdir()):
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"), password=_no_password)
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        reason = (isinstance(exc, OSError) and exc.strerror) or exc
        raise MountRefused(f"{path}: cannot be used for TLS with {host}: {reason}") from None
    return context


def _default_directory(host: str) -> Path | None:
    parents = (
        Path.home() / ".config/containers/certs.d",
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    )
    return next((path for parent in parents if (path := parent / host).is_dir()), None)


def _no_password() -> str:
    """Refuse a key with a password, which OpenSSL would ask for at the terminal."""
    raise ValueError("its key has a password; store it without one")
