"""The API side by side with docker-registry on the same storage: one request, two answers."""

import sys
from dataclasses import dataclass

import pytest

from blobfs.digest import OCTET_STREAM
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from tests.support.api_server import Answer, ask
from tests.support.services import Manifest

pytestmark = pytest.mark.registry

SMALL = "/v2/library/small"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
NOBODYS = f"sha256:{'a' * 64}"

HEADERS = (
    "accept-ranges",
    "allow",
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "link",
    "location",
)


@dataclass(frozen=True)
class Asked:
    """A request; ``{layer}`` and the like in it stand for digests."""

    path: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()

    def at(self, address: str, digests: dict[str, str]) -> Answer:
        headers = {name: value.format(**digests) for name, value in self.headers}
        return ask(address, self.path.format(**digests), self.method, **headers)

    def __str__(self) -> str:
        return " ".join([self.method, self.path[:60], *(value for _, value in self.headers)])


def asked(path: str, method: str = "GET", **headers: str) -> Asked:
    return Asked(path, method, tuple(headers.items()))


LAYER = f"{SMALL}/blobs/{{layer}}"
BY_TAG = f"{SMALL}/manifests/v1"
BY_DIGEST = f"{SMALL}/manifests/{{image}}"

ALIKE = [
    asked("/v2/"),
    asked("/v2/", "HEAD"),
    asked(LAYER),
    asked(LAYER, "HEAD"),
    asked(LAYER, Range="bytes=0-3"),
    asked(LAYER, Range="bytes=4-"),
    asked(LAYER, Range="bytes=-3"),
    asked(LAYER, Range="bytes=-999999"),
    asked(LAYER, Range="bytes=4000-999999"),
    asked(LAYER, Range="bytes=0-3", If_Range='"{layer}"'),
    asked(LAYER, Range="bytes=0-3", If_Range='"another"'),
    asked(LAYER, Range="bytes=0-3", If_Range='W/"{layer}"'),
    asked(LAYER, Range="bytes=0-3", If_Range="Thu, 29 Feb 2024 12:00:00 GMT"),
    asked(LAYER, If_None_Match='"{layer}"'),
    asked(LAYER, If_None_Match='"another", W/"{layer}"'),
    asked(LAYER, If_None_Match='"another"'),
    asked(LAYER, "HEAD", If_None_Match="*"),
    asked(LAYER, If_Match='"{layer}"'),
    asked(LAYER, If_Modified_Since="Thu, 29 Feb 2124 12:00:00 GMT"),
    asked(f"{SMALL}/blobs/{NOBODYS}"),
    asked(f"{SMALL}/blobs/{NOBODYS}", "HEAD"),
    asked(f"{SMALL}/blobs/{{image}}"),
    asked("/v2/library/multi/blobs/{layer}"),
    asked("/v2/no/such/blobs/{layer}"),
    asked(f"{SMALL}/blobs/uploads/"),
    asked(BY_TAG, Accept=OCI_MANIFEST),
    asked(BY_TAG, "HEAD", Accept=OCI_MANIFEST),
    asked(BY_TAG, Accept=f"text/plain, {OCI_MANIFEST};q=0.1"),
    asked(BY_TAG, Accept=OCI_MANIFEST, Range="bytes=0-3"),
    asked(BY_DIGEST, Accept=OCI_MANIFEST),
    asked(BY_DIGEST, Accept=OCI_INDEX),
    asked(f"{SMALL}/manifests/none", Accept=OCI_MANIFEST),
    asked(f"{SMALL}/manifests/none", "HEAD", Accept=OCI_MANIFEST),
    asked(f"{SMALL}/manifests/{NOBODYS}", Accept=OCI_MANIFEST),
    asked("/v2/no/such/manifests/v1", Accept=OCI_MANIFEST),
    asked("/v2/library/multi/manifests/latest", Accept=OCI_INDEX),
    asked("/v2/library/multi/manifests/latest", Accept=OCI_MANIFEST),
    asked("/v2/x/blobs/uploads/tags/list"),
    asked("/v2/x/blobs/uploads/manifests/v1", Accept=OCI_MANIFEST),
    asked(f"/v2/x/blobs/uploads/blobs/{NOBODYS}"),
    asked("/v2/team/app/debug/manifests/v1", Accept=OCI_MANIFEST),
    asked("/v2/library%2Fsmall/manifests/v1", Accept=OCI_MANIFEST),
    asked("/v2/team/app/tags/list"),
    asked("/v2/no/such/tags/list"),
    asked("/v2/library/tags/list"),
    asked("/v2/_catalog"),
    asked("/v2/_catalog?n=1"),
    asked("/v2/_catalog?n=2&last=library/multi"),
    asked("/v2/_catalog?n=1&last=team/app"),
    asked("/v2/_catalog?n=4"),
    asked("/v2/_catalog?n=0"),
    asked("/v2/_catalog?n=1000"),
    asked("/v2/_catalog?last=library/n"),
    asked("/v2/_catalog?last=zzz"),
    asked("/v2/nothing"),
]


