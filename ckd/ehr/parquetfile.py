"""One Parquet file: its columns under lower-case names, its rows, whether it is damaged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ckd.ehr.canonical import ROW, UNREADABLE
from ckd.errors import DataError


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file; it does for Source what CsvFile does. It has no header, and no cell in it can be misread."""

    path: Path
    columns: Mapping[str, pl.DataType]  # in the file's order, names lower case
    first = 1

    @classmethod
    def open(cls, path: Path) -> "ParquetFile":
        """Read the schema. Raises DataError when it is no Parquet file."""
        try:
            schema = pl.read_parquet_schema(path)
        except UNREADABLE as error:
            raise DataError(f"{path}: not a Parquet file ({type(error).__name__}); get the file again") from None
        columns = {name.lower(): dtype for name, dtype in schema.items()}
        if len(columns) < len(schema):
            raise DataError(f"{path}: two columns differ in capitals only; rename or remove one")
        return cls(path, columns)

    def scan(self) -> pl.LazyFrame:
        """Every row, with its 0-based number ROW."""
        frame = pl.scan_parquet(self.path, row_index_name=ROW, glob=False)
        return frame.rename(dict(zip(frame.collect_schema().names()[1:], self.columns, strict=True)))

    def suspect(self, used: Iterable[str]) -> pl.Expr:
        """No row is."""
        return pl.lit(False)

    def minding_quotes(self, rows: int, records: int, suspects: int) -> "ParquetFile":
        """This file."""
        return self

    def blank_rows(self, rows: int, records: int, suspects: int) -> int:
        """How many rows hold nothing: `rows` were read, the last of them was record `records`."""
        return max(records, 0) - rows

    def find_damage(self) -> None:
        """Read the whole file; raises DataError if that is not possible."""
        try:
            pl.scan_parquet(self.path, glob=False).select(pl.all().null_count()).collect(engine="streaming")
        except UNREADABLE as error:
            raise DataError(f"{self.path}: damaged Parquet ({type(error).__name__}); get the file again") from None

    def line_of(self, record: int) -> int:
        """The 1-based number of a row."""
        return record
