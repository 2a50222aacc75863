"""Frames as the files of a folder artifact, and the one way in which they are joined here."""

import io

import polars as pl

from ckd.store.files import join, read_bytes, write_file


def save_frame(folder: str, name: str, frame: pl.DataFrame) -> None:
    """Write one frame of a folder artifact."""
    write_file(join(folder, f"{name}.arrow"), lambda stream: frame.write_ipc(stream, compression="lz4"))


def load_frame(folder: str, name: str) -> pl.DataFrame:
    """Read one frame of a folder artifact."""
    return pl.read_ipc(io.BytesIO(read_bytes(join(folder, f"{name}.arrow"))))


def left_join(rows: pl.DataFrame, other: pl.DataFrame, key: str) -> pl.DataFrame:
    """`rows` in their order with the columns of `other`, null where it has no such key."""
    return rows.join(other, on=key, how="left", maintain_order="left")
