"""The parts and folders that stages make, each committed whole and with its fingerprint.

"Done" has one truth: the part (or artifact.json) is there and its fingerprint matches.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ckd.errors import ArtifactError, MismatchError
from ckd.store.content import column_hashes
from ckd.store.copies import fetched_folder
from ckd.store.damage import damage_named
from ckd.store.files import (
    delete,
    digest,
    exists,
    inner,
    join,
    list_files,
    open_file,
    read_table,
    size_and_hash,
    write_bytes,
    write_file,
)
from ckd.store.filesystems import is_local, reaching
from ckd.store.folders import ARTIFACT_FILE, upload_folder
from ckd.store.jsonfile import SEAL, json_bytes, read_json, sealed
from ckd.store.versions import versions

if TYPE_CHECKING:
    import pyarrow as pa

Fields = Mapping[str, str | int | float | bool | None]
Versions = Mapping[str, str | None]  # library -> version
FOOTER_KEY = b"ckd"


class Unit(Protocol):
    """What one part is made from: a shard of visits, or a partition of tables."""

    @property
    def index(self) -> int:
        """Its number, which is also the part's."""

    @property
    def rows(self) -> int:
        """How many rows its part holds."""


AnyUnit = TypeVar("AnyUnit", bound=Unit)


def require_equal(where: str, found: Fields, wanted: Fields) -> None:
    """Raise MismatchError naming the first field in which a stored fingerprint differs from what is wanted."""
    folder = where.rpartition("/")[0] if where.endswith(".parquet") else where
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise MismatchError(
                f"{where}: made with {name}={found.get(name)!r}, this run has {name}={wanted.get(name)!r}; restore it, "
                f"give another run.artifacts (unset: another run.name), or delete {folder} to make that stage again"
            )


@dataclass(frozen=True)
class Footer:
    """What a part holds about itself. No time, host or attempt is inside."""

    stage: str
    index: int
    rows: int
    input_hash: str
    fields: Fields
    made_with: Versions = field(default_factory=dict)  # compared by verify alone
    content: Mapping[str, str] = field(default_factory=dict)  # column -> hash of its values


class Stage:
    """One stage's folder of parts, `<root>/<name>/part-00000.parquet …`, all made with the same fingerprint fields.

    A part also records the versions of `libraries`, which are no part of the fingerprint: an update refuses nothing.
    """

    def __init__(self, root: str, name: str, fields: Fields, libraries: Sequence[str] = ()) -> None:
        self.name, self.libraries = name, libraries
        self.folder = join(root, name)
        self.fields = dict(fields)

    def path(self, index: int) -> str:
        """The final name of part `index`."""
        return join(self.folder, f"part-{index:05d}.parquet")

    def write(
        self,
        index: int,
        table: "pa.Table",
        *,
        rows: int,
        input_hash: str,
        mark: Mapping[bytes, bytes] | None = None,
        made_with: Versions | None = None,
    ) -> None:
        """Commit a part whole, with a `mark` in its schema; `made_with` where values were computed elsewhere.

        Raises ArtifactError unless it has exactly `rows` rows. Safe to run twice.
        """
        import pyarrow.parquet as pq

        if table.num_rows != rows:
            raise ArtifactError(
                f"{self.path(index)}: {table.num_rows} rows computed, the shard has {rows}; nothing was written"
            )
        footer = {"stage": self.name, "index": index, "rows": rows, "input_hash": input_hash, "fields": self.fields}
        footer["content"] = column_hashes(table)
        if self.libraries:
            footer["made_with"] = versions(self.libraries) if made_with is None else made_with
        metadata = {**(mark or {}), FOOTER_KEY: json.dumps(sealed(footer), sort_keys=True).encode()}
        table = table.replace_schema_metadata(metadata)
        options = {"compression": "zstd", "write_page_checksum": True}
        write_file(self.path(index), lambda stream: pq.write_table(table, stream, **options), private=True)

    def footer(self, index: int) -> Footer | None:
        """The footer of part `index`; None when it is not there. Raises ArtifactError when it is damaged."""
        return read_footer(self.path(index))

    def is_done(self, index: int, *, rows: int, input_hash: str) -> bool:
        """Whether part `index` is there. Raises ArtifactError naming the field when it was made otherwise."""
        found = self.footer(index)
        if found is None:
            return False
        wanted = {**self.fields, "input shard": input_hash, "rows": rows}
        require_equal(self.path(index), {**found.fields, "input shard": found.input_hash, "rows": found.rows}, wanted)
        return True

    def missing(
        self, shards: Iterable[AnyUnit], hash_of: Callable[[AnyUnit], str] = attrgetter("text_hash")
    ) -> list[AnyUnit]:
        """The shards whose part is not there. Raises ArtifactError when one was made otherwise, or from another shard.

        `hash_of` gives the input_hash with which the part of a shard was written. Costs one read of a footer per shard.
        """
        return [s for s in shards if not self.is_done(s.index, rows=s.rows, input_hash=hash_of(s))]

    def require(
        self, shards: Sequence[AnyUnit], command: str, hash_of: Callable[[AnyUnit], str] = attrgetter("text_hash")
    ) -> None:
        """Raise ArtifactError that names the command to run when parts of these shards are missing."""
        missing = self.missing(shards, hash_of)
        if missing:
            raise ArtifactError(
                f"{self.folder}: {len(missing)} of {len(shards)} shards are missing (first: {missing[0].index}); "
                f"run '{command}' first"
            )

    def read(self, index: int, columns: Sequence[str] | None = None, *, input_hash: str | None = None) -> "pa.Table":
        """The rows of part `index`, as they were written; with `input_hash` only where it was made from that input.

        Raises ArtifactError when the part is missing, is damaged, holds other values than those that were written, or
        was made from another input.
        """
        path = self.path(index)
        again = "delete it and run the same command again"
        try:
            with damage_named(path, again):
                table = read_table(path, None if columns is None else list(columns))
                footer, found = _footer_in(table.schema.metadata or {}), column_hashes(table)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: missing; run the stage that makes it again") from None
        if input_hash is not None and footer.input_hash != input_hash:
            raise ArtifactError(f"{path}: made from other visits than the shard holds; {again}")
        wanted = list(columns or footer.content)
        wrong = [n for n in wanted if n not in found or (footer.content and found[n] != footer.content.get(n))]
        if wrong:
            raise ArtifactError(f"{path}: column {wrong[0]} does not hold what was written; {again}")
        return table

    def indices(self) -> list[int]:
        """The parts that are there. Parts are listed, never counted."""
        names = list_files(self.folder, ".parquet")
        return [int(name[5:-8]) for name in names if name.startswith("part-") and name[5:-8].isdigit()]

    def delete(self, index: int) -> None:
        """Remove part `index`."""
        delete(self.path(index))


