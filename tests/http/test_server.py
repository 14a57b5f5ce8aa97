"""The server beside a mount: what clients may do to it, and how it ends."""

import asyncio
import gc
import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import ClassVar
from weakref import WeakSet

import h11
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from blobfs.http import server
from blobfs.http.server import HttpServer, open_listener
from tests.support.http_client import get, said_to

LARGE = b"x" * 2**26


@dataclass
class Served:
    """A server that runs: where, and what ends it."""

    port: int
    life: trio.CancelScope


async def _hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def _large(_: Request) -> Response:
    return Response(LARGE)


async def _never(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _slow(_: Request) -> Response:
    await asyncio.sleep(0.3)
    return PlainTextResponse("at last")


async def _broken(_: Request) -> Response:
    raise RuntimeError("a bug")


async def _serve_in(nursery: trio.Nursery) -> Served:
    pages = {"": _hello, "large": _large, "never": _never, "slow": _slow, "broken": _broken}
    application = Starlette(routes=[Route(f"/{name}", page) for name, page in pages.items()])
    listener = open_listener("0")
    served = Served(listener.getsockname()[1], trio.CancelScope())

    async def run() -> None:
        with served.life, HttpServer(application, listener).running():
            await trio.sleep_forever()

    nursery.start_soon(run)
    return served


async def _in_thread(call: Callable[[], object]) -> object:
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


async def _connected(port: int, request: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(request)
    return stream


async def _ends_within(served: Served, seconds: float, nursery: trio.Nursery) -> None:
    served.life.cancel()
    with trio.fail_after(seconds):
        while nursery.child_tasks:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_pages_are_served(nursery: trio.Nursery) -> None:
    served = await _serve_in(nursery)
    answer = await trio.to_thread.run_sync(get, served.port, "/")
    assert (answer.status, answer.text) == (200, "hello")


async def test_page_that_fails_is_500_and_the_next_one_works(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """[S17.3] Whatever is asked there, and whatever goes wrong with it, the mount goes on, and so
    do other answers.
    """
    served = await _serve_in(nursery)
    assert (await trio.to_thread.run_sync(get, served.port, "/broken")).status == 500
    assert (await trio.to_thread.run_sync(get, served.port, "/")).status == 200
    [record] = caplog.records
    assert (record.name, record.levelname) == ("blobfs.http.server", "ERROR")


async def test_requests_on_one_connection_are_answered_in_order(nursery: trio.Nursery) -> None:
    served = await _serve_in(nursery)
    asked = [b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
             b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]  # fmt: skip
    answer = await trio.to_thread.run_sync(said_to, served.port, b"".join(asked))
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.count(b"\r\ndate: ") == 3
    assert [part.partition(b"HTTP/")[0] for part in answer.split(b"\r\n\r\n")[1:]] == [
        b"at last", b"", b"hello",
    ]  # fmt: skip


async def test_client_that_asks_as_soon_as_it_is_answered_loses_no_request(
    nursery: trio.Nursery,
) -> None:
    """[S17.16] HTTP serves 200 requests per second of all clients together, and 50 more after a
    quiet moment.
    """
    served = await _serve_in(nursery)
    began = trio.current_time()

    def ask_often() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=4)) as client:
            for _ in range(300):
                client.request("GET", "/")
                assert client.getresponse().read() == b"hello"

    await trio.to_thread.run_sync(ask_often)
    assert trio.current_time() - began > 1.2


@pytest.mark.parametrize("size", [10, 2**22], ids=["small", "large"])
async def test_body_of_a_request_is_ignored(nursery: trio.Nursery, size: int) -> None:
    """A client that sends all of it before it reads gets its answer."""
    served = await _serve_in(nursery)
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    async with await _connected(served.port, head) as stream:
        with trio.fail_after(5):
            await stream.send_all(b"x" * size)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 405 ")


async def test_client_that_closes_its_sending_side_has_left(nursery: trio.Nursery) -> None:
    """[S17.4] One that closes only its sending side has left."""
    served = await _serve_in(nursery)
    async with await _connected(served.port, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n") as stream:
        await stream.send_eof()
        with trio.fail_after(4):
            assert await stream.receive_some() == b""


async def test_server_that_fails_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """[S17.3] Whatever goes wrong with it, the mount goes on."""
    listener = open_listener("0")
    listener.close()
    with HttpServer(Starlette(), listener).running():
        with trio.fail_after(5):
            while not caplog.records:  # noqa: ASYNC110
                await trio.sleep(0.01)
    assert "the HTTP server failed; the mount goes on without it" in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
    ids=["nothing", "nonsense", "long head", "bad length", "bad path", "bad HTTP/2"],
)  # fmt: skip
async def test_what_is_no_request_harms_nobody_else(
    nursery: trio.Nursery,
    request_: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """[S17.3] Whatever is asked there, and whatever goes wrong with it, the mount goes on, and so
    do other answers.
    """
    monkeypatch.setattr(server, "_STALL_S", 0.1)
    served = await _serve_in(nursery)
    answer = await trio.to_thread.run_sync(said_to, served.port, request_)
    assert b" 200 " not in answer
    assert (await trio.to_thread.run_sync(get, served.port, "/")).status == 200
    assert not caplog.records


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + b"x" * 100,
    ],
    ids=["HTTP/2", "websocket"],
)
async def test_no_other_protocol_is_gone_over_to(
    nursery: trio.Nursery,
    upgrade: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """[S17.1] It speaks HTTP/1.1; what asks for another protocol is answered in that."""
    monkeypatch.setattr(server, "_IDLE_S", 0.05)
    served = await _serve_in(nursery)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n" + upgrade
    answer = await trio.to_thread.run_sync(said_to, served.port, request)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not caplog.records


async def test_http_2_is_refused(nursery: trio.Nursery) -> None:
    """[S17.1] It speaks HTTP/1.1; what asks for another protocol is answered in that."""
    served = await _serve_in(nursery)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    answer = await trio.to_thread.run_sync(said_to, served.port, preface)
    assert answer.startswith(b"HTTP/1.1 404 ")


class _Watched(h11.Connection):
    """The state of a connection, of which those in memory are known."""

    made = 0
    remaining: ClassVar[WeakSet[h11.Connection]] = WeakSet()

    def __init__(self, role: type[h11.CLIENT | h11.SERVER], max_incomplete_event_size: int) -> None:
        super().__init__(role, max_incomplete_event_size)
        self.remaining.add(self)
        type(self).made += 1


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Cycles stay, as those that have lived for long do in a mount."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("path", [b"/", b"/large", b"/never"])
@pytest.mark.usefixtures("uncollected")
async def test_connection_leaves_nothing_in_memory(
    nursery: trio.Nursery, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.4] So it is when its client leaves."""
    monkeypatch.setattr(server, "_IDLE_S", 0.1)
    monkeypatch.setattr(server, "_STALL_S", 0.1)
    monkeypatch.setattr(h11, "Connection", _Watched)
    served, before = await _serve_in(nursery), _Watched.made
    async with await _connected(served.port, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"):
        with trio.fail_after(5):
            while _Watched.made == before or _Watched.remaining:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_connection_without_a_request_is_closed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.4] A request has to come within 5 s."""
    monkeypatch.setattr(server, "_IDLE_S", 0.05)
    served = await _serve_in(nursery)
    async with await _connected(served.port, b"GET / HTTP/1.1\r\nHo") as stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_more_connections_than_there_may_be_wait(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.4] There are 64 connections at a time, and the next wait."""
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 1)
    served = await _serve_in(nursery)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with await _connected(served.port, request) as first:
        assert b" 200 " in await first.receive_some()
        async with await _connected(served.port, request) as second:
            with trio.move_on_after(0.1) as waited:
                await second.receive_some()
            assert waited.cancelled_caught
            await first.aclose()
            with trio.fail_after(5):
                assert b" 200 " in await second.receive_some()


async def test_client_that_leaves_gives_its_place_to_the_next(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.4] So it is when its client leaves."""
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 1)
    served = await _serve_in(nursery)
    gone = await _connected(served.port, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
    await gone.aclose()
    with trio.fail_after(5):
        answer = await _in_thread(partial(get, served.port, "/"))
    assert answer is not None


async def test_client_that_takes_nothing_is_dropped(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.4] Each part of an answer to be taken within 60 s, else the connection is closed."""
    monkeypatch.setattr(server, "_STALL_S", 0.1)
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 1)
    served = await _serve_in(nursery)
    stalled = await _connected(served.port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    with trio.fail_after(15):
        answer = await _in_thread(partial(get, served.port, "/"))
    assert answer is not None
    await stalled.aclose()


@pytest.mark.parametrize(
    "request_",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n",
     b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["nothing asked", "answered", "never answered", "answer not read"],
)  # fmt: skip
async def test_end_waits_for_nobody_longer_than_a_second(
    nursery: trio.Nursery, request_: bytes
) -> None:
    """[S17.5] Waits up to a second for answers that have begun, and for nothing else."""
    served = await _serve_in(nursery)
    before = nursery.child_tasks
    async with await _connected(served.port, request_):
        if request_:
            await _until_taken(served.port)
        await _ends_within(served, 2.0, nursery)
    assert before


async def _until_taken(port: int) -> None:
    """Until what was connected before this is served."""
    await trio.to_thread.run_sync(get, port, "/")


async def test_end_lets_an_answer_that_has_begun_be_given(nursery: trio.Nursery) -> None:
    """[S17.5] The mount's end waits up to a second for answers that have begun, and for nothing
    else.
    """
    served = await _serve_in(nursery)
    async with await _connected(served.port, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") as stream:
        await _until_taken(served.port)
        served.life.cancel()
        with trio.fail_after(5):
            answer = b"".join([part async for part in stream])
        assert answer.endswith(b"at last")


async def test_after_the_end_nobody_listens(nursery: trio.Nursery) -> None:
    served = await _serve_in(nursery)
    await _until_taken(served.port)
    await _ends_within(served, 2.0, nursery)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=5)
