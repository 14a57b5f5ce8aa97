"""A proxy between an S3 client and S3: it counts requests, delays them, and makes faults.

Each connection has a thread, and its own connection to S3. Heads are read, and passed on as they
came (the client signed them); bodies go through one buffer, which on loopback measures as well as
splice. Plain HTTP, requests one after the other on a connection, buckets in the path.

``python -m tests.s3proxy --upstream URL --delay-ms 30`` runs one apart, for benchmarks: it prints
its URL, and ends with SIGTERM or SIGINT.
"""

import argparse
import errno
import random
import select
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from http import HTTPStatus
from typing import Final, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.services import free_port

# A quarter of it costs half as much time again, measured with 1 and 8 connections.
_BUFFER_SIZE: Final = 2**20
_HEAD_SIZE_LIMIT: Final = 64 * 2**10
# For a client that still sends what nobody wants; only one in trouble takes longer.
_LINGER_S: Final = 1.0


class Kind(StrEnum):
    """What a request asks of S3."""

    BUCKET = "BUCKET"  # made, looked at, removed: whatever is not about its keys
    LIST = "LIST"
    LIST_UPLOADS = "LIST_UPLOADS"
    LIST_PARTS = "LIST_PARTS"
    HEAD = "HEAD"
    GET = "GET"
    PUT = "PUT"
    COPY = "COPY"
    CREATE_UPLOAD = "CREATE_UPLOAD"
    PUT_PART = "PUT_PART"
    COPY_PART = "COPY_PART"
    COMPLETE_UPLOAD = "COMPLETE_UPLOAD"
    ABORT_UPLOAD = "ABORT_UPLOAD"
    DELETE = "DELETE"
    DELETE_MANY = "DELETE_MANY"
    OTHER = "OTHER"  # an object's ACL, tags, and the like


