"""Says which process of which machine did what in a stage that ran on Ray actors."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.console import Console

MOST_LINES = 8  # more actors than that are in events.jsonl only


def tell_actors(console: Console, label: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """A line and part of the event `actors` for each actor of `rows`; nothing for rows of this process."""
    shards: dict[tuple[str, int], list[int]] = defaultdict(list)
    visits: Counter[tuple[str, int]] = Counter()
    for row in rows:
        if "actor" in row:
            actor = row["machine"], row["actor"]
            shards[actor].append(row["index"])
            visits[actor] += row["rows"]
    if len(shards) <= MOST_LINES:
        for (machine, process), done in shards.items():
            listed = ", ".join(map(str, sorted(done)))
            console.say(f"{label}: actor {process} on {machine}: {visits[machine, process]:,} visits, shards {listed}")
    if shards:
        found = [{"machine": m, "actor": p, "shards": len(s), "visits": visits[m, p]} for (m, p), s in shards.items()]
        console.event("actors", stage=label, actors=found)
