"""An S3 bucket, or what speaks its protocol, as a place for the files of trials.

Credentials, region and endpoint are those that every AWS tool reads: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3 and the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from optuna.artifacts import Boto3ArtifactStore

from spaces.errors import InputError

SCHEME = "s3"
AT_ONCE = 1000  # keys that one request may delete
TIMEOUT_SECONDS, TRIES = 20, 4  # of one request


@dataclass(frozen=True)
class Bucket:
    """Objects under one prefix of a bucket; keys here are relative to it.

    Attributes:
        name: the bucket's.
        prefix: without slashes at its ends; may be empty.
        client: boto3's, which threads may share.
    """

    name: str
    prefix: str
    client: Any

    @property
    def url(self) -> str:
        return f"{SCHEME}://{'/'.join(filter(None, (self.name, self.prefix)))}"

    def write(self, key: str, body: BinaryIO) -> None:
        """Store an object: whole, or not at all."""
        store = Boto3ArtifactStore(self.name, self.client, avoid_buf_copy=True)
        store.write(self._full(key), body)

    def read(self, key: str) -> BinaryIO:
        """Open an object; raises ArtifactNotFound where there is none."""
        return Boto3ArtifactStore(self.name, self.client).open_reader(self._full(key))

    def download(self, key: str, to: Path) -> None:
        """Write an object into a file."""
        self.client.download_file(self.name, self._full(key), str(to))

    def keys(self, under: str) -> Iterator[str]:
        """Keys that begin with `under`."""
        for entry in self._listed(under):
            yield entry["Key"][len(self._full("")) :]

    def size(self, under: str) -> int:
        """Bytes of all objects whose keys begin with `under`."""
        return sum(entry["Size"] for entry in self._listed(under))

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        left = [{"Key": self._full(key)} for key in keys]
        for start in range(0, len(left), AT_ONCE):
            part = {"Objects": left[start : start + AT_ONCE], "Quiet": True}
            answer = self.client.delete_objects(Bucket=self.name, Delete=part)
            for error in answer.get("Errors", ()):
                raise OSError(f"{self.url}: cannot delete {error['Key']}: {error.get('Message')}")

    def _listed(self, under: str) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.name, Prefix=self._full(under)):
            yield from page.get("Contents", ())

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def open_bucket(url: str) -> Bucket:
    """Reach the bucket of an URL, s3://bucket/prefix.

    Raises:
        InputError: the URL is none, boto3 is not installed, there are no credentials, or the
            bucket is not there or not ours.
    """
    parts = urlsplit(url)
    name, prefix = parts.netloc, parts.path.strip("/")
    if parts.scheme != SCHEME or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise InputError(f"--artifacts must be a folder or s3://bucket/prefix, but got {url}")
    if parts.query or parts.fragment or ".." in prefix.split("/"):
        raise InputError(f"--artifacts {url}: the prefix must be a plain path, as in a/b")
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise InputError(
            f"--artifacts {url} needs boto3 ({error}); install it with: pip install 'segtune[s3]'"
        ) from None
    settings = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"max_attempts": TRIES, "mode": "standard"},
    )
    try:
        client = boto3.client(SCHEME, config=settings)
        client.list_objects_v2(Bucket=name, Prefix=prefix, MaxKeys=1)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        reasons = {
            "NoSuchBucket": "there is no such bucket; create it, or name another one",
            "AccessDenied": "access is denied; these credentials need to list, read, write and "
            "delete there",
            "InvalidAccessKeyId": "the access key is not known; see AWS_ACCESS_KEY_ID",
            "SignatureDoesNotMatch": "the secret key is wrong; see AWS_SECRET_ACCESS_KEY",
        }
        raise InputError(f"--artifacts {url}: {reasons.get(code, error)}") from None
    except (BotoCoreError, ValueError) as error:  # no credentials, no such host, a bad endpoint
        raise InputError(
            f"--artifacts {url}: {error}; see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION "
            "and AWS_ENDPOINT_URL_S3"
        ) from None
    return Bucket(name, prefix, client)
