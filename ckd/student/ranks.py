"""What the ranks of one training run say to each other. Alone (world 1) every call answers itself, without torch.distributed."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world` equal processes. Every method is a barrier: all ranks call it equally often."""

    world: int
    rank: int

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        self.gather(None)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return self.gather(value if self.first else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""
        if self.world == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found
