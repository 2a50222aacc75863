"""Artifacts: parts and folder artifacts, their fingerprints, atomic commit, what is missing. Local paths, s3:// and gs:// through
pyarrow.fs. What the values mean belongs to the stages.

"Done" has one truth: the part (or artifact.json) is there and its fingerprint matches.
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckd.errors import ArtifactError, ConfigError, MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs

Fields = Mapping[str, str | int | float | bool | None]
_FOOTER_KEY = b"ckd"
ARTIFACT_FILE = "artifact.json"


def digest(value: object) -> str:
    """A short stable SHA-256 of any JSON value: the fingerprint of a set of fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def resolve(path: str) -> tuple["fs.FileSystem", str]:
    """The file system of a path or URL, and the path inside it."""
    from pyarrow import fs

    if "://" in path:
        filesystem, inside = fs.FileSystem.from_uri(path)
        return filesystem, inside
    return fs.LocalFileSystem(), str(Path(path).absolute())


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's file system."""
    return "://" not in path


def join(root: str, *names: str) -> str:
    """Append names to a path or URL."""
    return "/".join([root.rstrip("/"), *names])


def write_file(path: str, write: Callable[[Any], None]) -> None:
    """Call `write` with a binary stream and commit the result whole: temp file, fsync, rename (or one upload)."""
    filesystem, inside = resolve(path)
    if not is_local(path):
        # Collected first: an upload stream commits what it has when an exception closes it.
        with tempfile.TemporaryFile() as buffer:
            write(buffer)
            buffer.seek(0)
            with filesystem.open_output_stream(inside) as stream:
                shutil.copyfileobj(buffer, stream)
        return
    target = Path(inside)
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a local folder and its parents; raises ConfigError when that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be made ({type(error).__name__}); give run.results, run.artifacts and run.public_files a writable place"
        ) from None


def write_bytes(path: str, data: bytes) -> None:
    """Commit bytes to a path or URL atomically."""
    write_file(path, lambda stream: stream.write(data))


def read_bytes(path: str) -> bytes:
    """The whole content of a path or URL; raises FileNotFoundError."""
    filesystem, inside = resolve(path)
    with filesystem.open_input_stream(inside) as stream:
        return bytes(stream.read())


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    from pyarrow import fs

    filesystem, inside = resolve(path)
    return bool(filesystem.get_file_info(inside).type != fs.FileType.NotFound)


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Names of the files directly in a folder, sorted; empty when there is no folder. Temp files are not listed."""
    from pyarrow import fs

    filesystem, inside = resolve(folder)
    infos = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    return sorted(i.base_name for i in infos if i.type == fs.FileType.File and i.base_name.endswith(suffix) and not i.base_name.startswith("."))


def delete(path: str) -> None:
    """Remove one file if it is there."""
    filesystem, inside = resolve(path)
    if exists(path):
        filesystem.delete_file(inside)


def require_equal(where: str, found: Fields, wanted: Fields) -> None:
    """Raise MismatchError naming the first field in which a stored fingerprint differs from this configuration's."""
    folder = where.rpartition("/")[0] if where.endswith(".parquet") else where
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise MismatchError(
                f"{where}: made with {name}={found.get(name)!r}, this run has {name}={wanted.get(name)!r}; "
                f"restore it, give another run.artifacts (unset: another run.name), or delete {folder} to make that stage anew"
            )


@dataclass(frozen=True)
class Footer:
    """What a part says of itself. No time, host or attempt is inside."""

    stage: str
    index: int
    rows: int
    input_hash: str
    fields: Fields


