"""Validation of S3 responses: an empty body or a proxy's page is an error, not absence.

boto3 reads an empty body as an empty listing, any 404 as a missing object, and any 200 as
success. ``check_answers`` compares each response with the form of its operation before boto3
decides about a retry. A response of another form becomes a 502 with the error code ``NOT_S3``,
which boto3 retries. If the endpoint has never answered as S3, it becomes a 421, which boto3 does
not retry: the endpoint is probably no S3 server.

A response to HEAD has no body. A 404 with a request id, which most servers send, is accepted.
Otherwise its code becomes ``UNCONFIRMED``, and ``client.head_object`` repeats the request as a
GET, whose 404 has a body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from botocore.awsrequest import AWSResponse
    from botocore.model import OperationModel
    from types_boto3_s3.client import S3Client

NOT_S3: Final = "NotS3"
UNCONFIRMED: Final = "UnconfirmedNotFound"

_REQUEST_IDS: Final = ("x-amz-request-id", "x-amz-id-2")

_ROOT: Final = re.compile(
    rb"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*<(?:[\w.-]+:)?(\w+)", re.DOTALL
)

_REFUSALS: Final = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}
"""Errors that are accepted from an S3 server and from a proxy."""


_OBJECT_OPERATIONS: Final = ("HeadObject", "GetObject")
"""Operations whose response describes an object. Their body is not examined."""


class _Form(NamedTuple):
    """The form of a successful response: its XML root, its *members*, and those of its lists."""

    root: str = ""
    members: tuple[str, ...] = ()
    items: tuple[tuple[str, tuple[str, ...]], ...] = ()


_FORMS: Final = {
    "ListObjectsV2": _Form(
        "ListBucketResult",
        ("IsTruncated",),
        (("Contents", ("Key", "Size", "ETag", "LastModified")), ("CommonPrefixes", ("Prefix",))),
    ),
    "ListMultipartUploads": _Form(
        "ListMultipartUploadsResult", (), (("Uploads", ("Key", "UploadId", "Initiated")),)
    ),
    "ListParts": _Form(  # moto sends another root
        "", ("UploadId",), (("Parts", ("PartNumber", "ETag", "Size", "LastModified")),)
    ),
    "HeadObject": _Form(members=("ContentLength", "ETag", "LastModified")),
    "GetObject": _Form(members=("ETag", "LastModified")),
    "PutObject": _Form(members=("ETag",)),
    "UploadPart": _Form(members=("ETag",)),
    "CopyObject": _Form("CopyObjectResult"),
    "UploadPartCopy": _Form("CopyPartResult", ("CopyPartResult.ETag",)),
    "CreateMultipartUpload": _Form("InitiateMultipartUploadResult", ("UploadId",)),
    "CompleteMultipartUpload": _Form("CompleteMultipartUploadResult"),
    "DeleteObjects": _Form("DeleteResult"),
    "DeleteObject": _Form(),
    "AbortMultipartUpload": _Form(),
}
"""Every operation that the driver uses, by its name in the S3 API reference."""


def check_answers(client: S3Client) -> None:
    """Register the validation of all responses to *client*."""
    client.meta.events.register("needs-retry.s3.*", _Check())


class _Check:
    """Handler of botocore's ``needs-retry`` event. Thread-safe: its flag changes once."""

    def __init__(self) -> None:
        self._is_s3 = False  # True after the first valid response

    def __call__(
        self,
        response: tuple[AWSResponse, dict[str, Any]] | None,
        operation: OperationModel,
        request_dict: Mapping[str, Any],
        **_: object,
    ) -> None:
        if response is None:
            return
        http, parsed = response
        if operation.name == "HeadObject" and http.status_code == HTTPStatus.NOT_FOUND:
            if not _has_request_id(http):
                parsed["Error"]["Code"] = UNCONFIRMED
            return
        fault = _fault(operation.name, http, parsed)
        if fault is None:
            self._is_s3 = self._is_s3 or http.status_code < HTTPStatus.MULTIPLE_CHOICES
            return
        received = f"answered {operation.name} with {http.raw.status} and {fault}, not as S3 does"
        message = f"{_address(request_dict['url'])} {received}"
        http.status_code = HTTPStatus.BAD_GATEWAY if self._is_s3 else HTTPStatus.MISDIRECTED_REQUEST
        if "Body" in parsed:
            parsed["Body"].close()
        parsed.clear()
        parsed["Error"] = {"Code": NOT_S3, "Message": message}
        parsed["ResponseMetadata"] = {"HTTPStatusCode": http.status_code}


def _has_request_id(http: AWSResponse) -> bool:
    return any(name in http.headers for name in _REQUEST_IDS)


def _address(url: str) -> str:
    """The scheme and the host of a URL, without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _fault(name: str, http: AWSResponse, parsed: Mapping[str, Any]) -> str | None:
    """The reason why a response is not one of S3, as a noun; None for one of S3."""
    form = _FORMS.get(name, _Form())
    if http.status_code >= HTTPStatus.MULTIPLE_CHOICES:
        return _fault_of_error(name, form, http, parsed)
    if _is_page(name, http):
        return "an HTML page"
    if form.root and _root(http.content) != form.root:
        return "a body that is no answer to it" if http.content else "an empty body"
    return _missing_member(form, parsed) or _fault_of_removal(form, http)


def _fault_of_error(
    name: str, form: _Form, http: AWSResponse, parsed: Mapping[str, Any]
) -> str | None:
    status = http.raw.status
    if name == "HeadObject" or status in _REFUSALS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    root = _root(http.content)
    if root == "Error" and parsed.get("Error", {}).get("Code"):
        return None
    if status < HTTPStatus.MULTIPLE_CHOICES and root == form.root:
        return None  # boto3 has made an error of truncated XML
    return "an HTML page" if _is_page(name, http) else "no error of S3"


def _is_page(name: str, http: AWSResponse) -> bool:
    is_html = http.headers.get("content-type", "").lower().startswith("text/html")
    if not is_html or _has_request_id(http):
        return False
    return name in _OBJECT_OPERATIONS or bool(http.content)  # some servers call an empty body HTML


def _root(body: bytes) -> str:
    """The name of the root element of an XML document; ``""`` for anything else."""
    found = _ROOT.match(body[:4096])
    return found[1].decode("ascii", "replace") if found else ""


def _missing_member(form: _Form, parsed: Mapping[str, Any]) -> str | None:
    for member in form.members:
        outer, _, inner = member.rpartition(".")
        if inner not in (parsed.get(outer, {}) if outer else parsed):
            return f"no {inner}"
    for name, members in form.items:
        for item in parsed.get(name, ()):
            for member in members:
                if member not in item:
                    return f"{name} without {member}"
    if parsed.get("IsTruncated") and form.root == "ListBucketResult":
        return None if parsed.get("NextContinuationToken") else "no NextContinuationToken"
    return None


def _fault_of_removal(form: _Form, http: AWSResponse) -> str | None:
    """The fault of a response to a removal: it needs the status 204 or a request id."""
    if form != _Form() or http.status_code == HTTPStatus.NO_CONTENT or _has_request_id(http):
        return None
    return "no request id"
