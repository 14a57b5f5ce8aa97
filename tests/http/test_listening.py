"""Where HTTP is listened for, and what is refused."""

import re
import socket

import pytest

from blobfs.errors import MountRefused
from blobfs.http.server import open_listener
from tests.support.services import cannot, free_port


@pytest.mark.parametrize("form", ["{}", ":{}", "127.0.0.1:{}"])
def test_without_a_host_it_is_loopback(form: str) -> None:
    """[S17.1] Without a host that is this machine only."""
    port = free_port()
    with open_listener(form.format(port)) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)


def test_other_addresses_are_to_be_named() -> None:
    """[S17.1] `--http HOST:PORT` serves `/metrics`, `/healthz`, `/readyz` and `/debug/tasks` to
    whoever can connect.
    """
    with open_listener(f"0.0.0.0:{free_port()}") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_ipv6_has_brackets() -> None:
    if not socket.has_ipv6:
        cannot("no IPv6 here")
    with open_listener("[::1]:0") as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize(
    "address",
    ["", "x", "localhost", "localhost:", "::1:80", "1.2.3.4:65536", "http://x:80", "-1",
     "a..b:80", f"{'x' * 64}:80", "1.2.3.4:٨٠"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    """[S17.2] What is no address, another machine's, or taken already, is refused before there is a
    mount.
    """
    with pytest.raises(MountRefused, match=f"--http {address!r} is not an address; give HOST:PORT"):
        open_listener(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere.invalid:1", ""),
        ("192.0.2.1:1", "Cannot assign"),
        ("[fe80::1%lo]:1", "Cannot assign"),
    ],
)
def test_address_of_another_machine_is_refused(address: str, reason: str) -> None:
    """[S17.2] What is no address, another machine's, or taken already, is refused before there is a
    mount.
    """
    with pytest.raises(MountRefused, match=re.escape(f"--http {address}: {reason}")):
        open_listener(address)


def test_port_that_is_taken_is_refused() -> None:
    """[S17.2] What is no address, another machine's, or taken already, is refused before there is a
    mount.
    """
    with open_listener("0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MountRefused, match=f"--http {port}: Address already in use; choose"):
            open_listener(str(port))
