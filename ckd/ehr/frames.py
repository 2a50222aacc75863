"""Frames as the files of a folder artifact that appears whole, and the one way in which they are joined here.

A frame is compared with its SHA-256 whenever it is read: a flipped bit would go into a cohort unseen.
"""

import hashlib
import io
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from ckd.errors import ArtifactError
from ckd.store.artifacts import FolderArtifact
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
    """Read one frame of a folder artifact. Raises ArtifactError when it is not what was written."""
    return pl.read_ipc(io.BytesIO(proved_bytes(folder, f"{name}.arrow")))


def proved_bytes(folder: str, name: str) -> bytes:
    """A file of a folder artifact. Raises ArtifactError when it is not what was written."""
    data = read_bytes(join(folder, name))
    known = (FolderArtifact(folder, {}).load() or {"files": {}})["files"].get(name)
    if known != {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
        what = f"{join(folder, name)}: changed since it was written"
        raise ArtifactError(f"{what}; delete {folder} and run the same command again")
    return data


def frame_files(names: Iterable[str]) -> list[str]:
    """The files of frames, as an artifact lists them."""
    return [f"{name}.arrow" for name in names]


def left_join(rows: pl.DataFrame, other: pl.DataFrame, key: str) -> pl.DataFrame:
    """`rows` in their order with the columns of `other`, null where it has no such key."""
    return rows.join(other, on=key, how="left", maintain_order="left")
