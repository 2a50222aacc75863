"""What an engine is: token ids in, one embedding per prompt out. Which library runs the forward pass lies in the engine_* modules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ckd.config import TeacherConfig

if TYPE_CHECKING:
    import numpy as np

    from ckd.prompts import Prompter


class Engine(Protocol):
    """A loaded, frozen teacher in eval mode."""

    prompter: "Prompter"
    hidden: int

    def encode(self, prompts: Sequence[Sequence[int]]) -> "np.ndarray":
        """float32 [n, hidden]: the last layer's state after the final norm at each prompt's last token, in the given order.

        The values of one prompt do not depend on which others are in the call, within the dtype's tolerance.
        """
        ...


def load_engine(config: TeacherConfig, gpus: float) -> Engine:
    """Load the configured engine onto a GPU (gpus > 0) or the CPU."""
    from ckd.teacher.engine_hf import TransformersEngine

    return TransformersEngine(config, gpus)