class Stage:
    """One stage's folder of parts, `<root>/<name>/part-00000.parquet …`, all made with the same fingerprint fields."""

    def __init__(self, root: str, name: str, fields: Fields) -> None:
        self.name = name
        self.folder = join(root, name)
        self.fields = dict(fields)

    def path(self, index: int) -> str:
        """The final name of part `index`."""
        return join(self.folder, f"part-{index:05d}.parquet")

    def write(self, index: int, table: "pa.Table", *, rows: int, input_hash: str) -> None:
        """Commit a part whole. Raises ArtifactError when it does not hold exactly `rows` rows. Safe to run twice."""
        import pyarrow.parquet as pq

        if table.num_rows != rows:
            raise ArtifactError(f"{self.path(index)}: {table.num_rows} rows computed, the shard has {rows}; nothing was written")
        footer = {"stage": self.name, "index": index, "rows": rows, "input_hash": input_hash, "fields": self.fields}
        metadata = {_FOOTER_KEY: json.dumps(footer, sort_keys=True).encode()}
        table = table.replace_schema_metadata(metadata)
        write_file(self.path(index), lambda stream: pq.write_table(table, stream, compression="zstd"))

    def footer(self, index: int) -> Footer | None:
        """What part `index` says of itself; None when it is not there. Raises ArtifactError when it is damaged."""
        return read_footer(self.path(index))

    def is_done(self, index: int, *, rows: int, input_hash: str) -> bool:
        """Whether part `index` is there. Raises ArtifactError naming the field when it was made otherwise."""
        found = self.footer(index)
        if found is None:
            return False
        wanted = {**self.fields, "input shard": input_hash, "rows": rows}
        require_equal(self.path(index), {**found.fields, "input shard": found.input_hash, "rows": found.rows}, wanted)
        return True

    def read(self, index: int, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of part `index`. Raises ArtifactError when it is missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        filesystem, inside = resolve(self.path(index))
        try:
            return pq.read_table(inside, filesystem=filesystem, columns=columns, partitioning=None)
        except (FileNotFoundError, pa.ArrowException) as error:
            raise ArtifactError(f"{self.path(index)}: {_reason(error)}; delete it and run the same command again") from error

    def indices(self) -> list[int]:
        """The parts that are there. Parts are listed, never counted."""
        return [int(name[5:-8]) for name in list_files(self.folder, ".parquet") if name.startswith("part-") and name[5:-8].isdigit()]

    def delete(self, index: int) -> None:
        """Remove part `index`."""
        delete(self.path(index))


def read_footer(path: str) -> Footer | None:
    """The footer of one part; None when there is no file. Raises ArtifactError when it is no part of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, inside = resolve(path)
    try:
        with filesystem.open_input_file(inside) as source:
            metadata = pq.read_metadata(source).metadata or {}
        return Footer(**json.loads(metadata[_FOOTER_KEY]))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a whole part of this project ({_reason(error)}); delete it and run the same command again") from error


@dataclass(frozen=True)
class FolderArtifact:
    """A folder of files (head, student, checkpoint) whose `artifact.json`, written last, is its footer."""

    folder: str
    fields: Fields

    def commit(self, files: Iterable[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write artifact.json over files that are already there: their sizes, SHA-256, the fingerprint and `extra` facts."""
        listed = {name: size_and_hash(join(self.folder, name)) for name in sorted(files)}
        content = {"fields": dict(self.fields), "files": listed, **({"extra": dict(extra)} if extra else {})}
        write_bytes(join(self.folder, ARTIFACT_FILE), (json.dumps(content, sort_keys=True, indent=1) + "\n").encode())

    def is_done(self) -> bool:
        """Whether the folder is committed. Raises ArtifactError naming the field when it was made otherwise."""
        content = self.load()
        if content is None:
            return False
        require_equal(self.folder, content["fields"], self.fields)
        return True

    def load(self) -> dict[str, Any] | None:
        """The parsed artifact.json (fields, files, extra); None when the folder is not committed."""
        try:
            return dict(json.loads(read_bytes(join(self.folder, ARTIFACT_FILE))))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ArtifactError(f"{join(self.folder, ARTIFACT_FILE)}: not JSON; delete that folder and run the same command again") from error

    def verify(self) -> None:
        """Raise ArtifactError when a listed file is missing or its size or SHA-256 differs."""
        content = self.load()
        if content is None:
            raise ArtifactError(f"{self.folder}: not finished ({ARTIFACT_FILE} is missing); run the same command again")
        for name, recorded in content["files"].items():
            path = join(self.folder, name)
            if not exists(path) or size_and_hash(path) != recorded:
                raise ArtifactError(f"{path}: missing or changed since it was written; delete that folder and run the same command again")

    def identity(self) -> str:
        """A short hash of what the folder holds: the fingerprint field of whatever is made from it."""
        content = self.load()
        if content is None:
            raise ArtifactError(f"{self.folder}: not finished ({ARTIFACT_FILE} is missing); run the stage that makes it first")
        return digest({"fields": content["fields"], "files": content["files"]})


def size_and_hash(path: str) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as artifact.json records them."""
    filesystem, inside = resolve(path)
    sha, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(inside) as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
            size += len(block)
    return {"size": size, "sha256": sha.hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else type(error).__name__
