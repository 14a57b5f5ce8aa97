"""Registries that do what docker-registry does not: well, badly, or with bad intent."""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from urllib.request import urlopen

import pytest

from blobfs.digest import Digest
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    Corrupt,
    DigestMismatch,
    ManifestRejected,
    ManifestUnknown,
    StorageUnavailable,
    Unsupported,
)
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX
from blobfs.transfer.registry import (
    RegistryOptions,
    RegistrySource,
    RegistryTarget,
    api,
    client,
    responses,
)
from blobfs.transfer.registry.authorization import Authorization, Scope
from blobfs.transfer.registry.logins import Logins
from tests.support.layout import descriptor, image
from tests.support.places import described
from tests.support.scripted_server import Request, Response, ScriptedServer
from tests.transfer.registry.conftest import ANONYMOUS, in_chunks

LOGIN = RegistryOptions(credentials=("me", "secret"))
BLOB = described(b"some bytes")
MANIFEST = image(Digest.of(b"c"))
V1 = Tag("v1")

Answers = Mapping[str, Response | Callable[[Request], Response | None]]
Serve = Callable[[Answers], ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a registry that has answers by method and path, and 404 for others."""
    with ExitStack() as stack:

        def start(answers: Answers) -> ScriptedServer:
            known = {"GET /v2/": Response(), **answers}

            def respond(request: Request) -> Response | None:
                found = known.get(f"{request.method} {request.path}", Response(404))
                return found(request) if callable(found) else found

            return stack.enter_context(ScriptedServer.serving(respond))

        yield start


@pytest.fixture
def source(serve: Serve) -> Iterator[Callable[[Answers], RegistrySource]]:
    with ExitStack() as stack:
        yield lambda answers: stack.enter_context(RegistrySource(serve(answers).address, LOGIN))


Sourced = Callable[[Answers], RegistrySource]


def blob_path(name: str = "a") -> str:
    return f"/v2/{name}/blobs/{BLOB.digest}"


def listed(*digests: Digest, link: str = "") -> Response:
    document = {"schemaVersion": 2, "manifests": [{"digest": str(digest)} for digest in digests]}
    headers = {"Link": link} if link else {}
    return Response(200, json.dumps(document).encode(), headers)


def test_lists_go_on_at_the_link_of_each_page(source: Sourced) -> None:
    def tags(request: Request) -> Response:
        last = dict(request.query).get("next_page", "0")
        link = f'</v2/a/tags/list?next_page={int(last) + 1}>; rel="next"'
        headers = {} if last == "2" else {"Link": link}
        return Response(200, json.dumps({"tags": [f"v{last}", "not/a/tag"]}).encode(), headers)

    assert list(source({"GET /v2/a/tags/list": tags}).tags("a")) == ["v0", "v1", "v2"]


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.2:1/v2/a/tags/list>",
        "<//user:secret@127.0.0.1/v2/a/tags/list>",
        "<file:///etc/passwd>",
        "</v2/a/tags/list?n=1000>",
        "<>",
    ],
)
def test_link_that_leads_elsewhere_or_in_a_circle_is_refused(source: Sourced, link: str) -> None:
    answer = Response(200, b'{"tags": ["v1"]}', {"Link": f'{link}; rel="next"'})
    with pytest.raises(Corrupt) as caught:
        list(source({"GET /v2/a/tags/list": answer}).tags("a"))
    assert "secret" not in str(caught.value)


def test_names_that_are_no_text_are_left_out(source: Sourced) -> None:
    lists = {
        "GET /v2/_catalog": Response(200, b'{"repositories": [5, {"a": 1}, null, "a"]}'),
        "GET /v2/a/tags/list": Response(200, b'{"tags": [5, ["v2"], null, "v1"]}'),
    }
    registry = source(lists)
    assert list(registry.repositories()) == ["a"]
    assert list(registry.tags("a")) == [V1]


def test_header_of_a_link_costs_no_time(source: Sourced) -> None:
    answer = Response(200, b'{"tags": ["v1"]}', {"Link": "<" * 65_000})
    begin_s = time.process_time()
    assert list(source({"GET /v2/a/tags/list": answer}).tags("a")) == ["v1"]
    assert time.process_time() - begin_s < 5


def test_list_is_bounded(source: Sourced, monkeypatch: pytest.MonkeyPatch) -> None:
    def tags(request: Request) -> Response:
        page = int(dict(request.query).get("page", "0"))
        link = f'</v2/a/tags/list?page={page + 1}>; rel="next"'
        return Response(200, b'{"tags": ["v1", "v2"]}', {"Link": link})

    monkeypatch.setattr(api, "_ITEMS", 9)
    with pytest.raises(Corrupt, match="does not end"):
        list(source({"GET /v2/a/tags/list": tags}).tags("a"))


def test_list_of_empty_values_takes_no_memory(source: Sourced) -> None:
    body = b'{"tags": [' + b"[]," * 9_000_000 + b"1]}"
    with pytest.raises(Corrupt, match="not a JSON object"):
        list(source({"GET /v2/a/tags/list": Response(200, body)}).tags("a"))


_ENDLESS = {
    "before the header": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "in the header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "after the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"x:\r\n",
    ),
}


@pytest.mark.parametrize(("begin", "rest"), _ENDLESS.values(), ids=_ENDLESS)
def test_response_without_end_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, begin: bytes, rest: bytes
) -> None:
    """[S22.16] A response that does not end"""
    monkeypatch.setattr(client, "_READ_S", 0.1)
    monkeypatch.setattr(client, "_FIRST_ATTEMPTS", 1)
    monkeypatch.setattr(responses, "_READ_S", 0.1)
    with (
        endless(begin, rest) as address,
        RegistrySource(address, ANONYMOUS) as source,
        pytest.raises(StorageUnavailable),
    ):
        source.manifest("a", BLOB.digest)


@contextmanager
def endless(begin: bytes, rest: bytes) -> Iterator[str]:
    """A server that answers with *begin*, and *rest* again and again."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(begin)
                while True:
                    self.request.sendall(rest)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("entries", [5, True, {"a": 1}, None])
def test_index_of_referrers_that_is_none_is_replaced(serve: Serve, entries: object) -> None:
    """[S22.14] keeps referrers, in the index with the tag"""
    subject = Digest.of(b"subject")
    tag = f"sha256-{subject.encoded}"
    stored: list[bytes] = []
    payload = json.dumps({**json.loads(MANIFEST), "subject": descriptor(subject)}).encode()
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}

    def put(request: Request) -> Response:
        stored.append(request.body)
        return Response(201)

    digest = Digest.of(payload)
    server = serve({
        f"PUT /v2/a/manifests/{digest}": Response(201),
        f"GET /v2/a/manifests/{tag}": Response(200, json.dumps(index).encode()),
        f"PUT /v2/a/manifests/{tag}": put,
    })  # fmt: skip
    with RegistryTarget(server.address, ANONYMOUS) as target:
        target.put_manifest("a", digest, payload)
    assert json.loads(stored[0])["manifests"][-1]["digest"] == str(digest)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b'{"tags": 7}', b"\xff"])
