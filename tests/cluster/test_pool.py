"""The Ray pool: every item, whatever dies; and the guard that turns a worker's failure into a row."""

import errno
import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from ckd.errors import ArtifactError, ConfigError, DataError, IncompleteError, UnreachableError
from ckd.section import Workers
from ckd.store.artifacts import Stage
from ckd.store.files import read_bytes
from ckd.visits.visit import Shard
from jobs.console import Console
from jobs.shards import map_worker

MARKER = "MARKERPATIENTTEXT"


def shards(n):
    return [Shard(i, 10, "train", True, "t", "c") for i in range(n)]


@dataclass
class Squares:
    folder: str

    def __call__(self, shard):
        with open(f"{self.folder}/{shard.index}-{os.getpid()}-{os.urandom(4).hex()}", "w"):
            return {"index": shard.index, "rows": shard.rows, "square": shard.index**2}


class Sleeps:
    """Returns its process, and how many calls were running in it."""

    def __init__(self):
        self.running, self.counting = 0, threading.Lock()

    def __call__(self, shard):
        with self.counting:
            self.running += 1
        time.sleep(0.3)
        with self.counting:
            beside, self.running = self.running, self.running - 1
        return {"index": shard.index, "rows": shard.rows, "process": os.getpid(), "beside": beside}


@dataclass
class DiesOnce:
    folder: str

    def __call__(self, shard):
        if shard.index == 3 and not os.path.exists(f"{self.folder}/died"):
            open(f"{self.folder}/died", "w").close()
            os._exit(1)
        return {"index": shard.index, "rows": shard.rows}


@dataclass
class Fails:
    error: Exception
    at: int = 2

    def __call__(self, shard):
        if shard.index == self.at:
            raise self.error
        return {"index": shard.index, "rows": shard.rows}


@dataclass
class Dies:
    """Shard 3 ends its process every time, as the kernel does for want of memory.

    The others take their time beside it.
    """

    folder: str
    by: str = "SIGKILL"

    def __call__(self, shard):
        with open(f"{self.folder}/{shard.index}-{os.urandom(4).hex()}", "w"):
            time.sleep(0.2)
        if shard.index == 3:
            os._exit(1) if self.by == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        return {"index": shard.index, "rows": shard.rows}


def console():
    return Console(io.StringIO())


@pytest.mark.parametrize("workers", ["0", "1..2"])
def test_every_shard_is_mapped_once_in_process_or_on_actors(local_ray, tmp_path, workers):
    rows = map_worker(
        console(), "x", partial(Squares, folder=str(tmp_path)), shards(6), workers=Workers.model_validate(workers)
    )
    assert sorted((r["index"], r["square"]) for r in rows) == [(i, i * i) for i in range(6)]
    assert len(os.listdir(tmp_path)) == 6


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pool_has_as_many_actors_as_it_may_and_an_actor_runs_as_many_shards_at_once_as_asked(local_ray, threads):
    rows = map_worker(console(), "x", Sleeps, shards(16 * threads), workers=Workers(min=1, max=2), threads=threads)
    assert sorted(row["index"] for row in rows) == list(range(16 * threads))
    assert len({row["process"] for row in rows}) == 2
    assert max(row["beside"] for row in rows) == threads


def test_an_actor_that_dies_is_replaced_and_its_shard_done_again(local_ray, tmp_path):
    rows = map_worker(console(), "x", partial(DiesOnce, folder=str(tmp_path)), shards(6), workers=Workers(min=2, max=2))
    assert sorted(r["index"] for r in rows) == list(range(6))
    assert os.path.exists(tmp_path / "died")


