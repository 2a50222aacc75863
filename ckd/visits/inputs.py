"""Reads the rows of one input, public JSONL or Parquet, each as a Visit or as a BadRow with file:line and a reason."""

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckd.errors import ConfigError, DataError
from ckd.store.files import BLOCK, digest, join, open_file
from ckd.store.filesystems import reaching, resolve
from ckd.visits.contents import require_named
from ckd.visits.datafolder import PARQUET_SUFFIX, DataFolder, data_folder
from ckd.visits.jsonlines import drawn_lines, fields_of, lines
from ckd.visits.parquetrows import TOO_LARGE, other_task, parquet_rows
from ckd.visits.rows import MAX_LINE, RowError, parse_line, parse_row
from ckd.visits.subgroups import KEY, marked, require_free
from ckd.visits.task import Task
from ckd.visits.visit import SUBGROUP_FIELDS, UNREAD_FIELDS, Source, Visit

if TYPE_CHECKING:
    import pyarrow as pa

JSONL_SUFFIXES = (".json", ".jsonl", ".gz")
_REQUIRED_COLUMNS = ("instruction", "input", "labels")
_REQUIRED_TO_PREDICT = ("input",)
_OPTIONAL = (
    "output",
    "unknown_labels",
    "visit_id",
    "subject_id",
    "split",
    "current_labels",
    "prediction_time",
    *SUBGROUP_FIELDS,
    *UNREAD_FIELDS,
)
_COLUMNS = (*_REQUIRED_COLUMNS, *_OPTIONAL)
_EXPECTED = "expected JSONL (.json, .jsonl, .gz), a .parquet file, or a folder of .parquet parts"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: its place (file:line, or part:row of Parquet) and why. Holds no text of the row."""

    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of an input of `rows` rows: `drawn` of them, of which `visits` can be used."""

    rows: int
    drawn: int
    visits: tuple[Visit, ...]


