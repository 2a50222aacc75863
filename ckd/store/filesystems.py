"""The file system of a path or URL, how patiently it is asked, and the error when it does not answer."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ckd.configfile import require_usable_url
from ckd.errors import ConfigError, UnreachableError
from ckd.store.refusals import reason, remedy, without_text

if TYPE_CHECKING:
    from pyarrow import fs

ATTEMPTS = 11  # of one request, the environment's AWS_MAX_ATTEMPTS wins: the pauses between them double, 25 s in all
CONNECT_SECONDS = 5.0
SILENT_SECONDS = 20.0  # without a byte: then the request is given up and sent again
_HIDDEN = "Failed to flush response stream"
T = TypeVar("T")
_GCS_PATIENCE = timedelta(seconds=30)  # with the pauses that follow it about a minute
_URL = re.compile(r"(\w[\w+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_ENDPOINT = re.compile(r"(?:https?://)?(?:[\w.-]+|\[[0-9a-fA-F:]+\])(?::\d+)?")


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's file system."""
    return "://" not in path


def resolve(path: str) -> tuple["fs.FileSystem", str]:
    """The file system of a path or URL, and the path inside it. Nothing in an object's key is decoded.

    Raises ConfigError for a URL that no file system understands, UnreachableError when the bucket's region is not
    answered.
    """
    from pyarrow import fs

    if is_local(path):
        return fs.LocalFileSystem(), str(Path(path).absolute())
    require_usable_url(path)
    match = _URL.fullmatch(path)
    scheme, host = (match[1], match[2]) if match else ("", "")
    if scheme in {"s3", "gs", "gcs"}:
        if not host or re.search(r"[@:?#]", host):
            raise ConfigError(
                f"{scheme}://…: expected {scheme}://bucket/folder; "
                "credentials, region and endpoint belong in the environment"
            )
        inside = path.partition("://")[2].rstrip("/")
        if "//" in inside:
            raise ConfigError(f"{path}: two slashes in a row, where a folder would have no name; expected one")
        return (_s3(host) if scheme == "s3" else _gcs(_endpoint("STORAGE_EMULATOR_HOST"))), inside
    try:  # whatever else pyarrow has (file://, hdfs://): not tried, not promised
        filesystem, inside = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        shown = path if "@" not in path else f"{scheme}://…"  # what stands before an @ may be a password
        raise ConfigError(
            f"{shown}: no file system for it ({type(error).__name__}); expected a path, s3://bucket/… or gs://bucket/…"
        ) from None
    return filesystem, inside


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Around every request: turns a storage service's failure into UnreachableError.

    Failures are network, credentials, and a 5xx that outlasts the retries. A missing file stays FileNotFoundError, and
    for damaged content the reader's error stays.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        said = None if is_local(path) else _reason(path, error)
        if said is None:
            raise
        raise UnreachableError(
            f"{path}: the storage does not answer or refuses ({said}); {remedy(said, path)}, then run the same command "
            "again: what is finished is kept"
        ) from None


def patiently(path: str, read: Callable[[], T]) -> T:
    """What `read` returns, which is called again where pyarrow does not ask again.

    A service's error message that is longer than the requested bytes hides from pyarrow that it may send them again.
    """
    with reaching(path):
        for attempt in range(_attempts() - 1):
            try:
                return read()
            except OSError as error:
                if _HIDDEN not in str(error):
                    raise
                time.sleep(0.025 * 2**attempt)
        return read()


def _reason(path: str, error: OSError) -> str | None:
    """The service's reason, asked for with a listing where the request was one whose refusal has no text."""
    said = reason(error)
    if said is None or not without_text(error):
        return said
    from pyarrow import fs

    filesystem, inside = resolve(path)
    try:
        filesystem.get_file_info(fs.FileSelector(inside.partition("/")[0]))
    except OSError as refused:
        return reason(refused) or said
    return said


def _endpoint(variable: str) -> str:
    """The host that a variable names. Raises ConfigError, which does not show it, for anything more than that."""
    value = os.environ.get(variable, "").rstrip("/")
    if value and not _ENDPOINT.fullmatch(value):
        raise ConfigError(
            f"{variable}: expected https://host:port and nothing behind it; a path, which requests would lose, a key "
            "or a query cannot stand there"
        )
    return value


def _s3(bucket: str) -> Any:
    endpoint = _endpoint("AWS_ENDPOINT_URL_S3") or _endpoint("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else "")
    return _s3_filesystem(endpoint, region or _region(bucket), _attempts())


def _attempts() -> int:
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(int(given), 1) if given.isdigit() else ATTEMPTS


@lru_cache(maxsize=64)
def _region(bucket: str) -> str:
    from pyarrow import fs

    with reaching(f"s3://{bucket}"):
        return str(fs.resolve_s3_region(bucket))


@lru_cache(maxsize=64)
def _s3_filesystem(endpoint: str, region: str, attempts: int) -> Any:
    """One per process: it keeps and shares its connections. Small files go in one PutObject (`allow_delayed_open`)."""
    from pyarrow import fs

    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        # pyarrow's other strategy has a quota that retries use up: after some 50 in a process it makes none any more.
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=attempts - 1),
        allow_delayed_open=True,
    )


@lru_cache(maxsize=4)
def _gcs(emulator: str) -> Any:
    from pyarrow import fs

    if emulator:
        scheme, _, host = emulator.rpartition("://")
        return fs.GcsFileSystem(
            anonymous=True, scheme=scheme or "http", endpoint_override=host, retry_time_limit=_GCS_PATIENCE
        )
    return fs.GcsFileSystem(retry_time_limit=_GCS_PATIENCE)
