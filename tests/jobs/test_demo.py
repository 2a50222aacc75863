"""`ckd demo` by its parts: a killed actor costs nothing, actors and ranks are shown, who is refused."""

import io
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from ckd.config import Config
from ckd.configfile import load
from ckd.errors import ArtifactError, ConfigError
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS
from ckd.visits import cohort
from jobs import demo, killed_actor
from jobs.actors import tell_actors
from jobs.commands import COMMANDS
from jobs.console import Console
from jobs.train_student import Reports
from tests.student.student_cohort import make_visits


def said(tell, *given) -> str:
    stream = io.StringIO()
    tell(Console(stream), *given)
    return stream.getvalue()


def test_the_demo_takes_actors_and_ranks_and_says_how_to_do_without():
    words = {1: [], 0: ["teacher.workers=0", "student.workers=0"]}
    line, other = (demo._who(load(COMMANDS["demo"].config, words[key])) for key in (1, 0))
    assert "2 teacher actors, then 2 student ranks with DeepSpeed ZeRO stage 1" in line and "teacher.workers=0" in line
    assert "without Ray" in other


def test_each_actor_is_shown_with_its_machine_and_shards_and_a_crowd_is_not():
    rows = [{"index": n, "rows": 5, "machine": "m", "actor": 7 + n % 2} for n in range(4)]
    assert said(tell_actors, "embed", rows).splitlines() == [
        "embed: actor 7 on m: 10 visits, shards 0, 2",
        "embed: actor 8 on m: 10 visits, shards 1, 3",
    ]
    assert not said(tell_actors, "embed", [{"index": 0, "rows": 5}])
    assert not said(tell_actors, "embed", [row | {"actor": n} for n in range(9) for row in rows])


def test_each_rank_is_shown_with_its_machine(tmp_path):
    stream = io.StringIO()
    reports = Reports(Console(stream, str(tmp_path)))
    reports({"rank": 1, "machine": "m", "process": 9})
    assert stream.getvalue() == "train-student: rank 1 is process 9 on m\n"
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["event"], event["rank"], event["machine"]) == ("student_rank", 1, "m")


def test_one_actor_is_killed_and_it_is_the_first_that_ended_a_shard(monkeypatch):
    monkeypatch.setattr(killed_actor, "publish", lambda *_: None)  # another test's Ray may listen in this process
    actors = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    killing = killed_actor.Killing(Console(io.StringIO()))
    for actor in actors:
        killing("shard_done", {"actor": actor.pid, "machine": "m"})
    killing("shard_retried", {"shard": 4})
    assert actors[0].wait(timeout=20) == -signal.SIGKILL and actors[1].poll() is None
    assert killing.repeated == [4]
    actors[1].communicate(b"\n", timeout=20)


def passes(tmp_path, *values) -> list[Run]:
    """Passes over the same three visits in two shards; `values` fill their embeddings."""
    runs = []
    for name, value in enumerate(values):
        settings = {"name": "t", "artifacts": str(tmp_path / str(name)), "results": str(tmp_path)}
        run = Run(Config.model_validate({"run": settings}), {"embeddings": {"teacher": "made up"}})
        for shard in cohort.commit(run.root, make_visits("train", 3), fields={}, shard_rows=2, facts={}).shards:
            vectors = pa.array([[value, 1.0]] * shard.rows, pa.list_(pa.float32(), 2))
            part = pa.table({"visit_id": run.cohort.read(shard)["visit_id"], "embedding": vectors})
            EMBEDDINGS.stage(run).write(shard.index, part, rows=shard.rows, input_hash=shard.text_hash)
        runs.append(run)
    return runs


def test_a_disturbed_pass_is_compared_byte_by_byte(tmp_path):
    same, again, other = passes(tmp_path, 0.5, 0.5, 0.5000001)
    killing = killed_actor.Killing(Console(io.StringIO()), killed=1, repeated=[1])
    stream = io.StringIO()
    killed_actor.compare(same, again, killing, Console(stream))
    assert "started again elsewhere: 1\n" in stream.getvalue()
    assert "nothing is lost: 3 of 3 visits, and 2 of 2 parts are byte for byte" in stream.getvalue()
    with pytest.raises(ArtifactError, match=r"part-00000.*differ"):
        killed_actor.compare(same, other, killing, Console(stream))


def test_a_demo_on_a_cluster_or_a_kill_without_a_second_actor_is_refused_in_one_line(monkeypatch):
    config = load(COMMANDS["demo"].config, ["teacher.workers=1"])
    with pytest.raises(ConfigError, match="--kill: teacher.workers=1, expected 2 or more"):
        killed_actor.require_actors(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="RAY_ADDRESS names a cluster"):
        demo.run(config, Console(io.StringIO()))
    assert os.environ["RAY_ADDRESS"]
