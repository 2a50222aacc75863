"""What the disorder benchmark judges: which mishap meets which command, what is to be deleted, what is a fault."""

import json
import os
import signal
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.disorder.__main__ import RESULT, summary
from benchmarks.disorder.driver import Blow, Ended, Points
from benchmarks.disorder.files import States, contents, differences, flip, rows_lost
from benchmarks.disorder.mishap import Course, faults, to_delete
from benchmarks.disorder.plan import KINDS, MET, STAGES, Event, plan, words


def test_every_kind_meets_every_command_before_any_pair_comes_again_and_equally_for_equal_seeds():
    events = plan(6, 50)
    assert events == plan(6, 50) != plan(2, 50)
    pairs = Counter((event.stage, event.kind) for event in events)
    assert len(pairs) == len(MET) * len(KINDS) == 45 and max(pairs.values()) == 2
    assert {event.stage for event in events if event.ray} == {name for name in MET if STAGES[name].ray}
    assert all(0 <= event.at < 1 and 0 <= event.which < 1 for event in events)


def test_a_command_begins_where_the_one_before_it_ended_and_writes_into_the_work_folder_alone(tmp_path):
    names = list(STAGES)
    assert [stage.after for stage in STAGES.values()] == ["", *names[:-1]]
    for name in names:
        said = words(name, tmp_path / "inputs", tmp_path / "work", ray=True)
        outs = [word.partition("=")[2] or word for word in said if "results=" in word or "public_files=" in word]
        outs += [word for before, word in pairwise(said) if before in ("--out", "--meds")]
        assert outs and all(out.startswith(str(tmp_path / "work")) for out in outs)


def ended(code=0, said=""):
    return Ended(code, said, 0, 1.0)


def judged(kind, *drivers, lost=0, differing=(), **more):
    event = Event(1, "embed", kind, False, 0.5, 0.5)
    return faults(event, Course(ended=[(command, one) for command, one in drivers], **more), lost, list(differing))


def test_what_must_not_be_is_a_fault_and_nothing_else():
    refused, full = ended(3, "ckd: another writes there\n"), ended(3, "ckd: /x: no space left on device; make room\n")
    fine = [
        ("kill", ("embed", ended(-signal.SIGKILL)), ("embed", ended())),
        ("stop", ("embed", ended()), ("embed", refused), ("embed", ended())),
        ("two", ("embed", ended()), ("embed", ended()), ("embed", ended())),
        ("full", ("embed", full), ("embed", ended())),
    ]
    assert [judged(*course) for course in fine] == [[]] * len(fine)
    wrong = [
        (judged("kill", ("embed", ended()), lost=3), "3 rows lost"),
        (judged("kill", ("embed", ended()), differing=["differs: a"]), "differs: a"),
        (judged("two", ("embed", ended(-signal.SIGKILL)), ("embed", ended())), "embed: exit code -9"),
        (judged("stop", ("embed", ended(2, "ckd: x\n")), ("embed", ended())), "embed: exit code 2"),
        (judged("two", ("embed", ended(3, "ckd: x\nckd: y\n")), ("embed", ended())), "embed: exit code 3 with 2 lines"),
        (judged("full", ("embed", refused), ("embed", ended())), "embed: does not say that the disk is full"),
        (judged("two", ("embed", refused)), "the last ends with 3"),
        (judged("bit", ("head", ended())), "a damage that nothing saw"),
    ]
    for found, fault in wrong:
        assert found == [fault]
    assert "embed: traceback: KeyError" in judged("two", ("embed", ended(1, "Traceback (most…)\nKeyError")))


def test_a_bit_is_seen_by_a_refusal_or_decides_no_value():
    refusal = ended(2, "ckd: /w/part: damaged; delete it and run the same command again\n")
    assert judged("bit", ("head", refusal), ("embed", ended()), ("head", ended()), seen_by=["head"]) == []
    assert judged("bit", ("head", ended()), ("verify", ended(3, "ckd: x\n")), harmless=True) == []


def test_what_a_line_tells_to_delete(tmp_path):
    part, artifact = tmp_path / "results/part-00000.parquet", tmp_path / "export/artifact.json"
    for path in (part, artifact):
        path.parent.mkdir()
        path.touch()
    told = {
        f"ckd: {part}: damaged; delete it and run the same command again": part,
        f"problem: {artifact}: changed; delete that folder and run the same command again": artifact.parent,
        f"ckd: {artifact.parent}: other tables; restore them, or delete {part.parent} to make it anew": part.parent,
        f"ckd: {part}: changed; copy the folder again, or make it again": None,
        f"ckd: {tmp_path}/results: 1 problems (listed above); delete what they name and run the same again": None,
        f"ckd: {tmp_path}/gone: damaged; delete it": None,
        "ckd: /etc/hosts: damaged; delete it": None,
        f"ckd: {part}: damaged; delete /etc/hosts and run the same command again": None,
    }
    assert {line: to_delete(line, tmp_path) for line in told} == told


def test_files_are_compared_and_rows_counted_without_logs(tmp_path):
    work, states = tmp_path / "work", States(tmp_path / "work", tmp_path / "kept")
    (work / "a").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2, 3]}), work / "a/part-00000.parquet")
    (work / "a/events.jsonl").write_text("{}")
    (work / "b").mkdir()
    (work / "b/c").write_bytes(b"1")
    states.keep(STAGES["head"])
    wanted = states.contents("head")
    flip(work / "b/c", 1)
    assert differences(wanted, contents(work)) == ["differs: b/c"] and rows_lost(wanted, contents(work)) == 0
    (work / "a/part-00000.parquet").write_bytes(b"PAR1")
    (work / "b/d").touch()
    (work / "b/c").unlink()
    found = contents(work)
    assert differences(wanted, found) == ["missing: b/c", "left behind: b/d", "differs: a/part-00000.parquet"]
    assert rows_lost(wanted, found) == 3
    states.restore("head")
    assert contents(work) == wanted and (work / "a/events.jsonl").exists()


def test_a_driver_strikes_itself_at_one_of_its_own_calls(monkeypatch):
    struck = []
    monkeypatch.setattr(os, "kill", lambda process, by: struck.append((process, by)))
    points = Points("/w", Blow(signal.SIGSTOP, 2, "/head"))
    for path in ("/w/head/a", "/w/visits/a", "/other/head", 7, "/w/head/b", "/w/head/c"):
        points("open", (path, "r", 0))
    points("socket.connect", ("/w/head",))
    assert points.count == 3 and struck == [(os.getpid(), signal.SIGSTOP)]


@pytest.mark.skipif(not RESULT.exists(), reason="not measured yet")
def test_the_committed_result_is_of_the_committed_seed_and_without_a_fault():
    found = json.loads(RESULT.read_text())
    events = [Event(**{name: event[name] for name in Event.__annotations__}) for event in found["events"]]
    assert events == plan(found["seed"], 50)
    assert summary(found["events"])["faulty"] == [] == found["faulty"]
    assert found["rows_lost"] == found["unequal"] == found["damages"]["unseen"] == 0
