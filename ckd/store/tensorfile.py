"""What a safetensors file holds, from its header alone: no weights are read, and at a URL two requests are made."""

import json
import math
from dataclasses import dataclass

from ckd.store.files import open_file
from ckd.store.filesystems import reaching

_LONGEST = 100 << 20  # bytes of a header that the format allows
_WAY_OUT = ": damaged, or not copied to its end; copy or download it again"


@dataclass(frozen=True)
class Tensor:
    """Shape and type of one tensor of a file."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: F32, BF16, …

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


def tensors_in(path: str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, local or at a URL, by name.

    Raises FileNotFoundError, UnreachableError, and ValueError when the file is something else or not whole, with the
    reason as the end of a sentence that begins with its name. Format: https://huggingface.co/docs/safetensors.
    """
    with reaching(path), open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        header = bytes(file.read(length)) if length <= min(size, _LONGEST) else b""
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        found = {name: Tensor(tuple(entry["shape"]), str(entry["dtype"])) for name, entry in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"has no readable header{_WAY_OUT}") from None
    if size != end:
        raise ValueError(f"has {size:,} bytes, its header names {end:,}{_WAY_OUT}")
    return found
