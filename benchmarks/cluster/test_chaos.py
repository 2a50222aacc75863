"""What the chaos benchmark judges: which kills a seed deals, which work is lost, what is equal; and the picture."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.cluster.autoscaling import PICTURE, RESULT, spans
from benchmarks.cluster.chaos import checks
from benchmarks.cluster.equal import loss_difference, parts_equal, same_batches
from benchmarks.cluster.ledger import (
    Kill,
    Reader,
    at_risk,
    batches,
    blamed,
    last_step,
    progressed,
    recomputed,
    repeats,
    shards_done,
    unexplained,
)
from benchmarks.cluster.picture import draw
from benchmarks.cluster.plan import KINDS, plan


def begun(time, shard, pid=1):
    return {"time": time, "what": "shard_begun", "shard": shard, "pid": pid, "node": "0001"}


def done(time, shard, pid=1):
    return {**begun(time, shard, pid), "what": "shard_done"}


def kill(time, kind="actor", workers=(1,), in_flight=None):
    return Kill(1, kind, "embed", time, frozenset(workers), in_flight or {})


def test_fifty_kills_are_dealt_as_often_as_the_kinds_say_half_in_each_stage_and_equally_for_equal_seeds():
    blows = plan(1, 50, 120, 310)
    assert blows == plan(1, 50, 120, 310) != plan(2, 50, 120, 310)
    assert Counter(blow.kind for blow in blows) == {kind: 2 * often for kind, often in KINDS.items()}
    assert [blow.stage for blow in blows] == ["embed"] * 25 + ["student"] * 25
    for stage, total in (("embed", 120), ("student", 310)):
        points = [blow.at for blow in blows if blow.stage == stage]
        assert points == sorted(set(points)) and points[0] > 0 and points[-1] < total - 2


@pytest.mark.parametrize("kills", [1, 2, 5, 14])
def test_few_kills_are_of_as_many_kinds_as_possible(kills):
    for stage in ("embed", "student"):
        kinds = [blow.kind for blow in plan(3, kills, 60, 60) if blow.stage == stage]
        assert len(set(kinds)) == min(len(kinds), len(KINDS))


def test_a_shard_that_a_kill_met_in_flight_may_be_computed_again_and_no_other():
    lines = [begun(1, 0), done(2, 0), begun(3, 1), begun(9, 1, pid=2), done(10, 1, pid=2)]
    blow = kill(4, in_flight={1: 1})
    assert recomputed(lines) == {1: 1} and unexplained(lines, [blow]) == {} and blamed(lines, [blow]) == {0: 1}
    assert unexplained(lines, []) == {1: 1}, "nothing was killed"
    again = [*lines, begun(11, 0, pid=2), done(12, 0, pid=2)]
    assert unexplained(again, [blow]) == {0: 1}, "it was done before the kill"
    twice = [*lines, begun(11, 1, pid=2), done(12, 1, pid=2)]
    assert unexplained(twice, [blow]) == {1: 1}, "one kill costs one computation"


def test_what_an_orphan_begins_right_after_the_kill_was_at_risk_unless_it_finished_it():
    blow = kill(4, "driver", in_flight={1: 1})
    lost = [begun(3, 1), done(4.5, 1), begun(4.6, 2), begun(9, 2, pid=2), done(11, 2, pid=2)]
    assert at_risk(blow, lost) == {1, 2} and unexplained(lost, [blow]) == {}
    late = [begun(3, 1), done(4.5, 1), begun(20, 2), begun(29, 2, pid=2)]
    assert at_risk(blow, late) == {1} and unexplained(late, [blow]) == {2: 1}


def test_steps_may_be_repeated_up_to_a_checkpoint_after_a_sudden_kill_and_never_after_a_notice():
    lines = [{"time": 0, "what": "report", "started": 0, "world": 2}]
    lines += [{"time": step, "what": "report", "step": step, "loss": 1.0} for step in range(1, 8)]
    lines += [{"time": 20, "what": "report", "started": 5, "world": 1}]
    for kind, allowed in (("machine", 5), ("drain", 0), ("drained", 0)):
        found = repeats(lines, [kill(7.5, kind)], 5)
        assert [(r.step, r.repeated, r.allowed) for r in found] == [(0, 0, 0), (5, 2, allowed)]
    assert repeats(lines, [], 5)[1].allowed == 0
    assert last_step(lines) == 7


def test_what_those_do_who_were_there_at_a_drivers_end_is_no_progress():
    by_old, by_new = [done(5, 1)], [done(5, 1), done(9, 2, pid=2)]
    for kind in ("driver", "head"):
        assert not progressed(kill(4, kind), by_old) and progressed(kill(4, kind), by_new)
    assert progressed(kill(4, "machine"), by_old), "the pool goes on with the others"
    step = {"time": 5, "what": "report", "step": 3, "loss": 1.0, "pid": 1}
    drain = Kill(1, "drain", "student", 4, frozenset({1}))
    assert not progressed(drain, [step]) and progressed(drain, [step, {**step, "pid": 2}]), "a training group does not"


def test_the_ledger_is_read_on_while_it_is_written(tmp_path):
    reader = Reader(tmp_path / "ledger")
    assert reader.look() == []
    with (tmp_path / "ledger").open("w") as file:
        file.write('{"what": "shard_done", "shard": 3}\n{"what": "sha')
        file.flush()
        assert shards_done(reader.look()) == 1
        file.write('rd_done", "shard": 3}\n')
        file.flush()
        assert len(reader.look()) == 2 and shards_done(reader.look()) == 1


def batch(number, world, rank, *visits):
    return {"what": "batch", "batch": number, "world": world, "rank": rank, "visits": visits}


def test_global_batches_are_the_same_when_their_visits_are_however_they_were_dealt():
    reference = batches([batch(0, 2, 0, "a", "b"), batch(0, 2, 1, "c"), batch(1, 2, 0, "d"), batch(1, 2, 1)])
    other_world = [batch(0, 1, 0, "c", "b"), batch(0, 1, 0, "a"), batch(1, 1, 0, "d")]  # two micro-batches
    assert same_batches(reference, batches(other_world))
    assert same_batches(reference, batches([*other_world, batch(0, 3, 2, "a")])), "a rank of a group that was killed"
    assert not same_batches(reference, batches([*other_world, batch(0, 3, 2, "d")])), "a visit of another batch"
    assert not same_batches(reference, batches([batch(0, 2, 0, "a", "b"), *other_world[2:]])), "a rank is missing"
    assert not same_batches(reference, batches(other_world[:2])), "a batch is missing"
    assert not same_batches({}, {})


def test_losses_are_compared_at_every_time_that_a_step_was_done():
    assert loss_difference({1: [1.0], 2: [0.5]}, {1: [1.0, 1.25], 2: [0.5]}) == (True, 0.25)
    assert loss_difference({1: [1.0], 2: [0.5]}, {1: [1.0]})[0] is False
    assert loss_difference({}, {})[0] is False


def test_every_promise_that_is_broken_fails_the_benchmark():
    def report():
        return {
            "drivers": {"ended_by_themselves_with": [3, 0], "undisturbed": [0]},
            "kills": {"dealt": 5},
            "equal": {"equal": True},
            "verify": {"exit_code": 0},
            "shards": {"recomputed_without_a_kill_that_met_them": {}},
            "steps": {"within": True},
        }

    assert all(checks(report(), 5).values())
    assert not checks(report(), 6)["all_kills"]
    broken = {
        ("drivers", "ended_by_themselves_with"): ([1, 0], [0, 3], [2]),
        ("drivers", "undisturbed"): ([3],),
        ("equal", "equal"): (False,),
        ("verify", "exit_code"): (2, 3),
        ("shards", "recomputed_without_a_kill_that_met_them"): ({4: 1},),
        ("steps", "within"): (False,),
    }
    for (part, name), values in broken.items():
        for value in values:
            bad = report()
            bad[part][name] = value
            assert list(checks(bad, 5).values()).count(False) == 1, (part, value)


def test_parts_are_equal_when_names_and_bytes_are(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        pq.write_table(pa.table({"visit_id": ["a"]}), folder / "part-0.parquet")
    assert parts_equal(one, other) == {"parts": 1, "equal": True, "different": []}
    pq.write_table(pa.table({"visit_id": ["b"]}), other / "part-0.parquet")
    assert parts_equal(one, other)["different"] == ["part-0.parquet"]
    assert not parts_equal(tmp_path / "none", tmp_path / "nothing")["equal"]


def test_the_picture_shows_every_node_and_every_shard_inside_its_frame():
    lines = [
        begun(11, 0),
        done(13, 0),
        begun(13, 1),
        {**begun(20, 1, pid=2), "node": "0002"},
        {**done(23, 1, pid=2), "node": "0002"},
    ]
    shards = spans(lines, started=10)
    assert [(s["node"], s["from"], s.get("to")) for s in shards] == [
        ("0001", 1, 3),
        ("0001", 3, None),
        ("0002", 10, 13),
    ]
    nodes = [
        {"node": "0001", "from": 0.5, "to": 8.0, "end": "machine", "blow": 5.0},
        {"node": "0002", "from": 9.0, "to": 20.0, "end": "drain", "blow": 12.0},
        {"node": "0003", "from": 9.0, "to": 19.0, "end": "idle"},
    ]
    picture = draw({"nodes": nodes, "shards": shards})
    root = ElementTree.fromstring(picture)
    *_, width, height = map(float, root.attrib["viewBox"].split())
    boxes = [element.attrib for element in root.iter("{http://www.w3.org/2000/svg}rect") if "x" in element.attrib]
    assert len(boxes) == 3 + len(nodes) + len(shards)
    assert all(
        float(b["x"]) >= 0
        and float(b["x"]) + float(b["width"]) <= width
        and float(b["y"]) + float(b["height"]) <= height
        for b in boxes
    )
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"killed", "notice (black), gone", "idle, removed", "2 shards"} <= set(said)


def test_the_picture_in_the_docs_is_the_one_of_the_committed_run():
    assert PICTURE.read_text() == draw(json.loads(RESULT.read_text())), (
        "run: python -m benchmarks.cluster.autoscaling --draw"
    )
