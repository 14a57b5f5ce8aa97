"""The HTTP server in the event loop of a mount; its failures do not end the mount.

Hypercorn implements HTTP for each connection. Its own server is not used: it accepts connections
without limit, so the mount could lack descriptors, and it waits for clients that read nothing.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Final, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState
from starlette.types import ASGIApp

from blobfs.errors import MountRefused

log = logging.getLogger(__name__)

_ADDRESS: Final = re.compile(r"(?:(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^:\[\]]*):)?([0-9]{1,5})")

_BACKLOG: Final = 64

_MAX_CONNECTIONS: Final = 64
"""Further connections wait until one is closed."""

_IDLE_S: Final = 5
"""Time for a client to send a request, or to keep an idle connection."""

_STALL_S: Final = 60
"""Time in which a client must take the next part of a response."""

_MAX_HEAD: Final = 16 * 2**10

_GRACE_S: Final = 1.0
"""Time for responses in progress at the end of the mount."""

_CLOSED_S: Final = 0.1
"""Time for a response after the client has closed; its failures are still logged."""

_ACCEPT_INTERVAL_S: Final = 0.005
"""Time for the mount between two new connections, which cost about 0.5 ms each."""

_RETRY_S: Final = 0.1


class _Http11(H11Protocol):
    """HTTP/1.1 without upgrades: no websockets, and no HTTP/2, whose buffers hypercorn keeps."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore every request for another protocol."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        plain = h11.Request(
            method=request.method,
            target=request.target,
            headers=headers,
            http_version=request.http_version,
        )
        await super()._create_stream(plain)


class _Connection(TCPServer):
    """A client's connection; it ends when the client closes or stalls, at once if cancelled."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        # It calls no method of SSLStream that SocketStream lacks.
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self._life = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_close_when_cancelled, self.stream)
                    await super().run()
                    self._life.cancel()
        finally:
            self._break_cycles()

    def _break_cycles(self) -> None:
        """Break reference cycles: a mount does not collect cycles that have lived for long."""
        protocol = vars(self).pop("protocol", None)  # None if the client closed at once
        if protocol is not None:
            protocol.protocol.stream = None

    async def protocol_send(self, event: Event) -> None:
        self._life.deadline = trio.current_time() + _STALL_S
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        offered = self.protocol
        offered.protocol = _Http11(
            offered.app, offered.config, offered.context, offered.task_group, offered.state,
            offered.ssl, offered.client, offered.server, offered.send,
        )  # fmt: skip
        await super()._read_data()
        # The client has closed; hypercorn would wait for the idle timeout.
        self._life.deadline = trio.current_time() + _CLOSED_S


async def _close_when_cancelled(stream: trio.abc.AsyncResource) -> None:
    """Close the stream, which ends a send that hypercorn shields from cancellation."""
    try:
        await trio.sleep_forever()
    finally:
        await trio.aclose_forcefully(stream)


class HttpServer:
    """Serves *application* on a listening socket, which it owns. Used on the event loop only."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        # Both types describe ASGI: one by mappings, one by a class for each message.
        self._application = ASGIWrapper(cast(ASGIFramework, application))
        self._listener = listener
        self._config = Config()
        self._config.errorlog = log
        self._config.include_server_header = False
        self._config.keep_alive_timeout = _IDLE_S
        self._config.h11_max_incomplete_size = _MAX_HEAD
        self._context = WorkerContext(max_requests=None)
        self._slots = trio.Semaphore(_MAX_CONNECTIONS)
        self._connections: set[trio.CancelScope] = set()

    async def run(self) -> None:
        """Serve until cancelled; responses in progress get _GRACE_S more."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        log.info("listening for HTTP at %s, port %d", *self._listener.getsockname()[:2])
        async with listener, trio.open_nursery() as nursery:
            try:
                await self._accept(listener, nursery)
            finally:
                await self._context.terminated.set()  # this closes idle connections
                for connection in self._connections:
                    connection.deadline = trio.current_time() + _GRACE_S

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            try:
                stream = await listener.accept()
            except OSError as exc:  # the client has closed already, or no descriptors are left
                self._slots.release()
                log.debug("cannot accept a connection: %s", exc)
                await trio.sleep(_RETRY_S)
            else:
                connection = trio.CancelScope(shield=True)
                self._connections.add(connection)
                nursery.start_soon(self._serve, stream, connection)
                await trio.sleep(_ACCEPT_INTERVAL_S)

    async def _serve(self, stream: trio.SocketStream, connection: trio.CancelScope) -> None:
        try:
            with connection:
                await _Connection(self._application, self._config, self._context, stream)
        except Exception:
            log.exception("a connection is closed after an unexpected error")
        finally:
            self._connections.remove(connection)
            self._slots.release()


def open_listener(address: str) -> socket.socket:
    """Return a socket that listens at ``HOST:PORT``, or at ``PORT`` of loopback.

    A mount binds it before it becomes a daemon, so that it can still fail. Raises MountRefused.
    """
    host, port = _parsed(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except UnicodeError:
        raise _no_address(address) from None
    except OSError as exc:
        reason = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
        raise MountRefused(f"--http {address}: {reason}; choose another address or port") from None


def _parsed(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 0xFFFF:
        raise _no_address(address)
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def _no_address(text: str) -> MountRefused:
    return MountRefused(f"--http {text!r} is not an address; give HOST:PORT, or PORT for loopback")