def test_list_that_is_none_is_no_success_without_a_word(source: Sourced, body: bytes) -> None:
    registry = source({"GET /v2/a/tags/list": Response(200, body)})
    if body == b'{"tags": 7}':
        assert list(registry.tags("a")) == []
    else:
        with pytest.raises(Corrupt):
            list(registry.tags("a"))


def test_registry_without_a_list_of_repositories_says_so(source: Sourced) -> None:
    with pytest.raises(Unsupported, match="name them one by one"):
        list(source({}).repositories())


def test_manifest_without_end_is_refused(source: Sourced) -> None:
    digest = Digest.of(b"")
    answer = Response(200, b" " * (5 * 2**20))
    with pytest.raises(Corrupt, match="larger"):
        source({f"GET /v2/a/manifests/{digest}": answer}).manifest("a", digest)


def test_other_manifest_than_that_of_the_digest_is_refused(source: Sourced) -> None:
    digest = Digest.of(b"other")
    headers = {"Docker-Content-Digest": str(digest)}
    answer = Response(200, MANIFEST, headers)
    registry = source({f"{verb} /v2/a/manifests/{path}": answer
                       for verb in ("GET", "HEAD") for path in ("v1", digest)})  # fmt: skip
    assert registry.tagged("a", V1) == digest
    with pytest.raises(DigestMismatch):
        registry.outline("a", digest)


@pytest.mark.parametrize("header", ["", "sha256:short", "md5:x"])
def test_tag_without_a_digest_in_a_header_has_that_of_its_content(
    source: Sourced, header: str
) -> None:
    answer = Response(200, MANIFEST, {"Docker-Content-Digest": header})
    registry = source({"HEAD /v2/a/manifests/v1": answer, "GET /v2/a/manifests/v1": answer})
    assert registry.tagged("a", V1) == Digest.of(MANIFEST)


