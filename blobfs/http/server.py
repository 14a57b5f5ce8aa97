"""HTTP beside a mount, in its event loop; whatever fails here, the mount goes on.

Hypercorn speaks HTTP. It is given one connection at a time: its own server takes as many as
come, which would leave the mount no descriptors, and waits for clients that read nothing.
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

_MOST_CONNECTIONS: Final = 64
"""More wait until one of them is closed."""

_IDLE_S: Final = 5
"""How long a client may take to send a request, or keep a connection without one."""

_SILENT_S: Final = 60
"""How long a request may stay without another part of its answer being sent and taken."""

_LONGEST_HEAD: Final = 16 * 2**10

_GRACE_S: Final = 1.0
"""How long the mount's end waits for answers that have begun."""

_GONE_S: Final = 0.1
"""The same, once the client sends no more, and counts as gone: what fails is logged still."""

_BETWEEN_S: Final = 0.005
"""Time for the mount between two new connections, each of which takes some 0.5 ms."""

_RETRY_S: Final = 0.1


class _Http11(H11Protocol):
    """No HTTP/2, in which hypercorn holds what its client does not take, and no websockets."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay, whatever the client would change to."""

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
    """One client's, which ends with it, when nothing moves, and at once if it is cancelled."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        # Of an SSLStream it calls nothing that a SocketStream lacks, but to tell them apart.
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
            self._let_go()

    def _let_go(self) -> None:
        """Break the cycles it is in: a mount collects none that has lived for long."""
        protocol = vars(self).pop("protocol", None)  # a client that left at once has none
        if protocol is not None:
            protocol.protocol.stream = None

    async def protocol_send(self, event: Event) -> None:
        self._life.deadline = trio.current_time() + _SILENT_S
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        offered = self.protocol
        offered.protocol = _Http11(
            offered.app, offered.config, offered.context, offered.task_group, offered.state,
            offered.ssl, offered.client, offered.server, offered.send,
        )  # fmt: skip
        await super()._read_data()
        # The client has gone; hypercorn would wait until it had been idle.
        self._life.deadline = trio.current_time() + _GONE_S


async def _close_when_cancelled(stream: trio.abc.AsyncResource) -> None:
    """End a send, too, which hypercorn shields."""
    try:
        await trio.sleep_forever()
    finally:
        await trio.aclose_forcefully(stream)


class HttpServer:
    """Serves *application* on a socket that listens. Used on the event loop only."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        # Both mean ASGI, one by mappings, one by a type for each.
        self._application = ASGIWrapper(cast(ASGIFramework, application))
        self._listener = listener
        self._config = Config()
        self._config.errorlog = log
        self._config.include_server_header = False
        self._config.keep_alive_timeout = _IDLE_S
        self._config.h11_max_incomplete_size = _LONGEST_HEAD
        self._context = WorkerContext(max_requests=None)
        self._slots = trio.Semaphore(_MOST_CONNECTIONS)
        self._connections: set[trio.CancelScope] = set()

    async def run(self) -> None:
        """Serve until cancelled, and a second longer what is being answered then."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        log.info("listening for HTTP at %s, port %d", *self._listener.getsockname()[:2])
        async with listener, trio.open_nursery() as nursery:
            try:
                await self._accept(listener, nursery)
            finally:
                await self._context.terminated.set()  # at which idle ones are closed
                for connection in self._connections:
                    connection.deadline = trio.current_time() + _GRACE_S

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()
            try:
                stream = await listener.accept()
            except OSError as exc:  # gone again already, or no descriptors are left
                self._slots.release()
                log.debug("no connection: %s", exc)
                await trio.sleep(_RETRY_S)
            else:
                connection = trio.CancelScope(shield=True)
                self._connections.add(connection)
                nursery.start_soon(self._serve, stream, connection)
                await trio.sleep(_BETWEEN_S)

    async def _serve(self, stream: trio.SocketStream, connection: trio.CancelScope) -> None:
        try:
            with connection:
                await _Connection(self._application, self._config, self._context, stream)
        except Exception:
            log.exception("a connection is closed: unexpected")
        finally:
            self._connections.remove(connection)
            self._slots.release()


def listening(address: str) -> socket.socket:
    """A socket that listens at ``HOST:PORT``; without a host at loopback, for this machine only.

    Raises MountRefused.
    """
    host, port = _parsed(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except UnicodeError:
        raise _no_address(address) from None
    except OSError as exc:
        said = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
        raise MountRefused(f"--http {address}: {said}; choose another address or port") from None


def _parsed(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 0xFFFF:
        raise _no_address(address)
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def _no_address(text: str) -> MountRefused:
    return MountRefused(f"--http {text!r} is no address; give HOST:PORT, or PORT for loopback")
