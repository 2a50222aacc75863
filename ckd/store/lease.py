"""One writer per folder: a lock that this machine's kernel holds for the process, and lets go when the process is gone.

Costs one small file while a command writes, `.NAME.lease` beside the folder; what a killed process left of it locks
nothing.
"""

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ckd.errors import TakenError
from ckd.store.files import make_folder
from ckd.store.filesystems import is_local
from ckd.store.unwritable import unwritable

_SECONDS_BETWEEN = 0.5  # two looks at a folder that another command has
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def lease(folder: str, command: str) -> Iterator[bool]:
    """While this lasts, no other command that asks for the same folder gets it; a stopped process keeps it.

    Gives whether there is a lock, so that what a killed command left there may be removed.

    Raises TakenError that names who has it, IncompleteError with the lock file where none can be made. There is no
    lock at a URL and on a file system without flock: there writers must give their files names of their own, and commit
    by one small object that they write last.
    """
    lock = _taken(_place(folder), folder) if is_local(folder) else None
    if lock is None:
        yield False
        return
    path, descriptor = lock
    try:
        _sign(path, descriptor, command)
        yield True
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: who opened this file sees that it is no longer the one
        os.close(descriptor)


def _sign(path: Path, descriptor: int, command: str) -> None:
    """Write who holds the lock into its file."""
    holder = {"command": command, "pid": os.getpid(), "host": platform.node(), "since": _now()}
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    except OSError as error:
        error.filename = str(path)  # a full disk's own error names no file
        raise


@contextmanager
def lease_in_turn(folder: str, command: str, say: Callable[[str], None]) -> Iterator[bool]:
    """As `lease`, for what is soon done: wait until whoever has the folder lets it go, and say so once."""
    told = False
    with ExitStack() as stack:
        while True:
            try:
                alone = stack.enter_context(lease(folder, command))
                break
            except TakenError as error:
                if not told:
                    say(f"waiting: {str(error).partition(';')[0]}")
                told = True
                time.sleep(_SECONDS_BETWEEN)
        yield alone


def _place(folder: str) -> Path:
    """Beside the folder, which may be renamed; in it where its parent is not ours or another file system."""
    place = Path(folder).resolve()
    parent = next((path for path in place.parents if path.exists()), place)
    if place.exists() and (place.is_mount() or not os.access(parent, os.W_OK)):
        return place / ".lease"
    make_folder(place.parent)
    return place.with_name(f".{place.name}.lease")


def _taken(path: Path, folder: str) -> tuple[Path, int] | None:
    """The lock file and its descriptor, locked; None where the file system knows no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            refused = unwritable(error, str(path))
            if refused is None:
                raise
            raise refused from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return path, descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise TakenError(
                f"{folder}: {holder} writes there; run this again when it has ended, or give another folder"
            ) from None
        except OSError as error:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            return None
        os.close(descriptor)  # its owner ended and removed it meanwhile


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"'{found['command']}' (process {found['pid']} on {found['host']}, since {found['since']})"
    except (ValueError, KeyError, TypeError):
        return "another command"  # which has just begun


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
