"""Full disks, missing rights, read-only file systems: whatever a library makes of them becomes one line with the path.

torch, safetensors, pyarrow and polars each raise errors of their own; only the text of some says what happened.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ckd.errors import IncompleteError

REMEDIES = {  # what a file system refuses with -> what to do
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "let files be larger (ulimit -f, or another file system)",
    errno.EROFS: "mount it writable, or give another folder",
    errno.EACCES: "get the right to write there, or give another folder",
    errno.EPERM: "get the right to write there, or give another folder",
    errno.EIO: "look at the disk",
}
PLACES = "run.artifacts, run.results, run.public_files or this machine's temporary folder"
_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)  # in texts of Rust and pyarrow
_TORCH = re.compile(r"unexpected pos \d+ vs|PytorchStreamWriter failed|iostream error")  # of a file cut short


@contextmanager
def writing(where: str = PLACES) -> Iterator[None]:
    """Around what writes below `where`: raises IncompleteError where the file system refuses."""
    try:
        yield
    except Exception as error:
        refused = unwritable(error, where)
        if refused is None:
            raise
        raise refused from error


def unwritable(error: BaseException, where: str = PLACES) -> IncompleteError | None:
    """The line for an error behind which a file system refuses; None for any other. A file that it names wins."""
    seen: BaseException | None = error
    while seen is not None:
        number = _number(seen)
        if number in REMEDIES:
            named = getattr(seen, "filename", None) or where
            why = os.strerror(number).lower()
            return IncompleteError(
                f"{named}: {why}; what is finished is kept, {REMEDIES[number]} and run the same command again"
            )
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def _number(error: BaseException) -> int | None:
    """The operating system's number for what happened, also where only the text of the error holds it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if found := _NUMBER.search(text):
        return int(found[1])
    if isinstance(error, RuntimeError) and _TORCH.search(text):
        return errno.ENOSPC
    return next((number for number in REMEDIES if os.strerror(number) in text), None)
