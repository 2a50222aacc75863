"""One CSV file: its header, its rows, the proof that every line has all its cells, and where a damaged line is.
polars fills the cells of a short line silently, so such lines are looked for here. No message quotes a line."""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import polars as pl

from ckd.ehr.canonical import ROW
from ckd.errors import DataError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MORE = "\0more"  # a column after the last one: only lines with too many cells have it
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w .:/()-]*")
_LONGEST_CELL = 1 << 20  # bytes within one pair of quotes; beyond it the quote was never meant to open
# A record in which every quote opens or closes a whole cell.
_STRICT_RECORD = re.compile(rb'(?:"(?:[^"]|"")*"|[^",]*)(?:,(?:"(?:[^"]|"")*"|[^",]*))*')


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, packed by gzip, zstd or not. Its header is record 1, its rows start at record `first`."""

    path: Path
    columns: Mapping[str, pl.DataType]  # in the file's order, names lower case
    plain: bool  # read as if a quote were any character: each line is a record then, none can hide
    first = 2

    @classmethod
    def open(cls, path: Path) -> "CsvFile":
        """Read the header. A file without a quote in its first megabyte is plain: that proves every line's cells."""
        try:
            with _open(path) as stream:
                line = stream.readline(1 << 20)
                columns = dict.fromkeys(_names(path, line), pl.String())
                return cls(path, columns, plain=b'"' not in line + stream.read((1 << 20) - len(line)))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({_damage(error)}); get the file again") from None

    def scan(self) -> pl.LazyFrame:
        """Every row as it is, with its 0-based number ROW."""
        # Positional names: polars would mend a header that is there twice, and hides cells after the last one it reads.
        return pl.scan_csv(
            self.path,
            has_header=False,
            skip_lines=1,
            schema=dict.fromkeys([*self.columns, _MORE], pl.String),
            missing_columns="insert",
            row_index_name=ROW,
            glob=False,
            raise_if_empty=False,
            quote_char=None if self.plain else '"',
        )

    def suspect(self, used: Iterable[str]) -> pl.Expr:
        """Whether a row may have too few cells, or has too many. `used`: the columns that are read."""
        # polars fills the cells of a short line with nulls, and does not look beyond the last column that it reads.
        suspect = pl.col(list(self.columns)[-1]).is_null() | pl.col(_MORE).is_not_null()
        if self.plain:
            suspect |= pl.any_horizontal(pl.col(name).str.starts_with('"').fill_null(False) for name in used)
        return suspect

    def minding_quotes(self, rows: int, records: int, suspects: int) -> "CsvFile":
        """This file, not plain any more if that left a doubt and there is a quote. The figures are `blank_rows`'s."""
        if not self.plain or not (suspects or records > rows + 1):
            return self
        quoted = self._lines().select(pl.col("line").str.contains('"', literal=True).any())
        return replace(self, plain=not quoted.collect(engine="streaming").item())

    def blank_rows(self, rows: int, records: int, suspects: int) -> int:
        """How many rows are blank. Raises DataError if rows have too few or too many cells or are inside a quote.

        `rows` were read, the last of them was record `records`, `suspects` of them are suspect. In a file with quotes
        every line is counted, since two stray quotes hide what is between them; the inside of every line is read only
        if that leaves a doubt. What is missed, in a file without quotes: a line with a comma too many that ends in an
        empty cell, where no other line does.
        """
        records = max(records, 1)
        blank = records - 1 - rows
        if blank or suspects or not (self.plain or self._survey() == (records, 0)):
            self.check_lines()
        return blank

    def check_lines(self) -> None:
        """Raise DataError naming the first record that does not have a cell per column. Blank lines pass."""
        cells, line = len(self.columns), pl.col("line")
        quoted = line.str.contains('"', literal=True)
        outside = line.filter(quoted).str.replace_all('"[^"]*"', "")
        counts = self._lines().select(
            plain=(line.filter(~quoted).str.count_matches(",", literal=True) + 1 != cells).sum(),
            blank=(line == "").sum(),
            split=outside.str.contains('"', literal=True).sum(),  # a cell with a line end in it, or a stray quote
            quoted=(outside.str.count_matches(",", literal=True) + 1 != cells).sum(),
        )
        found = counts.collect(engine="streaming").row(0, named=True)
        if found["split"] + found["quoted"] + found["plain"] - (found["blank"] if cells > 1 else 0):
            self.find_damage()

    def find_damage(self) -> None:
        """Raise DataError at the first damage, read line by line: encoding, quotes, number of cells, gzip cut off."""
        line = 0
        try:
            for line, record in _records(self.path):
                _check_record(self.path, line, record, len(self.columns))
        except (OSError, EOFError, zlib.error) as error:
            where = f"{self.path}:{line + 1}: cannot be read past here"
            raise DataError(f"{where} ({_damage(error)}); get the file again") from None

    def line_of(self, record: int) -> int:
        """The 1-based line on which a 1-based record starts: not the same where cells have line ends in them."""
        odd = pl.col("line").str.count_matches('"', literal=True) % 2
        if not self._lines(record).select(odd.sum()).collect(engine="streaming").item():
            return record
        starts = (start for start, _ in _records(self.path))
        return next((start for number, start in enumerate(starts, 1) if number == record), record)

    def _survey(self) -> tuple[int, int]:
        """How many lines there are, blank ones too, and how many end in a comma. Cheap, as no cell is read."""
        counts = self._lines().select(pl.len(), commas=pl.col("line").str.ends_with(",").sum())
        lines, commas = counts.collect(engine="streaming").row(0)
        return int(lines), int(commas)

    def _lines(self, count: int | None = None) -> pl.LazyFrame:
        return pl.scan_lines(self.path, name="line", glob=False, n_rows=count)


