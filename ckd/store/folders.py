"""Folders between this machine and a URL, for libraries that need real files.

They are copied up with their footer last, copied down checked, and kept in this machine's cache.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ckd.errors import ArtifactError
from ckd.store.files import (
    BLOCK,
    delete,
    digest,
    inner,
    join,
    listing,
    make_folder,
    open_file,
    read_bytes,
    size_and_hash,
    upload,
    write_file,
)
from ckd.store.filesystems import is_local, reaching, resolve

ARTIFACT_FILE = "artifact.json"
_STREAMS = 8  # files on their way at once


def cache_folder() -> Path:
    """Where this machine keeps what can be had again: $XDG_CACHE_HOME/ckd, else ~/.cache/ckd."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckd"


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
        _each(lambda name: _copy_up(root / name, join(url, name)), names)
        names = [ARTIFACT_FILE]
    _each(lambda name: _copy_up(root / name, join(url, name)), names)


def fetched_folder(url: str, wanted: Callable[[str], bool] = lambda name: True) -> str:
    """A local folder with the files below `url`, copied once per machine; a local path is returned as it is.

    The copy lies in cache_folder() under a hash of the content that artifact.json lists (without one: of URL, names,
    sizes and times), so a changed folder is another copy. Only names (relative to `url`) that are `wanted` are copied.
    Raises ArtifactError when nothing is there, or a file is missing or not the one that artifact.json lists.
    """
    if is_local(url):
        return url
    try:
        footer: bytes | None = read_bytes(join(url, ARTIFACT_FILE))
    except FileNotFoundError:
        footer = None
    files = _stated(url, footer) if footer is not None else _listed(url)
    files = {name: facts for name, facts in files.items() if wanted(name)}
    if not files and footer is None:
        raise ArtifactError(f"{url}: no file there; check the URL")
    copy = cache_folder() / "folders" / digest([files, None if footer is not None else url.rstrip("/")])

    def make(folder: Path) -> None:
        copy_down(url, files, folder)
        if footer is not None:
            (folder / ARTIFACT_FILE).write_bytes(footer)

    made_once(copy, make)
    return str(copy)


def made_once(target: Path, make: Callable[[Path], None]) -> None:
    """Make the file or folder `target` on this machine's disk unless it is there: one process makes it, others wait.

    `make` gets another name, which becomes the target's when it returns: what a kill leaves is never taken for whole.
    """
    make_folder(target.parent)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, whatever ends it
        if target.exists():
            return
        unfinished = target.with_suffix(".tmp")
        _remove(unfinished)  # what a killed process left
        try:
            make(unfinished)
            unfinished.rename(target)
        finally:
            _remove(unfinished)  # nobody asks again for what was refused


def copy_down(url: str, files: "Facts", folder: Path) -> None:
    """Copy the named files below `url` into the new local `folder`.

    Raises ArtifactError when one is missing, or is not of the size and SHA-256 that are given for it.
    """
    folder.mkdir()

    def fetch(name: str) -> None:
        source, target = inner(url, name), Path(inner(str(folder), name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_file(source) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, BLOCK)
        except FileNotFoundError:
            raise ArtifactError(f"{source}: missing; delete that folder and make it again") from None
        known = files[name]
        found = size_and_hash(str(target)) if "sha256" in known else {"size": target.stat().st_size}
        if any(found[key] != known[key] for key in found):
            raise ArtifactError(f"{source}: changed since it was written; delete that folder and make it again")

    _each(fetch, files)


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


Facts = dict[str, dict[str, object]]


def _stated(url: str, footer: bytes) -> Facts:
    try:
        files: Facts = json.loads(footer)["files"]
        return {name: {"size": facts["size"], "sha256": facts["sha256"]} for name, facts in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(
            f"{join(url, ARTIFACT_FILE)}: not one of this project's; delete that folder and make it again"
        ) from None


def _listed(url: str) -> Facts:
    start = len(resolve(url)[1])
    files = [info for info in listing(url, recursive=True) if info.is_file]
    return {info.path[start:].lstrip("/"): {"size": info.size, "mtime": info.mtime_ns} for info in files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copy_up(source: Path, target: str) -> None:
    with source.open("rb") as stream:
        if is_local(target):
            write_file(target, lambda out: shutil.copyfileobj(stream, out, BLOCK))
        else:
            upload(stream, target)


def _each(work: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_STREAMS) as pool:
        try:
            for _ in pool.map(work, names):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