@pytest.fixture(scope="module")
def digests(image: Manifest) -> dict[str, str]:
    return {"config": image.blobs[0], "layer": image.blobs[1], "image": image.digest}


@pytest.mark.parametrize("request_", ALIKE, ids=str)
def test_answers_are_those_of_distribution(
    api: str, peer: str, digests: dict[str, str], request_: Asked
) -> None:
    """[S16.1] Status, headers and body are those of docker-registry 2.8 on the same storage."""
    ours, theirs = request_.at(api, digests), request_.at(peer, digests)
    assert (ours.status, _told(ours), ours.body) == (theirs.status, _told(theirs), theirs.body)


def _told(answer: Answer) -> dict[str, str]:
    """The headers that matter; a layer is to distribution what any blob is."""
    told = {name: value for name in HEADERS if (value := answer.headers.get(name)) is not None}
    if told.get("content-type") == LAYER_TYPE:
        told["content-type"] = OCTET_STREAM
    return told


# What we answer in another way than distribution 2.8, and why.
DIFFERENCES = [
    # Its length is that of the blob, and so the answer never ends; the words are no JSON.
    (asked(LAYER, Range="bytes=99999-"), 416, 416),
    (asked(LAYER, Range="bytes=-0"), 416, 206),
    # RFC 9110, 14.2: a unit that is not known is ignored, and so may be what is no range.
    (asked(LAYER, Range="items=0-3"), 200, 416),
    (asked(LAYER, Range="bytes=x"), 200, 416),
    # Several ranges may be ignored, too, which spares us the multipart form that nobody asks for.
    (asked(LAYER, Range="bytes=0-1,4-5"), 200, 206),
    # RFC 9110, 14.2: only GET has ranges.
    (asked(LAYER, "HEAD", Range="bytes=0-3"), 200, 206),
    # Its length is that of the blob here, too.
    (asked(LAYER, If_Match='"another"'), 412, 412),
    # RFC 9110, 15.4.5: 304 has the ETag.
    (asked(BY_TAG, Accept=OCI_MANIFEST, If_None_Match='"{image}"'), 304, 304),
    # A page that nobody looks at.
    (asked("/v2"), 301, 301),
    # A slash too many makes another page, and there is none.
    (asked("/v2/_catalog/"), 404, 301),
    # What no repository, tag or digest can be called has no page there, or is an error of its own.
    (asked("/v2/UPPER/tags/list"), 400, 404),
    (asked(f"/v2/{'a/' * 128}a/tags/list"), 400, 500),
    (asked("/v2/a/../b/tags/list"), 400, 301),
    (asked(f"{SMALL}/blobs/x"), 400, 404),
    (asked(f"{SMALL}/blobs/sha256:abc"), 400, 400),
    (asked(f"{SMALL}/manifests/sha256:abc"), 400, 500),
    (asked(f"{SMALL}/manifests/-"), 404, 404),
    # RFC 9110, 12.5.1: no Accept accepts any type, and so does */*.
    (asked(BY_TAG), 200, 404),
    (asked(BY_TAG, Accept="*/*"), 200, 404),
    (asked(BY_TAG, "HEAD"), 200, 404),
    (asked(BY_TAG, Accept="application/*;q=0.5"), 200, 404),
    (asked("/v2/library/multi/manifests/latest"), 200, 404),
    # A layer is no manifest.
    (asked(f"{SMALL}/manifests/{{layer}}", Accept=OCI_MANIFEST), 404, 500),
    # The specification's errors are JSON, and every page may be asked for its head.
    (asked(LAYER, "DELETE"), 405, 405),
    (asked(f"{SMALL}/tags/list", "HEAD"), 200, 405),
    (asked("/v2/_catalog", "HEAD"), 200, 405),
    # Tags by the page come with distribution 3, and so does an error for what is no number.
    (asked(f"{SMALL}/tags/list?n=1"), 200, 200),
    (asked("/v2/_catalog?n=x"), 400, 200),
    (asked("/v2/_catalog?n=-1"), 400, 200),
    (asked("/v2/_catalog?n=1001"), 400, 400),
    # The repository's media type, of which distribution knows nothing.
    (asked(f"{SMALL}/blobs/{{config}}"), 200, 200),
]