# By method, COPY standing for a PUT that names a source, and the parameter that changes its sense.
_ABOUT_BUCKET: Final = {
    ("GET", ""): Kind.LIST,
    ("GET", "uploads"): Kind.LIST_UPLOADS,
    ("POST", "delete"): Kind.DELETE_MANY,
}
_ABOUT_KEY: Final = {
    ("HEAD", ""): Kind.HEAD,
    ("GET", ""): Kind.GET,
    ("PUT", ""): Kind.PUT,
    ("COPY", ""): Kind.COPY,
    ("DELETE", ""): Kind.DELETE,
    ("POST", "uploads"): Kind.CREATE_UPLOAD,
    ("PUT", "uploadId"): Kind.PUT_PART,
    ("COPY", "uploadId"): Kind.COPY_PART,
    ("GET", "uploadId"): Kind.LIST_PARTS,
    ("POST", "uploadId"): Kind.COMPLETE_UPLOAD,
    ("DELETE", "uploadId"): Kind.ABORT_UPLOAD,
}
_SUBRESOURCES: Final = (
    "uploadId", "uploads", "delete", "acl", "attributes", "cors", "lifecycle", "location", "policy",
    "tagging", "versioning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this error, and do not ask S3."""

    status: int
    code: str


SLOW_DOWN: Final = Refuse(503, "SlowDown")
EXPIRED_TOKEN: Final = Refuse(403, "ExpiredToken")


@dataclass(frozen=True, slots=True)
class Lose:
    """Have S3 do the work, and answer with this error all the same."""

    status: int = 500
    code: str = "InternalError"


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before asking S3; on top of the proxy's own delay."""

    seconds: float


class Damage(Enum):
    """What happens to bodies on their way; the middle of one in chunks is its first chunk's."""

    CUT_REQUEST = auto()  # in the middle of its body; without one, S3 is not asked
    CUT_ANSWER = auto()  # in the middle of its body; without one, it is lost
    FLIP_BIT = auto()  # one, in the middle of what a GET gives


Fault = Refuse | Lose | Delay | Damage


class Request(NamedTuple):
    """A request, and what has become of it so far."""

    method: str
    kind: Kind
    path: str  # unquoted: /bucket/key
    query: str
    range: str | None  # the header: "bytes=0-9"
    status: int = 0  # that the client was told; 0: nothing, or nothing yet
    bytes: int = 0  # of both its bodies, that were passed on
    fault: Fault | None = None


# Asked for each request in the order of their coming, one at a time.
Faults = Callable[[Request], Fault | None]


def no_faults(_: Request) -> None:
    """Every request is served."""


def always(fault: Fault, *, only: Collection[str] = tuple(Kind)) -> Faults:
    """*fault* for each request of these kinds."""
    return lambda request: fault if request.kind in only else None


def nth(number: int, fault: Fault, *, only: Collection[str] = tuple(Kind)) -> Faults:
    """*fault* for one request: the *number*-th of these kinds from now on, counted from 1."""
    seen = 0

    def choose(request: Request) -> Fault | None:
        nonlocal seen
        seen += request.kind in only
        return fault if request.kind in only and seen == number else None

    return choose


def at_random(
    *faults: Fault, rate: float, seed: int, only: Collection[str] = tuple(Kind)
) -> Faults:
    """One of *faults* for about *rate* (0 to 1) of the requests of these kinds."""
    dice = random.Random(seed)

    def choose(request: Request) -> Fault | None:
        return dice.choice(faults) if request.kind in only and dice.random() < rate else None

    return choose


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


class _Closed(Exception):
    """One end closed the connection, or talks nonsense; the other's is to be closed as well."""


class _HungUp(_Closed):
    """The end that a body is for takes no more of it."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A request on record. Told before the client is, so that no test sees less than its client."""

    request: Request

    def told(self, status: int) -> None:
        self.request = self.request._replace(status=status)

    def passed(self, size: int) -> None:
        self.request = self.request._replace(bytes=self.request.bytes + size)


# A body's size, or how its end is found.
_Framing = int | Literal["chunked", "until closed"]


class _Piece(NamedTuple):
    """A part of a body, valid until the next is read. A chunk's size line is no payload."""

    content: bytes | memoryview
    is_payload: bool = True


@dataclass(frozen=True, slots=True)
class _Head:
    """The first line and the header fields of a request or an answer."""

    raw: bytes
    words: list[str]
    fields: dict[str, str]  # by their names in lower case

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2:  # an answer may lack a phrase
            raise _Closed(f"not HTTP: {first}")
        pairs = (line.partition(":") for line in lines)
        return cls(raw, words, {name.lower(): value.strip() for name, _, value in pairs})

    def closing(self) -> "_Head":
        """Itself, announcing that the connection ends."""
        lines = self.raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        return _Head.parse(b"\r\n".join([*kept, b"Connection: close", b"", b""]))

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def expects_continue(self) -> bool:
        return self.fields.get("expect", "").lower() == "100-continue"

    @property
    def ends_connection(self) -> bool:
        asked = self.fields.get("connection", "").lower()
        return "close" in asked or ("HTTP/1.0" in self.words and "keep-alive" not in asked)

    def framing(self, default: _Framing) -> _Framing:
        if "chunked" in self.fields.get("transfer-encoding", "").lower():
            return "chunked"
        return int(self.fields["content-length"]) if "content-length" in self.fields else default

    def answer_framing(self, method: str) -> _Framing:
        if method == "HEAD" or self.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            return 0
        return self.framing("until closed")

    def request(self) -> Request:
        method, target = self.words[:2]
        path, _, query = target.partition("?")
        copies = method == "PUT" and "x-amz-copy-source" in self.fields
        kind = _kind("COPY" if copies else method, path, query)
        return Request(method, kind, unquote(path), query, self.fields.get("range"))


def _kind(method: str, path: str, query: str) -> Kind:
    parameters = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    about = method, next((name for name in _SUBRESOURCES if name in parameters), "")
    bucket, _, key = path.lstrip("/").partition("/")
    if key:
        return _ABOUT_KEY.get(about, Kind.OTHER)
    return _ABOUT_BUCKET.get(about, Kind.BUCKET) if bucket else Kind.BUCKET


class _Wire:
    """The connection to one of the two ends; reading raises _Closed where that end closed it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.ahead = b""  # read, and not asked for yet
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self.send = sock.sendall

    def head(self) -> _Head:
        return _Head.parse(self._through(b"\r\n\r\n"))

    def body(self, framing: _Framing) -> Iterator[_Piece]:
        match framing:
            case "chunked":
                yield from self._chunks()
            case "until closed":
                try:
                    yield from map(_Piece, self._take(sys.maxsize))
                except _Closed:  # so that was the end
                    return
            case size:
                yield from map(_Piece, self._take(size))

    def _chunks(self) -> Iterator[_Piece]:
        while size := int((line := self._through(b"\r\n")).partition(b";")[0], 16):
            yield _Piece(line, is_payload=False)
            yield from map(_Piece, self._take(size))
            yield _Piece(self._through(b"\r\n"), is_payload=False)
        # Trailers, if any, and the empty line after them.
        while line != b"\r\n":
            yield _Piece(line, is_payload=False)
            line = self._through(b"\r\n")
        yield _Piece(line, is_payload=False)

    def _take(self, size: int) -> Iterator[bytes | memoryview]:
        content: bytes | memoryview
        while size > 0:
            if self.ahead:
                content, self.ahead = self.ahead[:size], self.ahead[size:]
            else:
                received = self.sock.recv_into(self._buffer, min(size, _BUFFER_SIZE))
                if received == 0:
                    raise _Closed("inside a body")
                content = self._buffer[:received]
            size -= len(content)
            yield content

    def _through(self, mark: bytes) -> bytes:
        while mark not in self.ahead:
            received = self.sock.recv(_HEAD_SIZE_LIMIT)
            if not received or len(self.ahead) > _HEAD_SIZE_LIMIT:
                raise _Closed("inside a head, or before it")
            self.ahead += received
        before, _, self.ahead = self.ahead.partition(mark)
        return before + mark


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
            exchanges = _Exchanges(self._proxy, _Wire(self._client), _Wire(server), self._is_cut)
            while exchanges.one():
                pass
            if exchanges.leaves_body:
                self._linger()
        except (_Closed, OSError):  # S3 is not there, or somebody left
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
            raise _Closed("cut")
        return sock

    def _linger(self) -> None:
        """Let the client read its answer: one that sends into a closed connection loses it."""
        self._client.shutdown(socket.SHUT_WR)
        self._client.settimeout(_LINGER_S)
        while self._client.recv(_HEAD_SIZE_LIMIT):
            pass


class _Exchanges:
    """The requests of one connection and their answers."""

    def __init__(
        self, proxy: S3Proxy, client: _Wire, upstream: _Wire, is_cut: threading.Event
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
        entry = self._proxy._enter(head.request())
        fault = entry.request.fault
        extra_s = fault.seconds if isinstance(fault, Delay) else 0
        if self._is_cut.wait(self._proxy.delay_s + extra_s):
            return False
        match fault:
            case Refuse():
                self.leaves_body = head.expects_continue
                if not self.leaves_body:
                    _drop(self._client.body(head.framing(0)))
                is_last = self.leaves_body
                self._answer_error(fault, entry, is_last=is_last)
            case Lose():
                lost = self._ask(head, entry)
                _drop(self._upstream.body(lost.answer_framing(entry.request.method)))
                is_last = self.leaves_body or lost.ends_connection
                self._answer_error(fault, entry, is_last=is_last)
            case _:
                answer = self._ask(head, entry)
                is_last = self.leaves_body or answer.ends_connection
                self._answer(answer.closing() if is_last else answer, entry)
        return not (is_last or head.ends_connection)

    def _ask(self, head: _Head, entry: _Entry) -> _Head:
        """Pass a request on to S3; the head of the answer."""
        framing = head.framing(0)
        body = self._client.body(framing)
        if entry.request.fault is Damage.CUT_REQUEST:
            body = _cut(body, framing)
        self._upstream.send(head.raw)
        if head.expects_continue and self._upstream.sock in self._speaking():
            answer = self._upstream.head()
            if answer.status != HTTPStatus.CONTINUE:
                self.leaves_body = True
                return answer
            self._client.send(answer.raw)
        try:
            _relay(body, self._upstream, entry)
        except _HungUp:  # S3 may have answered before
            self.leaves_body = True
        while (answer := self._upstream.head()).status < HTTPStatus.OK:
            self._client.send(answer.raw)
        return answer

    def _answer(self, answer: _Head, entry: _Entry) -> None:
        """Pass S3's answer on to the client."""
        request = entry.request
        framing = answer.answer_framing(request.method)
        body = self._upstream.body(framing)
        if request.fault is Damage.CUT_ANSWER:
            body = _cut(body, framing)
        elif request.fault is Damage.FLIP_BIT and request.kind is Kind.GET and answer.status < 300:
            body = _flipped(body, framing)
        entry.told(answer.status)
        self._client.send(answer.raw)
        _relay(body, self._client, entry)

    def _answer_error(self, error: Refuse | Lose, entry: _Entry, *, is_last: bool) -> None:
        document = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{error.code}</Code><Message>The proxy was told to.</Message></Error>"
        )
        body = b"" if entry.request.method == "HEAD" else document.encode()
        status = HTTPStatus(error.status)
        answer = _Head.parse(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
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


def _relay(body: Iterable[_Piece], receiver: _Wire, entry: _Entry) -> None:
    for piece in body:
        if piece.is_payload:
            entry.passed(len(piece.content))
        try:
            receiver.send(piece.content)
        except ConnectionError as exc:
            raise _HungUp from exc


def _drop(body: Iterator[_Piece]) -> None:
    deque(body, maxlen=0)


def _cut(body: Iterator[_Piece], framing: _Framing) -> Iterator[_Piece]:
    if framing == 0:
        raise _Closed("cut")
    return _first_half(body, framing)


def _first_half(body: Iterator[_Piece], framing: _Framing) -> Iterator[_Piece]:
    for piece, middle in _with_middle(body, framing):
        if middle is not None:
            yield _Piece(piece.content[:middle])
            raise _Closed("cut")
        yield piece


def _flipped(body: Iterator[_Piece], framing: _Framing) -> Iterator[_Piece]:
    for piece, middle in _with_middle(body, framing):
        if middle is None:
            yield piece
        else:
            content = bytearray(piece.content)
            content[middle] ^= 1
            yield _Piece(bytes(content))


def _with_middle(body: Iterator[_Piece], framing: _Framing) -> Iterator[tuple[_Piece, int | None]]:
    """Each piece, with the offset of the body's middle where it is inside this piece."""
    ahead = framing // 2 if isinstance(framing, int) else None
    for piece in body:
        size = len(piece.content)
        if not piece.is_payload:
            yield piece, None
            continue
        if ahead is None:
            ahead = size // 2
        yield piece, ahead if 0 <= ahead < size else None
        ahead -= size


def main() -> None:
    """Serve until a signal says to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.s3proxy", description=__doc__)
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