class Input:
    """One input file or folder. Raises DataError when it is missing, of an unsupported kind, or an empty folder.

    `task` says which labels the rows have. Rows for prediction (`to_learn` false) need only `input`; labels of another
    task are then not read, and `lines` says so. `subgroups`: those that are asked for, beside the fixed ones and those
    that our own parts name.
    """

    def __init__(
        self, path: str, source: Source, task: Task, *, to_learn: bool = True, subgroups: Sequence[str] = ()
    ) -> None:
        require_free(subgroups)
        self.path, self.source, self.task, self.to_learn, self._asked = path, source, task, to_learn, tuple(subgroups)
        self.parts, self._folder = _parts(path)
        self._starts: list[int] = []  # rows before each part read so far

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The subgroups that are asked for and that no part of ours names, as the input writes them.
        Raises ConfigError for one that is no column of Parquet."""
        if not self._is_parquet:
            return self._asked
        with _readable(self.path):
            there = self._schema.names
        lower = {name: name if name in there else name.lower() for name in self._asked}
        for name, column in lower.items():
            if column not in there:
                raise ConfigError(f"{KEY}: '{name}' is no column of {self.path}; there are {', '.join(there[:30])}")
        return tuple(column for column in lower.values() if column not in marked(self._schema))

    @cached_property
    def subgroups(self) -> tuple[str, ...]:
        """The subgroups beside the fixed ones."""
        if not self.to_learn:
            return ()
        with _readable(self.path):
            known = marked(self._schema) if self._is_parquet else ()
        return (*known, *self.asked)

    def fields(self) -> list[str]:
        """What a row holds, by the schema or the first row of JSONL."""
        return list(self._schema.names) if self._is_parquet else fields_of(self.path)

    def rows(self) -> Iterator[Visit | BadRow]:
        """Every row in order. Blank lines are not rows. `visit_id` is "" where the row has none.

        Raises DataError when the file is empty, a JSON array, not Parquet inside, lacks a column, or breaks off.
        """
        rows = 0
        with _readable(self.path):
            self._require_named()
            for row in self._parquet_rows() if self._is_parquet else self._jsonl_rows():
                rows += 1
                yield row
        self._require(rows)

    def sample(self, size: int, seed: int) -> "Sample":
        """At most `size` rows, all with equal chances, and the number of all rows. Raises DataError as `rows` does.

        Costs reading JSONL to its end, and of Parquet the row groups from which rows are drawn.
        """
        rng = random.Random(seed)
        with _readable(self.path):
            self._require_named()
            found: tuple[list[Any], int] = (
                _drawn_parquet(self.parts, self.task, size, rng)
                if self._is_parquet
                else drawn_lines(self.path, size, rng)
            )
        drawn, rows = found
        self._require(rows)
        parse: Callable[[Any, Source, int, Task], Visit] = parse_row if self._is_parquet else parse_line
        visits = []
        for line, row in drawn:
            if row is None:
                continue
            with suppress(RowError):
                visits.append(parse(row, self.source, line, self.task))
        return Sample(rows, len(drawn), tuple(visits))

    def locate(self, line: int) -> str:
        """file:line of the row whose Visit.line is `line`; for a folder its part and the row inside it."""
        part = max((i for i, start in enumerate(self._starts) if start < line), default=0)
        return f"{self.parts[part]}:{line - (self._starts[part] if self._starts else 0)}"

    def content_hash(self) -> str:
        """SHA-256 over the bytes of all parts in order; names and times do not count.

        Raises DataError when a cohort's part is not the one that it lists.
        """
        hashes = []
        for part in self.parts:
            sha = hashlib.sha256()
            with _readable(part), open_file(part) as stream:
                while block := stream.read(BLOCK):
                    sha.update(block)
            hashes.append(sha.hexdigest())
            if self._folder.hashes.get(part.rpartition("/")[2], hashes[-1]) != hashes[-1]:
                raise DataError(f"{part}: changed since the cohort was made; run the same 'ckd ingest' again")
        return digest(hashes)

    def lines(self) -> list[str]:
        """What a person has to know of a folder: the entries that were not read."""
        names = self._folder.passed_over
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        lines = (
            [f"{self.path}: {len(self.parts):,} parts; {len(names):,} entries are no data: {shown}"] if names else []
        )
        if not self.to_learn and self._is_parquet:
            with _readable(self.path):
                self._require_named()
                others = [other_task(part, self.task) for part in self.parts]
            lines += [f"{self.path}: {found} are not read" for found in dict.fromkeys(others) if found]
        return lines

    @cached_property
    def _schema(self) -> "pa.Schema":
        """Of the first part."""
        import pyarrow.parquet as pq

        with open_file(self.parts[0]) as stream:
            return pq.read_schema(stream)

    @property
    def _is_parquet(self) -> bool:
        return _is_parquet(self.parts[0])

    def _require_named(self) -> None:
        for part in self.parts:
            require_named(part)

    def _require(self, rows: int) -> None:
        if not rows:
            why = "holds no rows; expected at least one visit"
            raise DataError(f"{self.path}: {why}, check the path or leave the key out")

    def _jsonl_rows(self) -> Iterator[Visit | BadRow]:
        first = True
        for line, data in enumerate(lines(self.path), start=1):
            if len(data) < MAX_LINE and not data.strip():
                continue
            if first and data.lstrip(b"\xef\xbb\xbf \t")[:1] == b"[":
                expected = "expected one object per line (JSONL), for example from: jq -c '.[]'"
                raise DataError(f"{self.path}:{line}: a JSON array; {expected}")
            first = False
            try:
                yield parse_line(data, self.source, line, self.task, self.subgroups, to_learn=self.to_learn)
            except RowError as error:
                yield BadRow(f"{self.path}:{line}", str(error))

    def _parquet_rows(self) -> Iterator[Visit | BadRow]:
        line = 0
        self._starts = []
        for part in self.parts:
            self._starts.append(line)
            for row in self._rows_of(part):
                line += 1
                if row is None:
                    yield BadRow(self.locate(line), TOO_LARGE)
                    continue
                try:
                    yield parse_row(row, self.source, line, self.task, self.subgroups)
                except RowError as error:
                    yield BadRow(self.locate(line), str(error))

    def _rows_of(self, part: str) -> Iterator[dict[str, Any] | None]:
        if self.to_learn:
            columns, required = ((*names, *self.subgroups) for names in (_COLUMNS, _REQUIRED_COLUMNS))
            return parquet_rows(part, columns, required, self.task)
        left_out = ("labels", "current_labels") if other_task(part, self.task) else ()
        wanted = [name for name in _COLUMNS if name not in left_out]
        return parquet_rows(part, wanted, _REQUIRED_TO_PREDICT, self.task)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(PARQUET_SUFFIX)


def _parts(path: str) -> tuple[list[str], DataFolder]:
    from pyarrow import ArrowException, fs

    try:
        filesystem, inside = resolve(path)
        with reaching(path):
            kind = filesystem.get_file_info(inside).type
        folder = data_folder(path) if kind == fs.FileType.Directory else DataFolder((path,), (), {})
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be reached ({type(error).__name__}); {_EXPECTED}") from None
    if kind == fs.FileType.NotFound:
        raise DataError(f"{path}: no such file or folder; {_EXPECTED}")
    if kind == fs.FileType.Directory:
        if not folder.parts:
            raise DataError(f"{path}: a folder without .parquet parts; {_EXPECTED}")
        return [join(path, name) for name in folder.parts], folder
    if not path.lower().endswith((*JSONL_SUFFIXES, PARQUET_SUFFIX)):
        raise DataError(f"{path}: unsupported kind of file; {_EXPECTED}")
    return [path], folder


def _drawn_parquet(
    parts: Sequence[str], task: Task, size: int, rng: random.Random
) -> tuple[list[tuple[int, dict[str, Any] | None]], int]:
    import pyarrow.parquet as pq

    groups: list[tuple[str, int, int]] = []  # part, row group, rows
    for part in parts:
        with open_file(part) as stream:
            metadata = pq.ParquetFile(stream).metadata
        groups += [(part, number, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]
    rows = sum(count for *_, count in groups)
    places = sorted(rng.sample(range(rows), min(size, rows)))
    drawn: list[tuple[int, dict[str, Any] | None]] = []
    start = 0
    for part, number, count in groups:
        wanted = {place - start for place in places if start <= place < start + count}
        if wanted:
            rows_of_it = enumerate(parquet_rows(part, _COLUMNS, _REQUIRED_COLUMNS, task, (number,)))
            drawn += [(start + at + 1, row) for at, row in rows_of_it if at in wanted]
        start += count
    return drawn, rows


@contextmanager
def _readable(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        with reaching(path):
            yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        why = f"cannot be read to its end ({type(error).__name__})"
        raise DataError(f"{path}: {why}; check that it is whole and is what its name says") from None
