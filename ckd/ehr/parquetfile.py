"""One Parquet file: its columns under lower-case names, its rows, whether it is damaged."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ckd.errors import DataError

ROW = "\0row"  # no source column can be called so


def read_columns(path: Path) -> Mapping[str, pl.DataType]:
    """Lower-case name -> type, in the file's order. Raises DataError when it is no Parquet file."""
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({type(error).__name__}); get the file again") from None
    columns = {name.lower(): dtype for name, dtype in schema.items()}
    if len(columns) < len(schema):
        raise DataError(f"{path}: two columns differ in capitals only; rename or remove one")
    return columns


def scan_rows(path: Path, columns: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Every row under the names of read_columns, with its 0-based number ROW."""
    frame = pl.scan_parquet(path, row_index_name=ROW, glob=False)
    return frame.rename(dict(zip(frame.collect_schema().names()[1:], columns, strict=True)))


def find_damage(path: Path) -> None:
    """Read the whole file; raises DataError if that is not possible."""
    try:
        pl.scan_parquet(path, glob=False).select(pl.all().null_count()).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: damaged Parquet ({type(error).__name__}); get the file again") from None
