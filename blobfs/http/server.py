"""The HTTP server of a mount, in a thread with an event loop of its own.

h11 implements the protocol; this module has the sockets, the time limits and the calls of the
application. Servers for ASGI do not fit: they accept connections without limit, so the mount could
lack descriptors, and they wait for clients that read nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Message, Scope

from blobfs.concurrency import start_thread
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

_RECEIVED: Final = 2**16
"""Bytes received at once; a client that sends more while it is served has to wait."""

_GRACE_S: Final = 1.0
"""Time for responses in progress at the end of the mount."""

_DISCARD_S: Final = 0.5
"""Time for a client to stop sending, after an error."""

_CANCELLED_S: Final = 0.5
"""Time for cancelled responses to end."""

_RETRY_S: Final = 0.1

_RATE: Final = 200
"""Requests per second, about a sixth of what the thread can serve."""

_BURST: Final = 50
"""Requests at once after a quiet moment."""


class _Pace:
    """Delay of requests that exceed _RATE, of all clients together, first come, first served.

    The thread holds the interpreter's lock while it serves small requests. Without a limit, six
    clients in a loop make each request of the mount take five times as long.
    """

    def __init__(self) -> None:
        self._last = 0.0

    async def turn(self) -> None:
        """Wait until the next request may begin."""
        now = asyncio.get_running_loop().time()
        self._last = max(self._last, now - _BURST / _RATE) + 1 / _RATE
        if self._last > now:
            await asyncio.sleep(self._last - now)


class HttpServer:
    """Serves *application* on a listening socket, which it owns, in the thread ``blobfs-http``."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        self._application = application
        self._listener = listener
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._pace = _Pace()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve inside the block; responses in progress get _GRACE_S more. Used once."""
        loop = asyncio.new_event_loop()
        serving = loop.create_task(self._serve())
        thread = start_thread("http", partial(self._run, loop, serving))
        try:
            yield
        finally:
            try:
                loop.call_soon_threadsafe(serving.cancel)
            except RuntimeError:
                pass  # the server has failed, and its loop is closed
            thread.join(_GRACE_S + 2 * _CANCELLED_S)

    def _run(self, loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
        try:
            loop.run_until_complete(serving)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("the HTTP server failed; the mount goes on without it")
        finally:
            self._listener.close()
            loop.close()

    async def _serve(self) -> None:
        log.info("listening for HTTP at %s, port %d", *self._listener.getsockname()[:2])
        self._listener.setblocking(False)
        self._listen()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._pause()
            self._listener.close()
            for task, connection in self._connections.items():
                connection.is_last = True
                if connection.is_idle:
                    task.cancel()
            await self._wait_for_connections(_GRACE_S)
            for task in self._connections:
                task.cancel()
            await self._wait_for_connections(_CANCELLED_S)

    def _listen(self) -> None:
        if self._listener.fileno() != -1:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _pause(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError as exc:  # the client has closed already, or no descriptors are left
            log.debug("cannot accept a connection: %s", exc)
            self._pause()
            asyncio.get_running_loop().call_later(_RETRY_S, self._listen)
            return
        connection = _Connection(self._application, client, address, self._pace)
        task = asyncio.get_running_loop().create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._close)
        if len(self._connections) == _MAX_CONNECTIONS:
            self._pause()

    def _close(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).client.close()
        self._listen()

    async def _wait_for_connections(self, limit_s: float) -> None:
        if self._connections:
            await asyncio.wait(self._connections, timeout=limit_s)


class _Connection:
    """The connection of a client, which ends when the client closes or stalls.

    It is idle while it waits for a request. Once *is_last* is set, it serves no other request. The
    server closes *client* after ``run``.
    """

    def __init__(
        self,
        application: ASGIApp,
        client: socket.socket,
        address: Any,  # noqa: ANN401  (as the socket module has it)
        pace: _Pace,
    ) -> None:
        self.client = client
        self.is_idle = True
        self.is_last = False
        self._application = application
        self._address = address
        self._pace = pace
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._receiving: asyncio.Task[bytes] | None = None
        self._head = b""
        self._has_body = True

    async def run(self) -> None:
        """Serve the requests of the client."""
        try:
            self.client.setblocking(False)
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._serve()
        except OSError:
            pass  # the client has left, or stalls
        except Exception:
            log.exception("a connection is closed after an unexpected error")
        finally:
            if self._receiving is not None:
                self._receiving.cancel()
                await asyncio.wait((self._receiving,))  # so that the selector does not keep it

    async def _serve(self) -> None:
        while True:
            try:
                request = await self._next_request()
            except h11.RemoteProtocolError as exc:
                await self._pace.turn()
                async with asyncio.timeout(_STALL_S) as self._stall:
                    await self._send_error(exc.error_status_hint)
                break
            if request is None:
                return
            self.is_idle = False
            await self._pace.turn()
            await self._respond(request)
            self.is_idle = True
            if self.is_last or self._http.our_state is not h11.DONE:
                return
            if self._http.their_state is not h11.DONE:
                break
            self._http.start_next_cycle()
        await self._discard()  # the request is invalid, or its body has not ended

    async def _next_request(self) -> h11.Request | None:
        """Return the next request; None if the client closes, TimeoutError if it sends none."""
        async with asyncio.timeout(_IDLE_S):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._receive())
        return event if isinstance(event, h11.Request) else None

    async def _receive(self) -> bytes:
        """Return the next bytes. After a cancellation the next call returns them."""
        if self._receiving is None:
            receiving = asyncio.get_running_loop().sock_recv(self.client, _RECEIVED)
            self._receiving = asyncio.create_task(receiving)
        data = await asyncio.shield(self._receiving)
        self._receiving = None
        return data

    async def _discard(self) -> None:
        """Discard what the client sends, as a close before that could discard the response."""
        try:
            self.client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_DISCARD_S):
                while await self._receive():
                    pass
        except OSError:
            pass

    async def _respond(self, request: h11.Request) -> None:
        """Call the application until it has responded, or the client has left or stalls."""
        tasks = (
            asyncio.create_task(self._call_application(request)),
            asyncio.create_task(self._wait_until_left()),
        )
        async with asyncio.timeout(_STALL_S) as self._stall:
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _wait_until_left(self) -> None:
        """Wait until the client has closed its sending side; discard the body of its request."""
        try:
            while (event := self._http.next_event()) is not h11.PAUSED:
                if isinstance(event, h11.ConnectionClosed):
                    return
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._receive())
        except (OSError, h11.RemoteProtocolError):
            return
        await asyncio.get_running_loop().create_future()  # the next request waits

    async def _call_application(self, request: h11.Request) -> None:
        try:
            await self._application(self._scope(request), _no_body, self._send)
        except Exception:
            log.exception("a request failed unexpectedly")
        if self._http.our_state is h11.SEND_RESPONSE:
            await self._send_error(500)

    def _scope(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        self._has_body = request.method != b"HEAD"
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode().upper(),
            "scheme": "http",
            "path": unquote(path.decode()),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._address[:2],
            "server": self.client.getsockname()[:2],
        }

    async def _send(self, message: Message) -> None:
        """Send a message of ASGI; the head is sent with the first part of the body."""
        if message["type"] == "http.response.start":
            date = formatdate(usegmt=True).encode()
            response = h11.Response(
                status_code=message["status"], headers=[*message["headers"], (b"date", date)]
            )
            self._head = self._http.send(response) or b""
            return
        parts, self._head = [self._head], b""
        if self._has_body and message.get("body"):
            parts.append(self._http.send(h11.Data(data=message["body"])) or b"")
        if not message.get("more_body"):
            parts.append(self._http.send(h11.EndOfMessage()) or b"")
        loop = asyncio.get_running_loop()
        self._stall.reschedule(loop.time() + _STALL_S)
        try:
            await loop.sock_sendall(self.client, b"".join(filter(None, parts)))
        except OSError:  # the client has left
            raise asyncio.CancelledError from None

    async def _send_error(self, status: int) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body"})


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


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
