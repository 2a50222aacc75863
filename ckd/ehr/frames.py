"""Frames as the files of a folder artifact that appears whole, and the one way in which they are joined here."""

import io
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from ckd.store.files import join, read_bytes, write_file


@contextmanager
def made_aside(folder: str) -> Iterator[str]:
    """A new local folder that becomes `folder` when the block ends; nothing of it stays when that raises.

    Whoever makes the same at the same time writes elsewhere; who ends first is kept.
    """
    fresh = Path(f"{folder}.{uuid.uuid4().hex}.tmp")
    fresh.mkdir(parents=True)
    try:
        yield str(fresh)
        try:
            fresh.rename(folder)
        except OSError:
            if not Path(folder).is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def save_frame(folder: str, name: str, frame: pl.DataFrame) -> None:
    """Write one frame of a folder artifact."""
    write_file(join(folder, f"{name}.arrow"), lambda stream: frame.write_ipc(stream, compression="lz4"), private=True)


def load_frame(folder: str, name: str) -> pl.DataFrame:
    """Read one frame of a folder artifact."""
    return pl.read_ipc(io.BytesIO(read_bytes(join(folder, f"{name}.arrow"))))


def left_join(rows: pl.DataFrame, other: pl.DataFrame, key: str) -> pl.DataFrame:
    """`rows` in their order with the columns of `other`, null where it has no such key."""
    return rows.join(other, on=key, how="left", maintain_order="left")
