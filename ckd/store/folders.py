"""Folders between this machine and a URL, for libraries that need real files: copied up footer last, copied down checked and kept in the
cache. What the files mean belongs to the callers."""

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
    """Copy every file below the folder `local` to the same name below `url` (a path will do too), each whole, artifact.json last.

    An artifact.json that stands there already goes first, so that a kill leaves nothing that looks whole. Without one in `local` nothing is
    removed: several ranks may copy their files into one folder. Links are followed. Raises UnreachableError.
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
    """A local folder with the files below `url`; a local path is returned as it is.

    The copy lies in cache_folder() under a hash of the content that artifact.json states (without one: of URL, names, sizes and times), so that
    a changed folder is another copy, and is made once per machine: others wait for the one that copies. Only names (relative to `url`) that
    are `wanted` are copied. Raises ArtifactError when nothing is there, or a file is missing or not the one that artifact.json lists.
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
    """Have the file or folder `target` on this machine's disk: the first process that asks makes it, the others wait.

    `make` is given another name, which becomes the target's when it returns: what a kill leaves is never taken for whole.
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
    from pyarrow import fs

    filesystem, inside = resolve(folder)
    with reaching(folder):
        infos = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


def delete_folder(folder: str) -> None:
    """Remove a folder with all that is in it, if it is there; its artifact.json first, so that a kill leaves nothing that looks whole."""
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
    from pyarrow import fs

    filesystem, inside = resolve(url)
    with reaching(url):
        infos = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True, recursive=True))
    return {
        info.path[len(inside) :].lstrip("/"): {"size": info.size, "mtime": info.mtime_ns}
        for info in infos
        if info.type == fs.FileType.File
    }


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
