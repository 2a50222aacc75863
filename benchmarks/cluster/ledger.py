"""What the chaos benchmark's ledger shows: what is under way, how far the run is, which work was done twice and why."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
AFTERMATH_S = 5.0  # a process outlives its node's raylet or its driver by seconds, and may begin what it was given


@dataclass
class Kill:
    """One blow: when, of which kind, on whom, and who was at work then. A drained node's death is a Kill of its own."""

    number: int
    kind: str
    stage: str
    time: float
    workers: frozenset[int]  # processes that had written into the ledger and were alive
    in_flight: dict[int, int] = field(default_factory=dict)  # process -> the shard that it had started
    victim: str = ""
    recovered_s: float | None = None  # until there was more than ever before

    @property
    def warned(self) -> bool:
        """Whether what ran there had a notice before."""
        return self.kind in ("drain", "drained")


class Reader:
    """The ledger's lines so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self._read = path, [], 0

    def look(self) -> list[Line]:
        """Read what is new; all lines."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            self.lines += [json.loads(line) for line in whole.splitlines()]
        return self.lines


def shards_done(lines: Iterable[Line]) -> int:
    """Different shards that were finished."""
    return len({line["shard"] for line in lines if line["what"] == "shard_done"})


def last_step(lines: Iterable[Line]) -> int:
    """The highest optimizer step done."""
    return max((line["step"] for line in lines if "loss" in line), default=0)


def progressed(kill: Kill, lines: list[Line]) -> bool:
    """Whether the newest shard or step counts as progress after a kill.

    Work of a killed driver's orphans does not, nor that of a training group that has not noticed the kill yet.
    """
    newest = next((line for line in reversed(lines) if line["what"] == "shard_done" or "loss" in line), None)
    independent = kill.stage == "embed" and kill.kind not in ("driver", "head")
    return newest is not None and (independent or newest["pid"] not in kill.workers)


def workers(lines: Iterable[Line]) -> dict[int, Line]:
    """Process -> its newest line."""
    return {line["pid"]: line for line in lines}


def in_flight(lines: Iterable[Line]) -> dict[int, int]:
    """Process -> the shard that it has started and not finished, whether it lives or not."""
    found: dict[int, int] = {}
    for line in lines:
        if line["what"] == "shard_begun":
            found[line["pid"]] = line["shard"]
        elif line["what"] == "shard_done":
            found.pop(line["pid"], None)
    return found


def at_risk(kill: Kill, lines: list[Line]) -> set[int]:
    """The shards in flight at a kill: not finished by a process alive then; or started right after, never finished."""
    unfinished = in_flight(lines)
    started = [line for line in lines if line["what"] == "shard_begun" and line["pid"] in kill.workers]
    after = [line for line in started if kill.time < line["time"] <= kill.time + AFTERMATH_S]
    late = {line["shard"] for line in after if unfinished.get(line["pid"]) == line["shard"]}
    return set(kill.in_flight.values()) | late


def recomputed(lines: list[Line]) -> dict[int, int]:
    """Shard -> how often it was started beyond the first time."""
    begun = Counter(line["shard"] for line in lines if line["what"] == "shard_begun")
    return {shard: count - 1 for shard, count in begun.items() if count > 1}


def unexplained(lines: list[Line], kills: list[Kill]) -> dict[int, int]:
    """Shards that were started again more often than a kill met them in flight; must be empty."""
    met = Counter(shard for kill in kills for shard in at_risk(kill, lines))
    return {shard: count - met[shard] for shard, count in recomputed(lines).items() if count > met[shard]}


def blamed(lines: list[Line], kills: list[Kill]) -> dict[int, int]:
    """Position of a kill -> shards that it cost: not finished by processes that it was the last to meet alive."""
    last_met = {pid: number for number, kill in enumerate(kills) for pid in kill.workers}
    again = recomputed(lines)
    return dict(Counter(last_met[pid] for pid, shard in in_flight(lines).items() if pid in last_met and shard in again))


@dataclass(frozen=True)
class Repeat:
    """A training group's start: after which step, on how many ranks, how many steps it repeats, how many it may."""

    step: int
    world: int
    repeated: int
    allowed: int


def repeats(lines: list[Line], kills: list[Kill], interval: int) -> list[Repeat]:
    """Every start of a training group. After notices only, no step may be repeated; else one checkpoint interval."""
    found, done, since = [], 0, float("-inf")
    for line in lines:
        if "loss" in line:
            done = max(done, line["step"])
        elif "started" in line:
            sudden = any(not kill.warned for kill in kills if since < kill.time <= line["time"])
            repeated = max(0, done - line["started"])
            found.append(Repeat(line["started"], line["world"], repeated, interval if sudden else 0))
            since = line["time"]
    return found


def batches(lines: list[Line]) -> dict[int, dict[int, dict[int, set[str]]]]:
    """Global batch -> number of ranks -> rank -> the visits that it took, of all its micro-batches and attempts."""
    found: dict[int, dict[int, dict[int, set[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for line in lines:
        if line["what"] == "batch":
            found[line["batch"]][line["world"]][line["rank"]] |= set(line["visits"])
    return found


def losses(lines: list[Line]) -> dict[int, list[float]]:
    """Optimizer step -> its loss, at every time that it was done."""
    found: dict[int, list[float]] = defaultdict(list)
    for line in lines:
        if "loss" in line:
            found[line["step"]].append(line["loss"])
    return found
