"""A disk with little room left."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only(free: int, disk: Path) -> Iterator[None]:
    """The disk with `free` bytes left until the end of the block; the rest is one file on it."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - free, 1))
    try:
        yield
    finally:
        filler.unlink()
