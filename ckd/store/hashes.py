"""The SHA-256 of whole files and folders of them: each large file is read once per machine, then known by its facts.

What was found lies in <user cache>/hashes, one file per path. A local file counts as the same while path, size, inode,
mtime and ctime are; ctime is nobody's to set back. At a URL these are size and time of writing, all that pyarrow passes
on: an object that is replaced by one of equal size within the same second is taken for the old one.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckd.errors import ConfigError
from ckd.store.files import BLOCK, digest, join, listing, write_bytes
from ckd.store.filesystems import is_local, patiently, resolve
from ckd.store.folders import cache_folder
from ckd.threads import thread_pool

if TYPE_CHECKING:
    from pyarrow import fs

TEMPLATES = "additional_chat_templates"  # the only folder inside a model's that transformers reads
_SMALL = 8 << 20  # bytes up to which a file is read again each time: that costs less than to remember it
_SETTLED = 2_000_000_000  # ns after its last change from which a file's facts tell the next change apart
_STREAMS = 8  # files that are read at once, at a URL the requests under way


def folder_hash(folder: str, wanted: Callable[[str], bool]) -> str:
    """A short SHA-256 over names and whole contents of the wanted files of a model's folder, or of one at a URL.

    A folder and its copy have the same. Costs one reading of every byte per machine: on a disk files are read side by
    side, each hashed by one core at 1 GB/s or more; at a URL they come one after another, as fast as the network is.
    """
    files = {name: info for name, info in model_files_in(folder).items() if wanted(name)}
    with thread_pool(_STREAMS if is_local(folder) else 1) as pool:
        found = pool.map(lambda name: _file_hash(_path(folder, name, files[name]), files[name]), files)
        return digest(dict(zip(files, found, strict=True)))


def model_files_in(folder: str) -> "dict[str, fs.FileInfo]":
    """The files of a model's folder by relative name: those directly in it, and chat templates in a folder inside."""
    found = listing(folder)
    if any(info.base_name == TEMPLATES and not info.is_file for info in found):
        found += listing(join(folder, TEMPLATES))
    start = len(resolve(folder)[1])
    return {info.path[start:].lstrip("/"): info for info in found if info.is_file}


def file_hash(path: str) -> str:
    """The SHA-256 of one local file; a large one is read once per machine. Raises ConfigError."""
    filesystem, inside = resolve(path)
    return _file_hash(path, filesystem.get_file_info(inside))


def _path(folder: str, name: str, info: "fs.FileInfo") -> str:
    return str(info.path) if is_local(folder) else join(folder, name)


def _file_hash(path: str, info: "fs.FileInfo") -> str:
    before, started = _facts(path, info), time.time_ns()
    if (info.size or 0) <= _SMALL:
        return _read(path, info.size)
    entry = cache_folder() / "hashes" / f"{digest(path)}.json"
    found = _remembered(entry, before)
    if found is None:
        found = _read(path, info.size)
        if started - before[-1] > _SETTLED and _facts(path, info) == before:
            _remember(entry, before, found)
    return found


def _facts(path: str, info: "fs.FileInfo") -> list[int]:
    """What tells a file from another under its name; last is when it was last changed, in ns."""
    if not is_local(path):
        return [info.size, info.mtime_ns]
    found = Path(path).stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _remembered(entry: Path, facts: list[int]) -> str | None:
    """The hash that was found for these facts; None without one, and for an entry that is damaged."""
    try:
        kept = json.loads(entry.read_bytes())
        found = str(kept["sha256"])
        return found if kept == _entry(facts, found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(entry: Path, facts: list[int], found: str) -> None:
    with suppress(OSError, ConfigError):  # no room or no right there: then the file is read again the next time
        write_bytes(str(entry), json.dumps(_entry(facts, found)).encode())


def _entry(facts: list[int], found: str) -> dict[str, object]:
    return {"facts": facts, "sha256": found, "check": digest([facts, found])}


def _read(path: str, size: int) -> str:
    """The SHA-256 of a whole file. Raises ConfigError when a local one cannot be read, UnreachableError."""
    if not is_local(path):
        return _streamed(path, size)
    try:
        with Path(path).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}); check its rights and the disk") from None


def _streamed(url: str, size: int) -> str:
    filesystem, inside = resolve(url)
    file = patiently(url, lambda: filesystem.open_input_file(inside))
    sha, ahead = hashlib.sha256(), deque[Future[bytes]]()

    def read(start: int) -> bytes:
        return bytes(patiently(url, lambda: file.read_at(BLOCK, start)))

    with file, thread_pool(_STREAMS) as pool:
        for start in range(0, size, BLOCK):
            ahead.append(pool.submit(read, start))
            if len(ahead) == _STREAMS:
                sha.update(ahead.popleft().result())
        for block in ahead:
            sha.update(block.result())
    return sha.hexdigest()
