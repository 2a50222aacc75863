"""A shard's arrays in a file on this machine's disk, which all its ranks map; a copy that goes when training ends."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from ckd.errors import ConfigError
from ckd.store.copies import made_once
from ckd.store.files import make_folder, write_file

Arrays = Mapping[str, np.ndarray]


class MappedArrays:
    """The files of one run in `folder`, removed when its `with` ends; only this user can read the visits' tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, build: Callable[[], Arrays]) -> Arrays:
        """The arrays of `name`, read-only; `build` makes them once per machine.

        Where no file can be written they stay in this process's memory.
        """
        path = self.folder / f"{name}.arrow"
        built: Arrays | None = None

        def make(unfinished: Path) -> None:
            nonlocal built
            built = build()
            _write(unfinished, built)

        try:
            make_folder(self.folder)
            self.folder.chmod(0o700)
            made_once(path, make)
            return _map(path)
        except (OSError, ConfigError):
            return build() if built is None else built  # `build` raises its own error again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the files. Processes that have them mapped keep what they see."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _write(path: Path, arrays: Arrays) -> None:
    """Write one row with a column per array: Arrow starts each at a multiple of 8 bytes."""
    kinds = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    columns = {
        name: pa.array([np.ascontiguousarray(array).tobytes()], pa.large_binary()) for name, array in arrays.items()
    }
    table = pa.table(columns).replace_schema_metadata({"arrays": json.dumps(kinds)})

    def write(stream: object) -> None:
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)

    write_file(str(path), write, private=True)


def _map(path: Path) -> Arrays:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    # The chunk's own buffer of bytes lies in the file; a scalar's would be a copy.
    kinds = json.loads(table.schema.metadata[b"arrays"])
    return {
        name: np.frombuffer(table[name].chunk(0).buffers()[2], dtype).reshape(shape)
        for name, (dtype, shape) in kinds.items()
    }
