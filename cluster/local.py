"""What a Ray of this machine is started with, wherever it is started: a folder whose name is short enough for sockets,
a token that nobody else can read, shared memory that can be written."""

import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LONGEST_SOCKET = 107  # characters in the path of one, by Linux
_SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1"
LONGEST_FOLDER = _LONGEST_SOCKET - len(_SOCKET)
LEAST_FILES = 1024  # a session with one worker opens some hundreds; Ray itself raises the soft limit to the hard one
SHARED_MEMORY = "/dev/shm"  # nosec B108
_PLACES = ("/tmp", "/var/tmp", SHARED_MEMORY)  # nosec B108


class MachineError(Exception):
    """This machine cannot run Ray as it stands; the text names the variable or limit, and what to do."""


@contextmanager
def settings() -> Iterator[dict[str, Any]]:
    """What to give to ray.init while the block runs. Raises MachineError."""
    require_files()
    keep_token()
    found: dict[str, Any] = {}
    folder = "" if fits(usual_folder()) else short_folder()
    if folder:
        found["_temp_dir"] = folder
    if not can_write(SHARED_MEMORY):
        found["_plasma_directory"] = folder or str(usual_folder().parent)
    try:
        yield found
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def require_files() -> None:
    """Raise MachineError where this process, and so Ray's, may open too few files."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if 0 <= allowed < LEAST_FILES:
        raise MachineError(
            f"ulimit -n is {allowed}: Ray needs at least {LEAST_FILES} open files; raise it (ulimit -n 65536, "
            "LimitNOFILE= of a service), or compute without Ray: teacher.workers=0 student.workers=0"
        )


def usual_folder() -> Path:
    """Where Ray would put its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or _PLACES[0]) / "ray"


def fits(folder: Path) -> bool:
    """Whether sockets below it have names that are short enough, and it can be made and written."""
    there = folder if folder.is_dir() else folder.parent
    return len(str(folder)) <= LONGEST_FOLDER and folder.is_absolute() and can_write(there)


def can_write(folder: str | Path) -> bool:
    """Whether files can be made in a folder, which rights alone do not tell: a file system may be read-only or full."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def short_folder() -> str:
    """A new folder of this user alone, below the first of the usual places that will do. Raises MachineError."""
    for place in _PLACES:
        if fits(Path(place, "ckd-00000000")):
            return tempfile.mkdtemp(prefix="ckd-", dir=place)  # which nobody else can enter
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "RAY_TMPDIR")
    raise MachineError(
        f"{name}={os.environ.get(name, '')}: Ray needs a folder that can be written, with a name of at most "
        f"{LONGEST_FOLDER - len('/ray')} characters; set RAY_TMPDIR to one"
    )


def token_file() -> Path | None:
    """Where Ray reads this user's token; None where the environment holds it, or there is no home."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(named)
    with suppress(RuntimeError):
        return Path.home() / ".ray" / "auth_token"
    return None


def token() -> str:
    """This user's token as Ray finds it; "" where there is none, or none is wanted."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return ""
    path = token_file()
    try:
        return os.environ.get("RAY_AUTH_TOKEN") or (path.read_text(encoding="utf-8").strip() if path else "")
    except (OSError, UnicodeDecodeError):
        return ""


def keep_token() -> None:
    """Let nobody else read this user's token; where there is none, make one for this process and its children.

    Who can read it can run code as this user. Ray would write it to ~/.ray with the umask's rights.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    path, named = token_file(), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path is None or not os.access(path, os.R_OK):
        if named:
            raise MachineError(f"RAY_AUTH_TOKEN_PATH={named}: cannot be read; name the file of the token, or unset it")
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    places = {path: 0o600} if named else {path: 0o600, path.parent: 0o700}  # a folder that the user chose is left alone
    for place, mode in places.items():
        status = place.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            with suppress(OSError):  # a read-only home: `ckd doctor` tells
                place.chmod(mode)
