"""Single files at a path or URL: read, written whole or not at all, listed, deleted, hashed."""

import errno
import fcntl
import hashlib
import io
import json
import mmap
import os
import re
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ckd.errors import ArtifactError, ConfigError
from ckd.store.filesystems import is_local, patiently, reaching, resolve
from ckd.store.unwritable import REMEDIES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
BLOCK = 8 << 20  # bytes per request when a file is read from its beginning to its end


def digest(value: object) -> str:
    """A short stable SHA-256 of any JSON value: the fingerprint of a set of fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def join(root: str, *names: str) -> str:
    """Append names to a path or URL."""
    return "/".join([root.rstrip("/"), *names])


def inner(root: str, name: str) -> str:
    """`root` joined with a relative name from a file or a listing. Raises ArtifactError when it leads out of `root`."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        why = f"it lists a file {name!r}, which is no plain relative name"
        raise ArtifactError(f"{root}: {why}; delete that folder and make it again")
    return join(root, *parts)


class _Rights:
    private = 0o600  # of files with data of single visits


def let_read(file_mode: str) -> None:
    """Give files with data of single visits, which this process writes from now on, these rights (run.file_mode)."""
    _Rights.private = int(file_mode, 8)


def write_file(path: str, write: Callable[[Any], None], *, private: bool = False) -> None:
    """Call `write` with a binary stream and commit the result whole: temp file, fsync, rename (or one upload).

    A `private` file holds data of single visits: only its owner can read it, or whom run.file_mode lets. The temp file
    is locked while its writer lives, so that `sweep_temporary` knows what a killed one left.
    Raises UnreachableError when an object store does not take it; then nothing is visible there.
    """
    if not is_local(path):
        with tempfile.TemporaryFile() as buffer:
            write(buffer)  # all of it first: an upload commits what it has when an exception closes it
            buffer.flush()
            upload(buffer, path)
        return
    target = Path(resolve(path)[1])
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _created(temporary, _Rights.private if private else 0o666) as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename in {None, str(temporary)}:
            error.filename = str(target)  # a full disk's own error names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)


def _created(path: Path, mode: int) -> IO[bytes]:
    """A new file, locked for this process where the file system knows locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return os.fdopen(descriptor, "wb")
        os.close(descriptor)  # swept between the two calls


def sweep_temporary(folder: str, pattern: str = "**/*") -> None:
    """Remove the temp files below a local folder whose writers are gone: they may hold patients' texts."""
    for path in Path(folder).glob(pattern) if is_local(folder) else ():
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a writer holds it while it lives
                path.unlink()


def upload(source: IO[bytes], url: str) -> None:
    """The whole content of an open local file as one object."""
    filesystem, inside = resolve(url)
    size = os.fstat(source.fileno()).st_size
    content = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    with reaching(url):
        # Without compression=None a name in .gz would be compressed once more.
        stream = filesystem.open_output_stream(inside, compression=None)
        stream.write(content)  # in one call: what ends the stream between two pieces would commit the first
        stream.close()


def make_folder(folder: Path) -> None:
    """Make a local folder and its parents.

    Raises ConfigError when that is not possible, OSError where the file system refuses what another try may get.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in REMEDIES:
            raise
        raise ConfigError(
            f"{folder}: cannot be made ({type(error).__name__}); "
            "give run.results, run.artifacts and run.public_files a writable place"
        ) from None


def write_bytes(path: str, data: bytes) -> None:
    """Commit bytes to a path or URL atomically."""
    write_file(path, lambda stream: stream.write(data))


def read_bytes(path: str) -> bytes:
    """The whole content of a path or URL; raises FileNotFoundError, UnreachableError."""
    with open_file(path) as file:
        return bytes(file.read())


def open_file(path: str) -> Any:
    """A file to read and seek in, unbuffered: at a URL every read is one request.

    Raises FileNotFoundError, UnreachableError.
    """
    filesystem, inside = resolve(path)
    file = patiently(path, lambda: filesystem.open_input_file(inside))
    return file if is_local(path) else _Remote(path, file)


class _Remote(io.RawIOBase):
    """A file at a URL, read with more patience than pyarrow has."""

    def __init__(self, path: str, file: Any) -> None:
        self._path, self._file, self._size, self._position = path, file, file.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        return self.read(max(self._size - self._position, 0)) or b""

    def readinto(self, buffer: Any) -> int:
        start, size = self._position, min(len(buffer), max(self._size - self._position, 0))
        if not size:
            return 0
        found = patiently(self._path, lambda: self._file.read_at(size, start))
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_table(path: str, columns: list[str] | None = None) -> "pa.Table":
    """The table in a Parquet file, its page checksums compared where it has them.

    Raises FileNotFoundError, UnreachableError, pyarrow's errors for a damaged file.
    """
    import pyarrow.parquet as pq

    filesystem, inside = resolve(path)

    def read() -> "pa.Table":
        with filesystem.open_input_file(inside) as source:
            return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True).read(columns)

    return patiently(path, read)


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    from pyarrow import fs

    filesystem, inside = resolve(path)
    with reaching(path):
        return bool(filesystem.get_file_info(inside).type != fs.FileType.NotFound)


def file_size(path: str) -> int | None:
    """Size in bytes of a file; None when there is none."""
    filesystem, inside = resolve(path)
    with reaching(path):
        size: int | None = filesystem.get_file_info(inside).size
    return size


def listing(folder: str, *, recursive: bool = False) -> "list[fs.FileInfo]":
    """Files and folders in a folder or below a URL, by path; empty when there is no folder."""
    from pyarrow import fs

    filesystem, inside = resolve(folder)
    with reaching(folder):
        found = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True, recursive=recursive))
    return sorted(found, key=lambda info: info.path)


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Names of the files directly in a folder, sorted; empty when there is no folder. Temp files are not listed."""
    names = [info.base_name for info in listing(folder) if info.is_file]
    return [name for name in names if name.endswith(suffix) and not name.startswith(".")]


def delete(path: str) -> None:
    """Remove one file if it is there."""
    filesystem, inside = resolve(path)
    if exists(path):
        with reaching(path), suppress(FileNotFoundError):  # another process may be at it too
            filesystem.delete_file(inside)


def size_and_hash(path: str) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as artifact.json records them."""
    sha, size = hashlib.sha256(), 0
    with open_file(path) as stream:
        while block := stream.read(BLOCK):
            sha.update(block)
            size += len(block)
    return {"size": size, "sha256": sha.hexdigest()}


def sync(path: Path) -> None:
    """Wait until a local file, or the list of names in a folder, is on the disk, where the file system can say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # what some network file systems answer for a folder
            raise
    finally:
        os.close(descriptor)
