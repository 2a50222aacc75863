"""One CSV file: its header, the proof that every line has all its cells, and where a damaged line lies. polars reads the cells (scan); it fills
the cells of a short line silently, so that is looked for here. Nothing here ever quotes a line."""

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import polars as pl

from ckd.errors import DataError

_GZIP = b"\x1f\x8b"
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w .:/()-]*")
_LONGEST_CELL = 1 << 20  # bytes within one pair of quotes; beyond it the quote was never meant to open
# A record in which every quote opens or closes a whole cell.
_STRICT_RECORD = re.compile(rb'(?:"(?:[^"]|"")*"|[^",]*)(?:,(?:"(?:[^"]|"")*"|[^",]*))*')


def read_header(path: Path) -> tuple[str, ...]:
    """The column names, lower case. Raises DataError when line 1 is no header of a comma-separated table."""
    try:
        with _open(path) as stream:
            line = stream.readline(1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_damage(error)}); get the file again") from None
    if not line.strip():
        raise DataError(f"{path}:1: the file is empty, expected a line with the column names; get the file again")
    if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"<"):
        raise DataError(
            f"{path}:1: an HTML or XML page, not a CSV table (a download that was refused?); get the file again"
        )
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{path}:1: UTF-16, as spreadsheets save 'Unicode text'; save it as CSV UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"
        )
    if b"\r" in line.rstrip(b"\r\n"):
        raise DataError(f"{path}:1: its lines end in CR alone; convert them: tr '\\r' '\\n'")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}:1: the header is not UTF-8; {_iconv(path)}") from None
    # An index column without a name, as some programs write it, may stay: nothing reads it.
    names = [cell.strip().lower() or f"column_{number}" for number, cell in enumerate(next(csv.reader([text])), 1)]
    if not all(_COLUMN_NAME.fullmatch(name) for name in names):
        hint = (
            "the cells must be separated by commas"
            if re.search(r"[;\t|]", text)
            else "add the line with the column names"
        )
        raise DataError(f"{path}:1: no header (a cell is no column name); {hint}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path}:1: column '{repeated[0]}' is there twice; rename or remove one")
    return tuple(names)


def starts_plain(path: Path) -> bool:
    """Whether the first megabyte has no quote: then it may be read as if there were none, which proves every line's cells by itself."""
    try:
        with _open(path) as stream:
            return b'"' not in stream.read(1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_damage(error)}); get the file again") from None


def has_quotes(path: Path) -> bool:
    """Whether there is a quote anywhere."""
    lines = pl.scan_lines(path, name="line", glob=False)
    return bool(lines.select(pl.col("line").str.contains('"', literal=True).any()).collect(engine="streaming").item())


def survey(path: Path) -> tuple[int, int]:
    """How many lines the file has, header and blank ones included, and how many of them end in a comma. Cheap: no cell is looked at."""
    lines = pl.scan_lines(path, name="line", glob=False)
    counts = lines.select(pl.len(), commas=pl.col("line").str.ends_with(",").sum()).collect(engine="streaming").row(0)
    return int(counts[0]), int(counts[1])


def check_lines(path: Path, cells: int) -> None:
    """Raise DataError naming the first record that does not have `cells` cells. Blank lines pass."""
    line = pl.col("line")
    quoted = line.str.contains('"', literal=True)
    outside = line.filter(quoted).str.replace_all('"[^"]*"', "")
    counts = pl.scan_lines(path, name="line", glob=False).select(
        plain=(line.filter(~quoted).str.count_matches(",", literal=True) + 1 != cells).sum(),
        blank=(line == "").sum(),
        split=outside.str.contains('"', literal=True).sum(),  # a cell with a line end in it, or a stray quote
        quoted=(outside.str.count_matches(",", literal=True) + 1 != cells).sum(),
    )
    found = counts.collect(engine="streaming").row(0, named=True)
    suspicious = found["split"] + found["quoted"] + found["plain"] - (found["blank"] if cells > 1 else 0)
    if suspicious:
        find_damage(path, cells)


def find_damage(path: Path, cells: int) -> None:
    """Read the file line by line and raise DataError at the first damage: encoding, quotes, number of cells, truncated gzip. Returns if none."""
    line = 0
    try:
        for line, record in _records(path):
            _check_record(path, line, record, cells)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{line + 1}: cannot be read past here ({_damage(error)}); get the file again") from None


def line_of(path: Path, record: int) -> int:
    """The 1-based line on which a 1-based record starts: not the same where cells have line ends in them."""
    odd = pl.col("line").str.count_matches('"', literal=True) % 2
    lines = pl.scan_lines(path, name="line", glob=False, n_rows=record)
    if not lines.select(odd.sum()).collect(engine="streaming").item():
        return record
    starts = (start for start, _ in _records(path))
    return next((start for number, start in enumerate(starts, 1) if number == record), record)


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    # By content, as polars does: a browser may have unpacked the file and kept the name.
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    return gzip.open(path) if packed else path.open("rb")


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """First line and bytes of each record: lines are joined while a quote is open. Raises DataError for a quote that never closes."""
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
        raise DataError(
            f'{path}:{start}: a quote (") opens here and is not closed; close it, or double the quotes inside a cell'
        )


def _check_record(path: Path, line: int, record: bytes, cells: int) -> None:
    try:
        record.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{line}: not UTF-8; {_iconv(path)}") from None
    record = record.rstrip(b"\r\n")
    if not record:
        return
    if b"\n" in record and not _STRICT_RECORD.fullmatch(record):
        raise DataError(
            f'{path}:{line}: a quote (") opens here and is not closed; close it, or double the quotes inside a cell'
        )
    found = 1 + sum(part.count(b",") for part in record.split(b'"')[::2])
    if found != cells:
        raise DataError(
            f"{path}:{line}: {found} cells, the header has {cells}; mend that line (a comma inside a cell needs quotes around the cell)"
        )


def _damage(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the gzip file ends too early: a download or copy that was cut off"
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return "the gzip file is damaged"
    return type(error).__name__


def _iconv(path: Path) -> str:
    return f"convert it: {'gunzip, then ' if path.suffix == '.gz' else ''}iconv -f WINDOWS-1252 -t UTF-8 (mixed encodings: find out where they begin)"