def read_footer(path: str) -> Footer | None:
    """The footer of one part; None when there is no file. Raises ArtifactError when it is no part of ours."""
    import pyarrow.parquet as pq

    try:
        with damage_named(path, "delete it and run the same command again"), reaching(path), open_file(path) as source:
            return _footer_in(pq.read_metadata(source).metadata or {})
    except FileNotFoundError:
        return None


def _footer_in(metadata: Mapping[bytes, bytes]) -> Footer:
    """The footer in a schema's metadata. Raises LookupError, TypeError, ValueError when it is none of ours."""
    found = json.loads(metadata[FOOTER_KEY])
    seal = found.pop(SEAL, None)  # parts of before have none
    if seal is not None and seal != digest(found):
        raise ValueError("a footer that is not what was written")
    return Footer(**found)


@dataclass(frozen=True)
class FolderArtifact:
    """A folder of files (head, student, checkpoint) whose `artifact.json`, written last, is its footer.

    It records the versions of `libraries` as a part does.
    """

    folder: str
    fields: Fields
    libraries: Sequence[str] = ()

    def commit(self, files: Iterable[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write artifact.json for files that are there: their sizes, SHA-256, the fingerprint and `extra` facts.

        A mapping from names to what size_and_hash found when they were written saves reading them back.
        """
        if not isinstance(files, Mapping):
            files = {name: size_and_hash(join(self.folder, name)) for name in sorted(files)}
        write_bytes(join(self.folder, ARTIFACT_FILE), self._footer(files, extra))

    def commit_from(self, local: str, extra: Mapping[str, Any] | None = None) -> None:
        """Copy every file below the local folder `local` here, artifact.json last: for files that a library writes.

        Each file appears whole; nothing is read back. An older artifact.json is removed first.
        """
        footer = Path(local) / ARTIFACT_FILE
        names = sorted(str(p.relative_to(local)) for p in Path(local).rglob("*") if p.is_file() and p != footer)
        footer.write_bytes(self._footer({name: size_and_hash(join(local, name)) for name in names}, extra))
        upload_folder(local, self.folder)

    def _footer(self, files: Mapping[str, Any], extra: Mapping[str, Any] | None) -> bytes:
        content: dict[str, Any] = {"fields": dict(self.fields), "files": dict(files)}
        content |= {"extra": dict(extra)} if extra else {}
        content |= {"made_with": versions(self.libraries)} if self.libraries else {}
        return json_bytes(sealed(content), sort_keys=True)

    def is_done(self) -> bool:
        """Whether the folder is committed. Raises ArtifactError naming the field when it was made otherwise."""
        content = self.load()
        if content is None:
            return False
        require_equal(self.folder, content["fields"], self.fields)
        return True

    def load(self) -> dict[str, Any] | None:
        """The parsed artifact.json (fields, files, extra); None when the folder is not committed.

        Raises ArtifactError when it is not one of this project's.
        """
        path, remedy = join(self.folder, ARTIFACT_FILE), "delete that folder and run the same command again"
        try:
            content = read_json(path, remedy)
        except FileNotFoundError:
            return None
        given: dict[str, Any] = {"extra": {}, "made_with": {}} | content if isinstance(content, dict) else {}
        sections = [given.get(name) for name in ("fields", "files", "extra", "made_with")]
        if not all(isinstance(value, dict) for value in sections) or not all(map(_is_fact, given["files"].values())):
            raise ArtifactError(f"{path}: not one of this project's; {remedy}")
        return dict(content)

    def verify(self) -> None:
        """Raise ArtifactError when a listed file is missing or its size or SHA-256 differs."""
        again = "run the same command again"
        for name, recorded in self._finished(again)["files"].items():
            path = inner(self.folder, name)
            if not exists(path) or size_and_hash(path) != recorded:
                raise ArtifactError(f"{path}: missing or changed since it was written; delete that folder and {again}")

    def fetched(self) -> str:
        """A local folder with the files, which are read once to compare them. Raises ArtifactError as `verify`."""
        if is_local(self.folder):
            self.verify()
        return fetched_folder(self.folder)

    def identity(self) -> str:
        """A short hash of what the folder holds: a fingerprint field of what is made from it."""
        content = self._finished("run the stage that makes it first")
        return digest({"fields": content["fields"], "files": content["files"]})

    def _finished(self, remedy: str) -> dict[str, Any]:
        content = self.load()
        if content is None:
            raise ArtifactError(f"{self.folder}: not finished ({ARTIFACT_FILE} is missing); {remedy}")
        return content


def _is_fact(value: Any) -> bool:
    """Whether it is what size_and_hash returns."""
    return isinstance(value, dict) and isinstance(value.get("size"), int) and isinstance(value.get("sha256"), str)
