"""Folders at a path or URL: copied up with their footer last, listed, deleted; and where this machine's cache is."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from ckd.store.files import BLOCK, delete, join, listing, upload, write_file
from ckd.store.filesystems import is_local, reaching, resolve
from ckd.threads import thread_pool

ARTIFACT_FILE = "artifact.json"
_STREAMS = 8  # files on their way at once


def cache_folder() -> Path:
    """Where this machine keeps what can be had again: $XDG_CACHE_HOME/ckd, else ~/.cache/ckd.

    Where neither can be written, a temporary folder of this user; `ckd doctor` says so.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # no home
        folder = Path(named or Path.home() / ".cache") / "ckd"
        if can_be_made(folder):
            return folder
    return Path(private_folder("cache"))


def can_be_made(folder: Path) -> bool:
    """Whether a folder can be written, or made where it is not there."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError:  # below a folder that this user may not enter
        return False
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@cache
def private_folder(name: str) -> str:
    """A temporary folder that only this user can enter: one for all commands, unless somebody else has its name."""
    folder = Path(tempfile.gettempdir(), f"ckd-{name}-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return str(folder) if ours else tempfile.mkdtemp(prefix=f"ckd-{name}-")


def upload_folder(local: str, url: str) -> None:
    """Copy every file below the folder `local` to its name below `url` (or a path), each whole, artifact.json last.

    An artifact.json that is there already is removed first: a kill leaves nothing that looks whole. Without one in
    `local` nothing is removed, so several ranks may copy into one folder. Links are followed. Raises UnreachableError.
    """
    root = Path(local)
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    if ARTIFACT_FILE in names:
        names.remove(ARTIFACT_FILE)
        delete(join(url, ARTIFACT_FILE))
        each_name(lambda name: _copy_up(root / name, join(url, name)), names)
        names = [ARTIFACT_FILE]
    each_name(lambda name: _copy_up(root / name, join(url, name)), names)


def list_folders(folder: str) -> list[str]:
    """Names of the folders directly in a folder or below a URL, sorted; empty when there is none."""
    return [info.base_name for info in listing(folder) if not info.is_file]


def delete_folder(folder: str) -> None:
    """Remove a folder, if it is there; its artifact.json first, so that a kill leaves nothing that looks whole."""
    from pyarrow import fs

    delete(join(folder, ARTIFACT_FILE))
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
        return
    filesystem, inside = resolve(folder)
    with reaching(folder):
        if filesystem.get_file_info(inside).type == fs.FileType.Directory:
            filesystem.delete_dir(inside)


def _copy_up(source: Path, target: str) -> None:
    with source.open("rb") as stream:
        if is_local(target):
            write_file(target, lambda out: shutil.copyfileobj(stream, out, BLOCK))
        else:
            upload(stream, target)


def each_name(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Do some work for every name, several at once; the first error ends it."""
    with thread_pool(_STREAMS) as pool:
        for _ in pool.map(work, names):
            pass
