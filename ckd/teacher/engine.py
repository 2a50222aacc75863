"""What an engine is: token ids in, one embedding per prompt out. Each engine_* module runs one library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckd.teacher.work import Work

if TYPE_CHECKING:
    import numpy as np

    from ckd.prompts import Prompter


@dataclass(frozen=True)
class Load:
    """How an engine was loaded, and what."""

    seconds: float  # from nothing to a model ready on its device, copying it from an object store included
    revision: str | None  # Hub commit, or content hash of the model folder
    adapter: str | None  # content hash of the adapter folder; None without one
    engine: str  # teacher.engine
    device: str  # its name: the GPU's model, or "cpu"
    note: str = ""  # what a user should know about how this model runs here, one line; empty: nothing


class Engine(Protocol):
    """A loaded, frozen teacher in eval mode. `tests/teacher/engine_contract.py` says what each must do."""

    prompter: "Prompter"
    hidden: int
    load: Load

    def encode(self, prompts: Sequence[Sequence[int]]) -> "np.ndarray":
        """float32 [n, hidden], in the given order: the last layer's state after the final norm at each last token.

        The values of one prompt do not depend on which others are in the call, within the dtype's tolerance; the same
        call gives the same bytes whatever was encoded before.
        """
        ...

    def take_work(self) -> Work:
        """What `encode` did since the last call of this, or since the engine was made."""
        ...
