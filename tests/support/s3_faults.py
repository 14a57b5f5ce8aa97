"""What a client asks of S3, and what may go wrong with it."""

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote


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
    """Answer with this error, or with *body* and *headers*, and do not ask S3."""

    status: int
    code: str
    body: bytes | None = None
    headers: tuple[str, ...] = ("Content-Type: application/xml",)


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

    @classmethod
    def of(cls, method: str, target: str, fields: Mapping[str, str]) -> Self:
        """What a head says; its *fields* by their names in lower case."""
        path, _, query = target.partition("?")
        copies = method == "PUT" and "x-amz-copy-source" in fields
        kind = _kind("COPY" if copies else method, path, query)
        return cls(method, kind, unquote(path), query, fields.get("range"))


def _kind(method: str, path: str, query: str) -> Kind:
    parameters = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    about = method, next((name for name in _SUBRESOURCES if name in parameters), "")
    bucket, _, key = path.lstrip("/").partition("/")
    if key:
        return _ABOUT_KEY.get(about, Kind.OTHER)
    return _ABOUT_BUCKET.get(about, Kind.BUCKET) if bucket else Kind.BUCKET


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
