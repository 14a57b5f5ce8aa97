"""A proxy between an S3 client and S3: it counts requests, delays them, and makes faults.

Each connection has a thread, and its own connection to S3. Heads are read, and passed on as they
came (the client signed them); bodies go through one buffer, which on loopback measures as well as
splice. Plain HTTP, requests one after the other on a connection, buckets in the path.

For benchmarks, ``python -m tests.support.s3_proxy --upstream URL --delay-ms 30`` runs one in its
own process: it prints its URL, and ends with SIGTERM or SIGINT.
"""

import argparse
import errno
import select
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Self
from urllib.parse import urlsplit

from tests.support.s3_faults import Damage, Delay, Faults, Kind, Lose, Refuse, Request, no_faults
from tests.support.s3_wire import Closed, Head, HungUp, Piece, Wire, cut, drop, flipped
from tests.support.services import free_port

# For a client that still sends what nobody wants; only one in trouble takes longer.
_LINGER_S: Final = 1.0
_RECEIVED_AT_ONCE: Final = 64 * 2**10


class S3Proxy:
    """Passes requests on to the S3 at *upstream*; its attributes may be set while it serves."""

    def __init__(self, upstream: str, listener: socket.socket, *, delay_s: float) -> None:
        self.delay_s = delay_s
        self.faults: Faults = no_faults
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = listener
        self._lock = threading.Lock()  # for all below
        self._connections: dict[_Connection, threading.Thread] = {}
        self._entries: list[_Entry] = []
        self._counters: list[Counter[Kind]] = []

    @classmethod
    @contextmanager
    def before(
        cls, upstream: str, *, delay_s: float = 0, port: int | None = None
    ) -> Iterator[Self]:
        """Serve inside the ``with`` block at *port* of loopback, by default a free one."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Asked for by its number, it stays ours while nobody listens, in down().
            listener.bind(("127.0.0.1", port or free_port()))
            proxy = cls(upstream, listener, delay_s=delay_s)
            with proxy._serving():
                yield proxy

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    @property
    def requests(self) -> list[Request]:
        """The requests up to now, in the order of their coming, with those under way."""
        with self._lock:
            return [entry.request for entry in self._entries]

    def forget(self) -> None:
        """Let ``requests`` begin anew."""
        with self._lock:
            self._entries.clear()

    @contextmanager
    def counting(self) -> Iterator[Counter[Kind]]:
        """How many requests of each kind come inside the block; it grows as they do."""
        counter: Counter[Kind] = Counter()
        with self._lock:
            self._counters.append(counter)
        try:
            yield counter
        finally:
            with self._lock:
                self._counters = [other for other in self._counters if other is not counter]

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections inside the block, and cut those there are, as if S3 was stopped."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    @contextmanager
    def _serving(self) -> Iterator[None]:
        self._start()
        try:
            yield
        finally:
            self._stop()

    def _start(self) -> None:
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, name="s3proxy", daemon=True)
        self._acceptor.start()

    def _stop(self) -> None:
        # Linux: the socket listens no more, so accept() fails, and it may listen again.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        with self._lock:
            threads = dict(self._connections)
        for connection in threads:
            connection.cut()
        for thread in threads.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError as exc:
                if exc.errno == errno.EINVAL:  # it does not listen any more
                    return
                raise
            connection = _Connection(self, client)
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: "_Connection") -> None:
        try:
            connection.serve(self._upstream)
        finally:
            with self._lock:
                del self._connections[connection]

    def _enter(self, request: Request) -> "_Entry":
        """Put a request that came on record, with the fault it is to meet."""
        with self._lock:
            entry = _Entry(request._replace(fault=self.faults(request)))
            self._entries.append(entry)
            for counter in self._counters:
                counter[request.kind] += 1
            return entry


@dataclass(slots=True, eq=False)
class _Entry:
    """A request on record. Told before the client is, so that no test sees less than its client."""

    request: Request

    def told(self, status: int) -> None:
        self.request = self.request._replace(status=status)

    def passed(self, size: int) -> None:
        self.request = self.request._replace(bytes=self.request.bytes + size)


class _Connection:
    """A client's connection, and the one to S3 that is made for it."""

    def __init__(self, proxy: S3Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._open = [client]
        self._lock = threading.Lock()  # for _open: a closed socket's number may be another's
        self._is_cut = threading.Event()

    def cut(self) -> None:
        """Have ``serve`` end, whatever it waits for."""
        self._is_cut.set()
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:  # the other end was faster
                    pass

    def serve(self, upstream: tuple[str, int]) -> None:
        """Pass on request after request, until an end closes its connection or it is cut."""
        try:
            server = self._open_upstream(upstream)
            exchanges = _Exchanges(self._proxy, Wire(self._client), Wire(server), self._is_cut)
            while exchanges.one():
                pass
            if exchanges.leaves_body:
                self._linger()
        except (Closed, OSError):  # S3 is not there, or somebody left
            pass
        finally:
            with self._lock:
                while self._open:
                    self._open.pop().close()

    def _open_upstream(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(address, timeout=10)
        sock.settimeout(None)
        with self._lock:
            self._open.append(sock)
        if self._is_cut.is_set():
            raise Closed("cut")
        return sock

    def _linger(self) -> None:
        """Let the client read its answer: one that sends into a closed connection loses it."""
        self._client.shutdown(socket.SHUT_WR)
        self._client.settimeout(_LINGER_S)
        while self._client.recv(_RECEIVED_AT_ONCE):
            pass


class _Exchanges:
    """The requests of one connection and their answers."""

    def __init__(
        self, proxy: S3Proxy, client: Wire, upstream: Wire, is_cut: threading.Event
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._is_cut = is_cut
        self.leaves_body = False  # the client may still send one that nobody reads

    def one(self) -> bool:
        """Serve a request; whether another may follow on this connection."""
        if self._upstream.sock in self._speaking():  # closing: a client is to see it before asking
            return False
        head = self._client.head()
        entry = self._proxy._enter(Request.of(head.words[0], head.words[1], head.fields))
        fault = entry.request.fault
        extra_s = fault.seconds if isinstance(fault, Delay) else 0
        if self._is_cut.wait(self._proxy.delay_s + extra_s):
            return False
        match fault:
            case Refuse():
                self.leaves_body = head.expects_continue
                if not self.leaves_body:
                    drop(self._client.body(head.framing(0)))
                is_last = self.leaves_body
                self._answer_error(fault, entry, is_last=is_last)
            case Lose():
                lost = self._ask(head, entry)
                drop(self._upstream.body(lost.answer_framing(entry.request.method)))
                is_last = self.leaves_body or lost.ends_connection
                self._answer_error(fault, entry, is_last=is_last)
            case _:
                answer = self._ask(head, entry)
                is_last = self.leaves_body or answer.ends_connection
                self._answer(answer.closing() if is_last else answer, entry)
        return not (is_last or head.ends_connection)

    def _ask(self, head: Head, entry: _Entry) -> Head:
        """Pass a request on to S3; the head of the answer."""
        framing = head.framing(0)
        body = self._client.body(framing)
        if entry.request.fault is Damage.CUT_REQUEST:
            body = cut(body, framing)
        self._upstream.send(head.raw)
        if head.expects_continue and self._upstream.sock in self._speaking():
            answer = self._upstream.head()
            if answer.status != HTTPStatus.CONTINUE:
                self.leaves_body = True
                return answer
            self._client.send(answer.raw)
        try:
            _relay(body, self._upstream, entry)
        except HungUp:  # S3 may have answered before
            self.leaves_body = True
        while (answer := self._upstream.head()).status < HTTPStatus.OK:
            self._client.send(answer.raw)
        return answer

    def _answer(self, answer: Head, entry: _Entry) -> None:
        """Pass S3's answer on to the client."""
        request = entry.request
        framing = answer.answer_framing(request.method)
        body = self._upstream.body(framing)
        if request.fault is Damage.CUT_ANSWER:
            body = cut(body, framing)
        elif request.fault is Damage.FLIP_BIT and request.kind is Kind.GET and answer.status < 300:
            body = flipped(body, framing)
        entry.told(answer.status)
        self._client.send(answer.raw)
        _relay(body, self._client, entry)

    def _answer_error(self, error: Refuse | Lose, entry: _Entry, *, is_last: bool) -> None:
        document = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{error.code}</Code><Message>The proxy was told to.</Message></Error>"
        )
        body = document.encode()
        headers: tuple[str, ...] = ("Content-Type: application/xml",)
        if isinstance(error, Refuse) and error.body is not None:
            body, headers = error.body, error.headers
        if entry.request.method == "HEAD":
            body = b""
        status = HTTPStatus(error.status)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *headers,
            f"Content-Length: {len(body)}",
        ]
        answer = Head.parse("\r\n".join([*lines, "", ""]).encode())
        entry.told(status)
        entry.passed(len(body))
        self._client.send((answer.closing() if is_last else answer).raw + body)

    def _speaking(self) -> set[socket.socket]:
        """Who has something to say or closes; waits for one of them."""
        if self._client.ahead:
            return {self._client.sock}
        by_number = {wire.sock.fileno(): wire.sock for wire in (self._client, self._upstream)}
        poll = select.poll()
        for number in by_number:
            poll.register(number, select.POLLIN)
        return {by_number[number] for number, _ in poll.poll()}


def _relay(body: Iterable[Piece], receiver: Wire, entry: _Entry) -> None:
    for piece in body:
        if piece.is_payload:
            entry.passed(len(piece.content))
        try:
            receiver.send(piece.content)
        except ConnectionError as exc:
            raise HungUp from exc


def main() -> None:
    """Serve until a signal says to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.s3_proxy", description=__doc__)
    parser.add_argument("--upstream", required=True, help="URL of the S3 to pass requests on to")
    parser.add_argument("--delay-ms", type=float, default=0, help="to wait before each request")
    parser.add_argument("--port", type=int, help="to listen at; by default a free one")
    options = parser.parse_args()
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which inherit it
    with S3Proxy.before(
        options.upstream, delay_s=options.delay_ms / 1000, port=options.port
    ) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