def test_referrers_are_those_of_the_api(source: Sourced) -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    path = f"/v2/a/referrers/{BLOB.digest}"

    def pages(request: Request) -> Response:
        if request.query:
            return listed(one, two)
        return listed(one, link=f'<{path}?page=2>; rel="next"')

    assert list(source({f"GET {path}": pages}).referrers("a", BLOB.digest)) == [one, two]


def test_registry_without_the_api_of_referrers_is_asked_for_it_once(serve: Serve) -> None:
    server = serve({})
    with RegistrySource(server.address, ANONYMOUS) as source:
        for content in (b"1", b"2"):
            assert list(source.referrers("a", Digest.of(content))) == []
    assert sum("/referrers/" in request.path for request in server.requests) == 1


def test_redirect_to_another_host_carries_no_authorization(serve: Serve) -> None:
    """[S22.12] a token only to the registry"""
    storage = serve({"GET /bucket/key": Response(200, b"some bytes")})

    def blob(request: Request) -> Response:
        if request.authorization is None:
            return Response(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})
        return Response(307, b"moved", {"Location": f"{storage.url}/bucket/key?signature=x"})

    server = serve({f"GET {blob_path()}": blob})
    with RegistrySource(server.address, LOGIN) as source, source.open("a", BLOB) as reader:
        assert b"".join(reader.chunks()) == b"some bytes"
    assert [request.authorization for request in storage.requests] == [None]
    assert server.requests[-1].authorization is not None


def test_redirects_in_a_circle_end(serve: Serve) -> None:
    server = serve({f"GET {blob_path()}": Response(307, b"", {"Location": blob_path()})})
    with RegistrySource(server.address, ANONYMOUS) as source, pytest.raises(BlobfsError):
        source.open("a", BLOB).read_at(0, 1)
    assert len(server.requests) < 10


@pytest.mark.parametrize("location", ["http://x:y@127.0.0.1/", "file:///etc/passwd", "http://["])
def test_redirect_to_no_address_is_refused(source: Sourced, location: str) -> None:
    registry = source({f"GET {blob_path()}": Response(307, b"", {"Location": location})})
    with pytest.raises(Corrupt):
        registry.open("a", BLOB).read_at(0, 1)


def test_server_that_ignores_ranges_is_read_from_the_begin_again(serve: Serve) -> None:
    lengths = iter(["9999", "10"])  # the first answer ends early

    def blob(_: Request) -> Response:
        body = b"some bytes"
        if next(lengths) == "10":
            return Response(200, body)
        return Response(200, body[:4], {"Content-Length": "10"})

    server = serve({f"GET {blob_path()}": blob})
    with RegistrySource(server.address, ANONYMOUS) as source, source.open("a", BLOB) as reader:
        assert b"".join(reader.chunks(4)) == b"some bytes"
    assert server.requests[-1].headers["range"] == "bytes=4-"


@pytest.mark.parametrize(
    "answer",
    [
        Response(200, b"some bytes and more"),
        Response(200, b"some"),
        Response(206, b"some bytes", {"Content-Range": "bytes 3-12/13"}),
        Response(206, b"some bytes", {"Content-Range": "nonsense"}),
        Response(206, b"some bytes", {"Content-Range": f"bytes 0-9/{'9' * 5000}"}),
    ],
)
def test_blob_of_another_size_is_refused(source: Sourced, answer: Response) -> None:
    reader = source({f"GET {blob_path()}": answer}).open("a", BLOB)
    with pytest.raises(Corrupt):
        reader.read_at(0, 10)


def test_body_that_comes_byte_by_byte_ends_in_time(
    source: Sourced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_READ_S", 0.03)
    monkeypatch.setattr(client, "_ATTEMPTS", 1)
    answer = Response(200, b"some bytes", pause_s=0.01)
    blob = source({f"GET {blob_path()}": answer}).open("a", BLOB)
    with pytest.raises(StorageUnavailable, match="too slowly"):
        blob.read_at(0, 10)


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "ten"])
def test_size_that_is_no_number_of_bytes_is_refused(source: Sourced, length: str) -> None:
    answer = Response(200, b"", {"Content-Length": length})
    with pytest.raises(Corrupt):
        source({f"HEAD {blob_path()}": answer}).size("a", BLOB.digest)


