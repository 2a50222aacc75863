"""The running cost of the teacher's pass, and run.max_cost, which stops it after a shard and is resumed from."""

import io
import json

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError, IncompleteError
from ckd.heartbeat import heard
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS
from jobs import embed
from jobs.console import Console, Progress
from jobs.spend import EVENT, earlier
from tests.teacher.test_accounting import configured

DEAR = "teacher.price_per_hour=36000"  # 10 a second


def embedded(config):
    """What the job printed, and every event of the run."""
    console = Console(io.StringIO(), config.run.folder)
    try:
        embed.run(config, console)
    finally:
        events = [json.loads(line) for line in open(f"{config.run.folder}/events.jsonl")]
    return console.stream.getvalue(), events


def costs(events):
    return [event["total"] for event in events if event["event"] == EVENT]


def test_a_pass_stops_after_the_shard_that_reaches_the_limit_and_continues_with_a_higher_one(tmp_path, teacher_folder):
    config = configured(tmp_path, teacher_folder, 60, DEAR, "run.max_cost=1e-6")
    shards = len(EMBEDDINGS.shards(config, Run(config).prepare(print)))
    assert shards > 2
    with pytest.raises(IncompleteError, match=r"of run\.max_cost=1e-06, \d+ shards are left; .*raise run\.max_cost"):
        embed.run(config, Console(io.StringIO(), config.run.folder))
    assert len(EMBEDDINGS.missing(Run(config))) == shards - 1
    with pytest.raises(IncompleteError, match=f"{shards - 1} shards are left"):
        embedded(config)  # what the first attempt cost counts: nothing more is computed
    assert len(EMBEDDINGS.missing(Run(config))) == shards - 1
    raised = config.model_copy(update={"run": config.run.model_copy(update={"max_cost": 1e9})})
    beats = []
    with heard(beats.append, seconds=0):
        printed, events = embedded(raised)
    said = "\n".join(beats)
    assert "visits of this shard computed" in said and "prompts computed" in said
    assert "Heart failure" not in said, "no patient text"
    assert EMBEDDINGS.missing(Run(config)) == []
    assert costs(events) == sorted(costs(events)) and len(costs(events)) == shards
    assert costs(events)[-1] == pytest.approx(earlier(events))
    assert len({event["attempt"] for event in events if event["event"] == EVENT}) == 2
    assert f"cost so far {costs(events)[-1]:,.2f}" in printed
    assert [event for event in events if event["event"] == "progress"][-1]["spent"] == pytest.approx(
        costs(events)[-1], abs=1e-3
    )
    own = [event for event in events if event["event"] == "embed_accounting"][-1]["cost"]
    assert costs(events)[-1] - costs(events)[0] == pytest.approx(own)


def test_without_a_price_nothing_is_said_of_cost_and_a_limit_is_refused(tmp_path):
    progress = Progress(Console(io.StringIO()), "embed", 10, 0)
    progress.add(5)
    assert "spent" not in progress.close() and "cost" not in progress.console.stream.getvalue()
    with pytest.raises(ConfigError, match=r"run\.max_cost needs teacher\.price_per_hour or teacher\.spot_price_per_h"):
        load(None, ["run.max_cost=5"])


def test_a_spot_price_is_what_counts():
    teacher = load(None, ["teacher.price_per_hour=4", "teacher.spot_price_per_hour=1.5", "run.max_cost=5"]).teacher
    assert teacher.paid_per_hour == 1.5
    assert load(None, ["teacher.price_per_hour=4"]).teacher.paid_per_hour == 4


def test_each_attempts_last_figure_counts_once_and_a_torn_line_is_passed_over(tmp_path):
    console = Console(io.StringIO(), str(tmp_path))
    for attempt, spent in (("a", 1.0), ("a", 3.0), ("b", 2.0)):
        console.event(EVENT, stage="embed", attempt=attempt, spent=spent, total=0)
    (tmp_path / "events.jsonl").open("a").write('{"event": "spe')
    assert earlier(Console(io.StringIO(), str(tmp_path)).events()) == 5.0
    assert earlier(Console(io.StringIO()).events()) == 0.0