def first_line(path: Path) -> bytes:
    """The bytes of line 1, packed or not. Raises DataError when the file cannot be read."""
    try:
        with _open(path) as stream:
            return stream.readline(1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_damage(error)}); get the file again") from None


def _names(path: Path, line: bytes) -> list[str]:
    """The header as column names, lower case. Raises DataError when line 1 is no such header."""
    if not line.strip():
        raise DataError(f"{path}:1: the file is empty, expected a line with the column names; get the file again")
    if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"<"):
        what = "an HTML or XML page, not a CSV table (a download that was refused?)"
        raise DataError(f"{path}:1: {what}; get the file again")
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        remedy = "save it as CSV UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"
        raise DataError(f"{path}:1: UTF-16, as spreadsheets save 'Unicode text'; {remedy}")
    if b"\r" in line.rstrip(b"\r\n"):
        raise DataError(f"{path}:1: its lines end in CR alone; convert them: tr '\\r' '\\n'")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}:1: the header is not UTF-8; {_iconv(path)}") from None
    # An index column without a name, as some programs write it, may stay: nothing reads it.
    names = [cell.strip().lower() or f"column_{number}" for number, cell in enumerate(next(csv.reader([text])), 1)]
    if not all(_COLUMN_NAME.fullmatch(name) for name in names):
        separated = re.search(r"[;\t|]", text)
        hint = "the cells must be separated by commas" if separated else "add the line with the column names"
        raise DataError(f"{path}:1: no header (a cell is no column name); {hint}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path}:1: column '{repeated[0]}' is there twice; rename or remove one")
    return names


def _open(path: Path) -> BinaryIO | gzip.GzipFile | io.BufferedReader:
    # By content, as polars does: a browser may have unpacked the file and kept the name.
    with path.open("rb") as stream:
        start = stream.read(len(_ZSTD))
    if start == _ZSTD:
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return gzip.open(path) if start[: len(_GZIP)] == _GZIP else path.open("rb")


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """First line and bytes of each record, whose lines are joined while a quote is open. It must close: DataError."""
    start, size = 0, 0
    parts: list[bytes] = []
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if not parts:
                if line.count(b'"') % 2 == 0:
                    yield number, line
                    continue
                start, size, parts = number, len(line), [line]
                continue
            parts.append(line)
            size += len(line)
            if line.count(b'"') % 2:
                yield start, b"".join(parts)
                parts = []
            elif size > _LONGEST_CELL:
                break
    if parts:
        raise _open_quote(path, start)


def _check_record(path: Path, line: int, record: bytes, cells: int) -> None:
    try:
        record.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{line}: not UTF-8; {_iconv(path)}") from None
    record = record.rstrip(b"\r\n")
    if not record:
        return
    if b"\n" in record and not _STRICT_RECORD.fullmatch(record):
        raise _open_quote(path, line)
    found = 1 + sum(part.count(b",") for part in record.split(b'"')[::2])
    if found != cells:
        remedy = "mend that line (a comma inside a cell needs quotes around the cell)"
        raise DataError(f"{path}:{line}: {found} cells, the header has {cells}; {remedy}")


def _open_quote(path: Path, line: int) -> DataError:
    remedy = "close it, or double the quotes inside a cell"
    return DataError(f'{path}:{line}: a quote (") opens here and is not closed; {remedy}')


def _damage(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the gzip file ends too early: a download or copy that was cut off"
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return "the gzip file is damaged"
    return type(error).__name__


def _iconv(path: Path) -> str:
    unpack = "gunzip, then " if path.suffix == ".gz" else ""
    return f"convert it: {unpack}iconv -f WINDOWS-1252 -t UTF-8 (mixed encodings: find out where they begin)"