@pytest.mark.parametrize("realm", ["http://127.0.0.2.example.com/token", "ftp://x/", "file://x/"])
def test_login_is_not_sent_to_a_token_service_without_tls(serve: Serve, realm: str) -> None:
    """[S22.12] over https, to its token service"""
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    server = serve({"GET /v2/": Response(401, b"", challenge)})
    with RegistrySource(server.address, LOGIN) as source, pytest.raises(AccessDenied) as caught:
        source.size("a", BLOB.digest)
    assert "secret" not in str(caught.value)


def test_registry_behind_https_leads_to_no_token_service_of_this_machine(serve: Serve) -> None:
    """[S22.12] A registry behind https cannot lead to a token service that is not."""
    tokens = serve({"GET /token": Response(200, b'{"token": "own"}')})

    def fetch(
        _method: str, url: str, _headers: Mapping[str, str], _body: bytes | None
    ) -> tuple[int, bytes]:
        return 200, urlopen(url).read()

    options = RegistryOptions(anonymous=True)
    scope = Scope("a", ("repository:a:pull",))
    for host, is_asked in (("registry.example.com", False), ("localhost:5000", True)):
        authorization = Authorization(host, Logins(host, options), fetch, options)
        challenge = [f'Bearer realm="{tokens.url}/token"']
        if is_asked:
            assert authorization.learn(challenge, scope, None)
        else:
            with pytest.raises(AccessDenied, match="not behind https"):
                authorization.learn(challenge, scope, None)
            assert not tokens.requests


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"token": "a\\r\\nX: y"}', b'{"token": 7}', b'{"token": ""}'],
)
def test_answer_that_is_no_token_denies_access(serve: Serve, body: bytes) -> None:
    tokens = serve({"GET /token": Response(200, body)})
    challenge = {"WWW-Authenticate": f'Bearer realm="{tokens.url}/token"'}
    server = serve({"GET /v2/": Response(401, b"", challenge)})
    with RegistrySource(server.address, LOGIN) as source, pytest.raises(AccessDenied):
        source.size("a", BLOB.digest)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer realm", "Digest realm=x", 'Bearer realm="[', "Basic"]
)
def test_challenge_that_cannot_be_met_denies_access(serve: Serve, header: str) -> None:
    answer = Response(401, b"", {"WWW-Authenticate": header})
    server = serve({"GET /v2/": answer, f"HEAD {blob_path()}": answer})
    with RegistrySource(server.address, LOGIN) as source, pytest.raises(AccessDenied):
        source.size("a", BLOB.digest)


def test_message_of_an_error_is_short_and_printable(source: Sourced) -> None:
    document = {"errors": [{"code": "DENIED", "message": "\x1b[2J\n" + "x" * 9000}]}
    answer = Response(403, json.dumps(document).encode())
    path = f"GET /v2/a/manifests/{BLOB.digest}"
    with pytest.raises(AccessDenied, match="DENIED") as caught:
        source({path: answer}).manifest("a", BLOB.digest)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("status", [400, 404, 500])
def test_host_that_is_no_registry_is_an_error(serve: Serve, status: int) -> None:
    server = serve({"GET /v2/": Response(status, b"<html>")})
    with RegistrySource(server.address, ANONYMOUS) as source, pytest.raises(BlobfsError):
        source.size("a", BLOB.digest)


class Resumable:
    """A registry that goes on with uploads, and takes *limit* bytes of the first chunk."""

    def __init__(self, limit: int, **headers: str) -> None:
        self.limit = limit
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.content = b""
        self.sizes: list[int] = []
        self.refused: dict[int, int] = {}
        self.requests: list[Request] = []

    @contextmanager
    def opened(self) -> Iterator[RegistryTarget]:
        """Serve, and open it to write to it."""
        with (
            ScriptedServer.serving(self.respond) as server,
            RegistryTarget(server.address, ANONYMOUS) as target,
        ):
            self.requests = server.requests
            yield target

    def respond(self, request: Request) -> Response | None:
        match request.method, request.path:
            case "POST", _:
                return Response(202, b"", self.headers | {"Location": "/up/0"})
            case "PATCH", path:
                assert path == f"/up/{len(self.content)}"
                return self._take(request)
            case "PUT", _:
                self.content += request.body
                return Response(201)
        return Response(404 if "blobs" in request.path else 200, b"", self._state())

    def _take(self, request: Request) -> Response | None:
        assert request.headers["content-range"].startswith(f"{len(self.content)}-")
        self.sizes.append(len(request.body))
        if status := self.refused.get(len(self.sizes)):
            return Response(status)
        taken = request.body[: self.limit] if len(self.sizes) == 1 else request.body
        self.content += taken
        return Response(202, b"", self._state()) if taken == request.body else None

    def _state(self) -> dict[str, str]:
        size = len(self.content)
        return {"Range": f"0-{max(size - 1, 0)}", "Location": f"/up/{size}"}


