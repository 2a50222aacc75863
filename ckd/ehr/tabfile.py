"""One table as OHDSI's Athena hands out its vocabularies: named .csv, but its cells are separated by tabs, unquoted."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ckd.ehr.canonical import ROW
from ckd.ehr.csvfile import CsvFile, first_line
from ckd.errors import DataError


@dataclass(frozen=True)
class TabFile(CsvFile):
    """A file of concepts, no patient's row: a quote in it is any character, and a line too short has empty cells."""

    @classmethod
    def open(cls, path: Path) -> "TabFile":
        """Read the header. Raises DataError when there is none, or a column is there twice."""
        names = [name.strip().lower() for name in first_line(path).decode("utf-8-sig").rstrip("\r\n").split("\t")]
        if len(set(names)) < len(names) or not all(names):
            raise DataError(f"{path}:1: a column without a name, or of the same name as another; get the file again")
        return cls(path, dict.fromkeys(names, pl.String()), plain=True)

    def scan(self) -> pl.LazyFrame:
        """Every row as it is, with its 0-based number ROW."""
        return pl.scan_csv(
            self.path,
            has_header=False,
            skip_lines=1,
            separator="\t",
            quote_char=None,
            schema=dict.fromkeys(self.columns, pl.String),
            missing_columns="insert",
            truncate_ragged_lines=True,
            row_index_name=ROW,
            glob=False,
            raise_if_empty=False,
        )

    def suspect(self, used: Iterable[str]) -> pl.Expr:
        """No row is."""
        return pl.lit(False)

    def check_lines(self) -> None:
        """Nothing: no line is left out whatever its cells are."""
