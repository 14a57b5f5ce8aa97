"""Facts about the access to a bucket: the source of the credentials, and the server's clock."""

from __future__ import annotations

import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from blobfs.drivers.s3.client import client_for, s3_errors, session_for
from blobfs.drivers.s3.options import S3Options
from blobfs.drivers.s3.reach import connecting_once
from blobfs.errors import AccessDenied

_SOURCES: Final = {
    "env": "the environment",
    "shared-credentials-file": "~/.aws/credentials, or AWS_SHARED_CREDENTIALS_FILE",
    "config-file": "~/.aws/config, or AWS_CONFIG_FILE",
    "iam-role": "the role of the machine",
    "container-role": "the role of the container",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity",
    "sso": "a single sign-on",
    "custom-process": "a credential_process",
}
"""Texts for the names that botocore gives the sources of credentials (its ``credentials.py``)."""


def source_of_credentials(options: S3Options) -> str:
    """Describe the source of the credentials, without them; raises AccessDenied if there is none.

    It may ask the server of the machine's role.
    """
    if options.credentials is not None:
        return "the registry's file"
    try:
        found = session_for(options).get_credentials()
    except BotoCoreError as exc:
        raise AccessDenied(str(exc)) from None
    if found is None:
        raise AccessDenied(
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or make"
            " ~/.aws/credentials"
        )
    return _SOURCES.get(found.method or "", found.method or "boto3")


def clock_offset_s(options: S3Options) -> float | None:
    """Return the seconds by which this machine's clock is ahead of the server's.

    None if the server sends no time. Raises StorageUnavailable.
    """
    client = client_for(options, session_for(options))
    with closing(client), s3_errors(str(options)), connecting_once(client):
        began = time.time()
        answer: Any
        try:
            call: Any = client.list_objects_v2
            answer = call(
                Bucket=options.bucket, Prefix=options.prefix("/"), MaxKeys=1, **options.for_reads
            )
        except ClientError as exc:  # a refusal has a date, too
            answer = exc.response
        ended = time.time()
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date is None:
        return None
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    # The date has no fraction of a second, so its second may have begun before or after.
    return 0.0 if began - 1 <= theirs <= ended else began - theirs
