"""`ckd demo --kill`: once more the teacher's pass, in which one actor is killed, and what that cost: nothing."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ckd.config import Config
from ckd.errors import ArtifactError, ConfigError
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS
from jobs import embed
from jobs.console import Console
from jobs.metrics import publish


def require_actors(config: Config) -> None:
    """Raise ConfigError where no other actor would go on."""
    if config.teacher.workers.max < 2:
        raise ConfigError(f"--kill: teacher.workers={config.teacher.workers}, expected 2 or more: another one goes on")


def run(config: Config, console: Console) -> None:
    """Embed everything anew beside the demo, kill the first actor that has ended a shard, compare every part.

    Raises ArtifactError when a visit or a byte differs.
    """
    demo = Run(config)
    with TemporaryDirectory(prefix="killed-", dir=demo.folder) as folder:
        watched = Killing(console)
        artifacts = config.run.model_copy(update={"artifacts": folder})
        again = Run(config.model_copy(update={"run": artifacts}))
        console.say("kill: the teacher's pass once more; the first actor that ends a shard is killed at its next one")
        embed.work(again, Console(console.stream, watch=watched))
        compare(demo, again, watched, console)


@dataclass
class Killing:
    """Watches the events of a pass; sends SIGKILL to the first actor that reports a shard."""

    console: Console
    killed: int = 0
    repeated: list[int] = field(default_factory=list)

    def __call__(self, kind: str, figures: Mapping[str, object]) -> None:
        """Take one event."""
        publish(kind, figures)
        if kind == "shard_retried":
            self.repeated.append(int(str(figures["shard"])))
        elif kind == "shard_done" and not self.killed:
            self.killed = int(str(figures["actor"]))
            os.kill(self.killed, signal.SIGKILL)
            self.console.say(f"kill: SIGKILL to actor {self.killed} on {figures['machine']}")


def compare(demo: Run, again: Run, watched: Killing, console: Console) -> None:
    """Say that the disturbed pass has every visit once and the bytes of the demo's own. Raises ArtifactError if not."""
    import pyarrow.parquet as pq

    shards, rows = EMBEDDINGS.shards(demo.config, demo.cohort), 0
    visits = sum(shard.rows for shard in shards)
    for shard in shards:
        mine, other = (EMBEDDINGS.stage(run).path(shard.index) for run in (again, demo))
        rows += pq.read_metadata(mine).num_rows
        if Path(mine).read_bytes() != Path(other).read_bytes():
            raise ArtifactError(
                f"kill: {mine} and {other} differ; was the latter made with other teacher.workers? "
                f"Delete {demo.root}/{EMBEDDINGS.name} and run the same command again"
            )
    listed = ", ".join(map(str, sorted(watched.repeated))) or "none: it held none"
    console.say(f"kill: shards that were started again elsewhere: {listed}")
    console.say(
        f"kill: nothing is lost: {rows:,} of {visits:,} visits, and {len(shards)} of {len(shards)} parts are "
        "byte for byte those of the undisturbed pass"
    )