LARGE = bytes(range(251)) * (35 * 2**20 // 251)
LARGE_BLOB = described(LARGE)


@pytest.mark.parametrize("taken", [0, 1_000_000, 16 * 2**20 - 1])
def test_upload_goes_on_where_the_registry_has_its_end(taken: int) -> None:
    """[S22.13] An upload goes on where the registry has its end"""
    registry = Resumable(taken)
    with registry.opened() as target:
        target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
    assert registry.content == LARGE
    assert registry.sizes == [16 * 2**20, 16 * 2**20 - taken, 16 * 2**20]


@pytest.mark.parametrize("status", [400, 405, 413, 416])
def test_registry_that_takes_no_chunks_gets_blobs_as_a_whole(status: int) -> None:
    registry = Resumable(2**30)
    registry.refused = {1: status}
    with registry.opened() as target:
        for _ in range(2):
            registry.content = b""
            target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
            assert registry.content == LARGE
        methods = [request.method for request in registry.requests[1:]]
        assert methods == ["POST", "PATCH", "POST", "PUT", "POST", "PUT"]
        with pytest.raises(DigestMismatch):
            target.put_blob("a", LARGE_BLOB, in_chunks(LARGE[:-1] + b"!"))


def test_registry_that_takes_only_one_chunk_gets_the_blob_as_a_whole_when_it_is_repeated() -> None:
    registry = Resumable(2**30)
    registry.refused = {2: 400}
    with registry.opened() as target:
        with pytest.raises(StorageUnavailable):
            target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
        registry.content = b""
        target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
    assert registry.content == LARGE


def test_range_in_the_answer_to_a_chunk_is_not_needed(serve: Serve) -> None:
    """ECR has that of the chunk alone."""
    content: list[bytes] = []

    def take(request: Request) -> Response:
        content.append(request.body)
        return Response(201, b"", {"Range": "0-10485759"})

    post = Response(202, b"", {"Location": "/up"})
    server = serve({"POST /v2/a/blobs/uploads/": post, "PATCH /up": take, "PUT /up": take})
    with RegistryTarget(server.address, ANONYMOUS) as target:
        target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
    assert b"".join(content) == LARGE


def test_chunks_have_the_length_that_the_registry_needs() -> None:
    registry = Resumable(2**30, OCI_Chunk_Min_Length=str(20 * 2**20))
    with registry.opened() as target:
        target.put_blob("a", LARGE_BLOB, in_chunks(LARGE))
    assert registry.content == LARGE
    assert registry.sizes == [20 * 2**20]


def test_upload_at_another_host_carries_no_authorization(serve: Serve) -> None:
    storage = serve({"PUT /up": Response(201)})

    def post(request: Request) -> Response:
        if request.authorization is None:
            return Response(401, b"", {"WWW-Authenticate": "Basic"})
        return Response(202, b"", {"Location": f"{storage.url}/up?state=x"})

    server = serve({"POST /v2/a/blobs/uploads/": post})
    with RegistryTarget(server.address, LOGIN) as target:
        target.put_blob("a", BLOB, [b"some bytes"])
    [request] = storage.requests
    assert (request.authorization, request.body) == (None, b"some bytes")
    assert request.query == [("state", "x"), ("digest", str(BLOB.digest))]


def test_error_of_an_upload_has_no_state_of_it(serve: Serve) -> None:
    server = serve(
        {
            "POST /v2/a/blobs/uploads/": Response(202, b"", {"Location": "/up?state=secret"}),
            "PUT /up": Response(403, b"{}"),
        }
    )
    with (
        RegistryTarget(server.address, ANONYMOUS) as target,
        pytest.raises(AccessDenied) as caught,
    ):
        target.put_blob("a", BLOB, [b"some bytes"])
    assert "secret" not in str(caught.value)
    assert server.requests[-1].method == "DELETE"


def test_other_digest_than_that_of_the_content_is_noticed(serve: Serve) -> None:
    wrong = Response(201, b"", {"Docker-Content-Digest": str(Digest.of(b"wrong"))})
    server = serve(
        {
            "POST /v2/a/blobs/uploads/": Response(202, b"", {"Location": "/up"}),
            "PUT /up": wrong,
            f"PUT /v2/a/manifests/{Digest.of(MANIFEST)}": wrong,
        }
    )
    with RegistryTarget(server.address, ANONYMOUS) as target:
        with pytest.raises(DigestMismatch):
            target.put_blob("a", BLOB, [b"some bytes"])
        with pytest.raises(DigestMismatch):
            target.put_manifest("a", Digest.of(MANIFEST), MANIFEST)


def test_registry_that_knows_subjects_gets_no_tag_for_them(serve: Serve) -> None:
    subject = str(Digest.of(b"subject"))
    payload = json.dumps(
        json.loads(MANIFEST) | {"subject": {"mediaType": OCI_INDEX, "digest": subject, "size": 7}}
    ).encode()
    answer = Response(201, b"", {"OCI-Subject": subject})
    server = serve({f"PUT /v2/a/manifests/{Digest.of(payload)}": answer})
    with RegistryTarget(server.address, ANONYMOUS) as target:
        target.put_manifest("a", Digest.of(payload), payload)
    assert [request.method for request in server.requests[1:]] == ["PUT"]


def test_registry_that_forbids_layers_with_urls_gets_one_request_and_is_named(
    serve: Serve,
) -> None:
    """docker-registry answers with an unknown error then."""
    foreign = {**descriptor(BLOB.digest, size=10), "urls": ["https://example.com/layer"]}
    payload = json.dumps(json.loads(MANIFEST) | {"layers": [foreign]}).encode()
    path = f"PUT /v2/a/manifests/{Digest.of(payload)}"
    server = serve({path: Response(500, b'{"errors": [{"code": "UNKNOWN"}]}')})
    with (
        RegistryTarget(server.address, ANONYMOUS) as target,
        pytest.raises(ManifestRejected, match=r"validation\.manifests\.urls\.allow"),
    ):
        target.put_manifest("a", Digest.of(payload), payload)
    assert [request.method for request in server.requests[1:]] == ["PUT"]


def test_tag_is_removed_where_the_registry_can(serve: Serve) -> None:
    server = serve({"DELETE /v2/a/manifests/v1": Response(202)})
    with RegistryTarget(server.address, ANONYMOUS) as target:
        target.untag("a", V1)
        target.untag("a", Tag("missing"))


def test_official_image_of_docker_hub_has_a_namespace_in_urls() -> None:
    with RegistrySource("docker.io", ANONYMOUS) as source:
        assert source._api.call("GET", "alpine", "tags/list").url == "/v2/library/alpine/tags/list"
        assert source._api.call("GET", "team/app", "tags/list").url == "/v2/team/app/tags/list"


def test_proxy_of_the_environment_is_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ScriptedServer.serving(lambda _: Response(200, b'{"tags": ["v1"]}'))
    options = RegistryOptions(anonymous=True, tls_verify=False)
    with proxy as server:
        monkeypatch.setenv("http_proxy", f"http://me:pass%20word@{server.address}")
        monkeypatch.setenv("no_proxy", "direct.invalid")
        with RegistrySource("registry.invalid", options) as source:
            assert list(source.tags("a")) == ["v1"]
        with (
            RegistrySource("direct.invalid", options) as source,
            pytest.raises(StorageUnavailable, match="resolved"),
        ):
            list(source.tags("a"))
    assert server.requests[-1].target == "http://registry.invalid/v2/a/tags/list?n=1000"
    login = b64encode(b"me:pass word").decode()
    assert server.requests[-1].headers["proxy-authorization"] == f"Basic {login}"


def test_manifest_is_fetched_once_of_a_source(serve: Serve) -> None:
    digest = Digest.of(MANIFEST)
    server = serve({f"GET /v2/a/manifests/{digest}": Response(200, MANIFEST)})
    with RegistrySource(server.address, ANONYMOUS) as source:
        assert source.outline("a", digest).manifest.size == len(source.manifest("a", digest))
        with pytest.raises(ManifestUnknown):
            source.manifest("b", digest)
    assert sum(request.target.startswith("/v2/a/") for request in server.requests) == 1


def test_log_has_no_url_with_a_signature(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    storage = serve({"GET /key": Response(200, b"some bytes", {"X": "a\r\nnot a header\r\nY: b"})})
    moved = Response(307, b"", {"Location": f"{storage.url}/key?signature=secret"})
    server = serve({f"GET {blob_path()}": moved})
    with RegistrySource(server.address, ANONYMOUS) as source, source.open("a", BLOB) as reader:
        assert reader.read_at(0, 10) == b"some bytes"
    assert "secret" not in caplog.text
