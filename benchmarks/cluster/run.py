"""One run of the chaos benchmark's pipeline on a local cluster that scales itself, and the blows that it is dealt."""

import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.cluster.ledger import Kill, Line, Reader, in_flight, last_step, progressed, shards_done, workers
from benchmarks.cluster.plan import Blow
from benchmarks.cluster.work import LEDGER
from testbed.raycluster import Cluster, stop
from testbed.raynode import end_tree

# Three work at most; the fourth may replace one that is about to go.
NODES = {"spot": {"resources": {"CPU": 1, "spot": 1}, "max_workers": 4}}
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
NOTICE_S = 30  # the shortest that a cloud gives
STUCK_S = 300.0
DROUGHT_S = 35.0  # longer than a training group waits for more machines before it starts on fewer
LOOK_S = 0.1


class StuckError(Exception):
    """No progress for STUCK_S."""


class Run:
    """The pipeline with these words, its driver started again whenever it was killed, until it has ended."""

    def __init__(self, folder: Path, words: list[str], say: Callable[[str], None], stage: str = "run") -> None:
        self.words, self.say, self.log = [stage, *words], say, folder / "driver.log"
        self.ledger = Reader(folder / LEDGER)
        self.kills: list[Kill] = []
        self.unrecovered: Kill | None = None
        self.doomed: list[tuple[float, str]] = []  # drained nodes and when they go
        self.dry: list[tuple[float, psutil.Process]] = []  # suspended autoscalers and when they go on
        self.codes: list[int] = []  # of drivers that ended by themselves
        self.driver: subprocess.Popen | None = None
        self.started = time.time()
        self.cluster = Cluster(scaling=NODES, cpus=0, settings=SETTINGS)

    def finish(self, blows: list[Blow], rng: random.Random) -> None:
        """Deal the blows and wait for the end. A blow falls at its point, and after progress since the last.

        Raises StuckError. A driver that ends with exit code 3 is started again, as it asks for.
        """
        waiting, best, since = list(blows), 0, time.monotonic()
        self.driver = self._submit()
        while (code := self.driver.poll()) is None or code == 3:
            if code is not None:
                self.say(f"driver ended with exit code {code}, submitted again")
                self.codes.append(code)
                self.driver = self._submit()
            lines = self.ledger.look()
            now = shards_done(lines) + last_step(lines)
            if now > best:
                best, since = now, time.monotonic()
                self._recovered(lines)
            if time.monotonic() - since > STUCK_S:
                raise StuckError(f"nothing new for {STUCK_S:.0f} s after {best} shards and steps; see {self.log}")
            self._fall_due()
            ready = waiting and not self.unrecovered and self._is_time(waiting[0], lines)
            if ready and self._strike(waiting[0].kind, waiting[0].stage, rng):
                waiting.pop(0)
            time.sleep(LOOK_S)
        self.codes.append(code)
        self.seconds = time.time() - self.started
        self.ledger.look()

    def end(self) -> None:
        """End the driver and the cluster."""
        if self.driver:
            stop(self.driver)
        self.cluster.end()

    def _submit(self) -> subprocess.Popen:
        return self.cluster.driver("-m", "benchmarks.cluster", *self.words, log=self.log)

    def _is_time(self, blow: Blow, lines: list[Line]) -> bool:
        return (shards_done(lines) if blow.stage == "embed" else last_step(lines)) >= blow.at

    def _recovered(self, lines: list[Line]) -> None:
        if self.unrecovered and progressed(self.unrecovered, lines):
            self.unrecovered.recovered_s = round(time.time() - self.unrecovered.time, 1)
            self.say(f"  more than ever before after {self.unrecovered.recovered_s} s")
            self.unrecovered = None

    def _strike(self, kind: str, stage: str, rng: random.Random) -> bool:
        """Deal a blow of this kind to a process or node that is at work; False when there is none."""
        busy = self._busy(stage)
        going = {node for _, node in self.doomed}
        raylets = self.cluster.raylets()
        nodes = sorted({node for node in busy.values() if node in raylets and node not in going})
        if not busy or (kind not in ("actor", "driver", "head") and not nodes):
            return False
        if kind == "actor":
            pid = rng.choice(sorted(busy))
            self._note(kind, stage, f"process {pid}")
            psutil.Process(pid).kill()
        elif kind in ("driver", "head"):
            self._note(kind, stage, "")
            stop(self.driver)
            if kind == "head":
                self.cluster.end()
                self.doomed, self.dry = [], []
                self.cluster = Cluster(scaling=NODES, cpus=0, settings=SETTINGS)
            self.driver = self._submit()
        else:
            self._strike_node(kind, stage, rng.choice(nodes), raylets)
        self.unrecovered = self.kills[-1]
        return True

    def _strike_node(self, kind: str, stage: str, node: str, raylets: dict[str, psutil.Process]) -> None:
        self._note(kind, stage, f"node {node[-4:]}")
        if kind == "raylet":
            raylets[node].kill()
        elif kind in ("machine", "drought"):
            if kind == "drought":
                autoscaler = next(p for p in self.cluster.head.tree() if _is_autoscaler(p))
                autoscaler.suspend()
                self.dry.append((time.time() + DROUGHT_S, autoscaler))
            end_tree(raylets[node])
        else:
            # Not at the top: it imports Ray, which reads only once that testbed.raycluster asks for a token.
            from cluster.preemption import Notice, drain

            ends = time.time() + NOTICE_S
            drain(self.cluster.address, node, Notice("chaos", ends))
            self.doomed.append((ends, node))

    def _fall_due(self) -> None:
        for ends, autoscaler in [entry for entry in self.dry if entry[0] <= time.time()]:
            self.dry.remove((ends, autoscaler))
            autoscaler.resume()
        for ends, node in [entry for entry in self.doomed if entry[0] <= time.time()]:
            self.doomed.remove((ends, node))
            if raylet := self.cluster.raylets().get(node):
                self._note("drained", "", f"node {node[-4:]}")
                end_tree(raylet)

    def _note(self, kind: str, stage: str, victim: str) -> None:
        lines = self.ledger.look()
        alive = frozenset(pid for pid, line in workers(lines).items() if lives(line))
        flying = {pid: shard for pid, shard in in_flight(lines).items() if pid in alive}
        number = sum(kill.kind != "drained" for kill in self.kills) + (kind != "drained")
        self.kills.append(Kill(number, kind, stage, time.time(), alive, flying, victim))
        done = f"{shards_done(lines)} shards, step {last_step(lines)}"
        at, shards = f"{time.time() - self.started:.0f} s", sorted(flying.values())
        self.say(f"kill {number}: {kind} {victim} at {at}, {done}, shards {shards} in flight")

    def _busy(self, stage: str) -> dict[int, str]:
        """Living process -> its node, of those that embed a shard or train."""
        lines = self.ledger.look()
        known = {pid: line for pid, line in workers(lines).items() if lives(line)}
        flying = in_flight(lines)
        return {pid: line["node"] for pid, line in known.items() if (pid in flying) == (stage == "embed")}


def _is_autoscaler(process: psutil.Process) -> bool:
    return any("/autoscaler/" in word and word.endswith("monitor.py") for word in process.cmdline())


def lives(line: Line) -> bool:
    """Whether the process that wrote a line is the one that has its number now, and runs."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(line["pid"])
        return process.create_time() <= line["time"] and process.status() != psutil.STATUS_ZOMBIE
    return False
