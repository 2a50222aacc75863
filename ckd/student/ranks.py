"""What the ranks of one training run say to each other. A single rank answers itself, without torch.distributed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ckd.errors import CkdError

if TYPE_CHECKING:
    import torch

Found = TypeVar("Found")


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

    def each(self, work: Callable[[], Found]) -> list[Found]:
        """What `work` gives on every rank, in rank order.

        A user error of one is raised on all, so that no rank waits for one that has stopped.
        """
        outcome: Found | CkdError
        try:
            outcome = work()
        except CkdError as error:
            outcome = error
        found = self.gather(outcome)
        for one in found:
            if isinstance(one, CkdError):
                raise one
        return found

    def once(self, work: Callable[[], Found]) -> Found:
        """What `work` gives on rank 0, the only one that does it, or its user error, on every rank."""
        found: list[Any] = self.each(lambda: work() if self.first else None)
        return found[0]  # type: ignore[no-any-return]  # rank 0's


ALONE = Ranks(1, 0)


@dataclass(frozen=True)
class Place:
    """Where and how this rank computes."""

    ranks: Ranks
    device: "torch.device"
    bf16: bool
    deepspeed: bool
