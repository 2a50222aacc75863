"""A long step says where it is: at most one line per while, in the command's own process, without patient text."""

import threading
import time

from ckd.evaluation.bootstrap import resample
from ckd.heartbeat import beat, beating, heard
from ckd.visits.labels import NUM_LABELS
from jobs.shards import _awaited
from tests.evaluation.test_bootstrap import RATES, THRESHOLDS, draws_of, sample


def test_only_one_line_per_while_is_told_and_nobody_listening_is_no_error():
    lines = []
    beat("unheard")
    with heard(lines.append, seconds=60):
        for n in range(100):
            beat(f"{n}")
    with heard(lines.append, seconds=0):
        beat("a")
        beat("b")
    beat("unheard")
    assert lines == ["a", "b"]


def test_a_step_that_cannot_tell_where_it_is_says_since_when_it_goes_on():
    lines, before = [], threading.active_count()
    with heard(lines.append, seconds=0.02), beating("loading"):
        time.sleep(0.2)
    assert lines and all(line == "loading, 0 s so far" for line in lines)
    told = len(lines)
    time.sleep(0.05)
    assert len(lines) == told and threading.active_count() <= before
    with beating("unheard"):
        pass


def test_the_bootstrap_says_how_many_draws_are_done():
    members, labels, p, cells = sample()
    lines = []
    with heard(lines.append, seconds=0):
        resample(draws_of(members, 100), labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    assert "evaluate: bootstrap draws up to 100 of 100" in lines


def test_while_workers_elsewhere_bring_no_row_it_is_said_that_the_pass_goes_on():
    def slow():
        for n in range(3):
            time.sleep(0.2)
            yield {"index": n}

    lines = []
    with heard(lines.append, seconds=0.01):
        assert list(_awaited(slow(), "embed", 3)) == [{"index": n} for n in range(3)]
    assert lines and {line.partition(",")[0] for line in lines} <= {f"embed: {n} of 3 shards done" for n in range(4)}
    lines.clear()
    assert list(_awaited(slow(), "embed", 3)) and lines == []
