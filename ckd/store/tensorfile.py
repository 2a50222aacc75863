"""What a safetensors file holds, from its header alone: no weights are read, and at a URL two requests are made."""

import json
import math
from dataclasses import dataclass

from ckd.store.files import open_file

_POINTER = b"version https://git-lfs"
_LONGEST = 100_000_000  # bytes of a header that the format allows


@dataclass(frozen=True)
class Tensor:
    """Shape and type of one tensor of a file."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: F32, BF16, …

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


def is_pointer(start: bytes) -> bool:
    """Whether a file that begins so is what Git LFS puts in the place of the real one."""
    return start.startswith(_POINTER)


def tensors_in(path: str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, local or at a URL, by name.

    Raises FileNotFoundError, and ValueError with the reason when the file is a Git LFS pointer, cut off or something
    else. Format: https://huggingface.co/docs/safetensors.
    """
    with open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = bytes(file.read(len(_POINTER)))
        if is_pointer(start):
            raise ValueError("it is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned")
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > _LONGEST:
            raise ValueError("it is no safetensors file")
        file.seek(8)
        header = bytes(file.read(min(length, max(size - 8, 0))))
    if len(header) < length:
        raise ValueError(f"it is cut off after {size:,} bytes: copy it again")
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        found = {name: Tensor(tuple(entry["shape"]), str(entry["dtype"])) for name, entry in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("it is no safetensors file") from error
    if size < end:
        raise ValueError(f"it is cut off after {size:,} of {end:,} bytes: copy it again")
    return found