@pytest.mark.parametrize("different", DIFFERENCES, ids=lambda different: str(different[0]))
def test_where_answers_differ_it_is_on_purpose(
    api: str, peer: str, digests: dict[str, str], different: tuple[Asked, int, int]
) -> None:
    """[S16.14] A manifest goes to a client that sends no `Accept`, or `*/*`, as it is stored."""
    request_, *statuses = different
    ours, theirs = request_.at(api, digests), request_.at(peer, digests)
    sys.stdout.write(f"{request_}: {ours.status}, docker-registry {theirs.status}\n")
    assert [ours.status, theirs.status] == statuses
    assert (_told(ours), ours.body) != (_told(theirs), theirs.body), "it is alike"


CODES = {
    asked("/v2/UPPER/tags/list"): "NAME_INVALID",
    asked("/v2/a//b/manifests/v1"): "NAME_INVALID",
    asked(f"{SMALL}/blobs/sha256:abc"): "DIGEST_INVALID",
    asked(f"{SMALL}/manifests/sha256:abc"): "DIGEST_INVALID",
    asked(f"{SMALL}/manifests/-"): "MANIFEST_UNKNOWN",
    asked(f"{SMALL}/manifests/{{layer}}"): "MANIFEST_UNKNOWN",
    asked(LAYER, Range="bytes=99999-"): "RANGE_INVALID",
    asked(f"{SMALL}/tags/list?n=-1"): "PAGINATION_NUMBER_INVALID",
    asked("/v2/_catalog?n=1001"): "PAGINATION_NUMBER_INVALID",
}


@pytest.mark.parametrize("request_", CODES, ids=str)
def test_error_has_the_code_of_the_specification(
    api: str, digests: dict[str, str], request_: Asked
) -> None:
    """[S16.2] What is wrong with a request is told in the specification's JSON, by its code."""
    assert request_.at(api, digests).code == CODES[request_]


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path", [LAYER, BY_TAG, f"{SMALL}/blobs/uploads/", f"{SMALL}/blobs/uploads/some"]
)
def test_nothing_can_be_written(api: str, digests: dict[str, str], method: str, path: str) -> None:
    """[S16.3] Every other method is 405, UNSUPPORTED: `docker push` and its like fail."""
    answer = asked(path, method).at(api, digests)
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET, HEAD"


def test_base_is_found_without_its_slash(api: str, peer: str) -> None:
    """[S16.1] Status, headers and body are those of docker-registry 2.8 on the same storage.
    Wherever the client says that it is.
    """
    ours, theirs = (ask(address, "/v2", Host="elsewhere") for address in (api, peer))
    assert ours.headers["location"] == theirs.headers["location"] == "/v2/"


def test_unsatisfiable_range_tells_the_size(api: str, layer: str) -> None:
    size = int(ask(api, layer, "HEAD").headers["content-length"])
    assert ask(api, layer, Range=f"bytes={size}-").headers["content-range"] == f"bytes */{size}"
