"""What this machine keeps of folders at URLs: copied once, and compared with what was copied before each use.

Beside a copy, `<copy>.files.json` says what it should hold. A use costs a look at the sizes and a reading of the small
files; large ones are read once per machine (see hashes). A copy that a power cut or a disk has torn is fetched again.
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from ckd.errors import ArtifactError, ConfigError
from ckd.store.files import BLOCK, digest, inner, join, listing, make_folder, open_file, read_bytes, sync, write_bytes
from ckd.store.filesystems import is_local, resolve
from ckd.store.folders import ARTIFACT_FILE, cache_folder, each_name
from ckd.store.hashes import file_hash

Facts = dict[str, dict[str, object]]  # name below a folder -> its size, and its sha256 where that is known


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
    return kept_copy(url, files, copy, {} if footer is None else {ARTIFACT_FILE: footer})


def kept_copy(url: str, files: Facts, copy: Path, beside: dict[str, bytes] | None = None) -> str:
    """The local folder `copy` with the named files below `url` and those `beside` them; made, or made again when torn.

    Raises as `copy_down`.
    """

    def make(folder: Path) -> None:
        found = copy_down(url, files, folder)
        for name, content in (beside or {}).items():
            (folder / name).write_bytes(content)
            found[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_bytes(str(_record(copy)), json.dumps(found).encode())

    made_once(copy, make, _is_whole)
    return str(copy)


def made_once(target: Path, make: Callable[[Path], None], whole: Callable[[Path], bool] = Path.exists) -> None:
    """Make the file or folder `target` on this machine's disk unless it is there: one process makes it, others wait.

    `make` gets another name, which becomes the target's when all of it is on the disk: what a kill or a power cut
    leaves is never taken for whole. A target that is there and not `whole` is made again, and the log says so.
    """
    make_folder(target.parent)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, whatever ends it
        if target.exists():
            if whole(target):
                return
            logging.getLogger("ckd").warning("%s: this machine's copy is not what was copied; it is made again", target)
            _remove(target)
        unfinished = target.with_suffix(".tmp")
        _remove(unfinished)  # what a killed process left
        try:
            make(unfinished)
            for path in [*unfinished.rglob("*"), unfinished]:
                sync(path)
            unfinished.rename(target)
            sync(target.parent)
        finally:
            _remove(unfinished)  # nobody asks again for what was refused


def copy_down(url: str, files: Facts, folder: Path) -> Facts:
    """Copy the named files below `url` into the new local `folder`; returns size and SHA-256 of each as it was read.

    Raises ArtifactError when one is missing, or is not of the size and SHA-256 that are given for it.
    """
    folder.mkdir()
    copied: Facts = {}

    def fetch(name: str) -> None:
        source, target = inner(url, name), Path(inner(str(folder), name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _copied(source, target)
        except FileNotFoundError:
            raise ArtifactError(f"{source}: missing; delete that folder and make it again") from None
        if any(found[key] != files[name][key] for key in found.keys() & files[name].keys()):
            raise ArtifactError(f"{source}: changed since it was written; delete that folder and make it again")
        copied[name] = found

    each_name(fetch, files)
    return copied


def forget_copy(copy: str) -> None:
    """Remove a copy that nobody asks for again."""
    path = Path(copy)
    _remove(path)
    for beside in (path.with_suffix(".lock"), _record(path)):
        beside.unlink(missing_ok=True)


def _copied(source: str, target: Path) -> dict[str, object]:
    sha, size = hashlib.sha256(), 0
    with open_file(source) as stream, target.open("wb") as file:
        while block := stream.read(BLOCK):
            sha.update(block)
            file.write(block)
            size += len(block)
    return {"size": size, "sha256": sha.hexdigest()}


def _is_whole(copy: Path) -> bool:
    """Whether a copy holds what its record says. One without a record was made by an older version: nobody knows."""
    try:
        files: Facts = json.loads(_record(copy).read_bytes())
        paths = {name: Path(inner(str(copy), name)) for name in files}
        if any(path.stat().st_size != files[name]["size"] for name, path in paths.items()):
            return False
        return all(file_hash(str(path)) == files[name]["sha256"] for name, path in paths.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArtifactError, ConfigError):
        return False


def _record(copy: Path) -> Path:
    return copy.with_suffix(".files.json")


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