@pytest.mark.faults
@pytest.mark.parametrize(("threads", "by"), [(2, "SIGKILL"), (1, "exit")])
def test_a_shard_that_always_kills_its_process_is_set_aside_after_three_starts_and_blames_no_other(
    local_ray, tmp_path, threads, by
):
    (tmp_path / "run").mkdir()
    (tmp_path / "starts").mkdir()
    screen = Console(io.StringIO(), str(tmp_path / "run"))
    with pytest.raises(
        IncompleteError, match=r"1 of 8 shards failed \(first: shard 3: its process was killed each of the 3 times"
    ) as error:
        map_worker(
            screen,
            "x",
            partial(Dies, folder=str(tmp_path / "starts"), by=by),
            shards(8),
            workers=Workers(min=1, max=1),
            threads=threads,
        )
    assert error.value.exit_code == 3
    assert "x: 70/80 visits" in screen.stream.getvalue()
    assert len([name for name in os.listdir(tmp_path / "starts") if name.startswith("3-")]) == 3
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    retried = {e["shard"]: (e["starts"], e["attempts"]) for e in events if e["event"] == "shard_retried"}
    assert retried[3] == (3, 4)
    assert all(starts == 2 for shard, (starts, _) in retried.items() if shard != 3), (
        "what ran beside it ran once more, alone"
    )


def test_two_attempts_on_one_shard_at_a_time_end_in_one_whole_part(tmp_path):
    """What a machine does that was given up too early.

    Its writes and its successor's cross, and a reader finds a whole part at any moment.
    """
    stage = Stage(str(tmp_path), "embeddings", {"model": "a"})
    part = pa.table({"visit_id": [f"v{n}" for n in range(2000)], "value": list(range(2000))})
    stage.write(0, part, rows=2000, input_hash="x")
    whole = read_bytes(stage.path(0))
    with ThreadPoolExecutor(4) as attempts:
        writes = [attempts.submit(stage.write, 0, part, rows=2000, input_hash="x") for _ in range(100)]
        while not all(write.done() for write in writes):
            assert read_bytes(stage.path(0)) == whole
    assert [write.result() for write in writes] == [None] * 100
    assert os.listdir(stage.folder) == ["part-00000.parquet"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_shard_is_set_aside_the_rest_is_done_and_no_patient_text_is_shown(local_ray, tmp_path, workers):
    screen = Console(io.StringIO(), str(tmp_path))
    with pytest.raises(
        IncompleteError, match=r"1 of 5 shards failed \(first: shard 2: ValueError at test_pool.py:\d+\)"
    ) as error:
        map_worker(
            screen, "x", partial(Fails, error=ValueError(MARKER)), shards(5), workers=Workers(min=workers, max=workers)
        )
    assert "x: 40/50 visits" in screen.stream.getvalue()
    assert MARKER not in screen.stream.getvalue() + str(error.value) + (tmp_path / "events.jsonl").read_text()


def test_a_config_error_stops_at_once_and_another_user_error_keeps_its_text():
    with pytest.raises(ConfigError, match="no such model"):
        map_worker(
            console(), "x", partial(Fails, error=ConfigError("no such model")), shards(5), workers=Workers(min=0, max=0)
        )
    with pytest.raises(IncompleteError, match="file damaged"):
        map_worker(
            console(), "x", partial(Fails, error=DataError("file damaged")), shards(5), workers=Workers(min=0, max=0)
        )


class Unmade:
    """A worker that cannot be made; a file per try."""

    def __init__(self, folder, error):
        Path(folder, os.urandom(4).hex()).touch()
        raise error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (ConfigError("no such model"), ConfigError, "^no such model$"),
        (ArtifactError("another model on this machine"), ConfigError, "^another model on this machine$"),
        (UnreachableError("the Hub does not answer"), IncompleteError, "^x: the Hub does not answer; run the same"),
        (OSError(errno.ENOMEM, MARKER), IncompleteError, r"^x: no worker could be started \(OSError \(Cannot allocate"),
        (ValueError(MARKER), IncompleteError, r"^x: no worker could be started \(ValueError at test_pool.py:\d+\)"),
    ],
    ids=["config", "artifact", "unreachable", "memory", "bug"],
)
def test_a_worker_that_cannot_be_made_is_tried_once_and_stops_the_stage(
    local_ray, tmp_path, workers, error, kind, says
):
    with pytest.raises(kind, match=says) as caught:
        map_worker(
            console(),
            "x",
            partial(Unmade, str(tmp_path), error),
            shards(20),
            workers=Workers(min=workers, max=workers),
            threads=2,
        )
    assert len(os.listdir(tmp_path)) == 1
    assert MARKER not in str(caught.value)
