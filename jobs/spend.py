"""What the teacher's pass has cost so far: in progress lines, events and metrics, and run.max_cost, which stops it.

It counts the workers' time, model loads included, of every shard that reached the driver, earlier attempts' too, which
events.jsonl holds. What a killed shard cost, and machines before and after their workers, is in no figure.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from ckd.config import Config
from ckd.errors import IncompleteError
from ckd.teacher.accounting import Account, cost
from jobs.console import Console

EVENT = "spend"


class Spend:
    """The running cost of one attempt and of those before it. Without a price it is None everywhere."""

    def __init__(self, config: Config, console: Console) -> None:
        self.teacher, self.most, self.console = config.teacher, config.run.max_cost, console
        self.priced = config.teacher.paid_per_hour > 0
        self.attempt, self.accounts = uuid4().hex[:8], list[Account]()
        self.before = earlier(console.events()) if self.priced else 0.0

    @property
    def total(self) -> float | None:
        """In the currency of the price; None without one."""
        own = cost(self.accounts, self.teacher)
        return self.before + (own or 0.0) if self.priced else None

    def take(self, row: Mapping[str, Any], left: int) -> None:
        """Count a shard's row, `left` shards before the end. Raises IncompleteError where run.max_cost is reached."""
        if not self.priced or "account" not in row:
            return
        self.accounts.append(Account.from_row(row))
        own = cost(self.accounts, self.teacher) or 0.0
        self.console.spent = self.total
        self.console.event(EVENT, stage="embed", attempt=self.attempt, spent=own, total=self.total)
        self.require(left)

    def require(self, left: int) -> None:
        """Raise IncompleteError where run.max_cost is reached and shards are left."""
        if self.most and left and (self.total or 0.0) >= self.most:
            raise IncompleteError(
                f"embed: the teacher's pass has cost {self.total:,.2f} of run.max_cost={self.most:g}, {left} shards "
                "are left; what is finished is kept, raise run.max_cost and run the same command again to continue"
            )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it in the progress lines of the block."""
        self.console.spent = self.total
        try:
            yield
        finally:
            self.console.spent = None


def earlier(events: Iterable[Mapping[str, Any]]) -> float:
    """What attempts cost by their events: each one's last figure."""
    found: dict[str, float] = {}
    for event in events:
        if event.get("event") == EVENT:
            attempt = str(event["attempt"])
            found[attempt] = max(found.get(attempt, 0.0), float(event["spent"]))
    return sum(found.values())
