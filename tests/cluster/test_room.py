"""What a worker lacks, said while none has started."""

import time

import pytest

from cluster import room
from cluster.room import lacking, telling_what_lacks

NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        ({"GPU": 2}, "none of the 2 machines that are up (together 1 GPU) has the 2 GPU it asks for; an autoscaler"),
        ({"CPU": 1, "GPU": 2}, "none of the 2 machines that are up (together 12 CPU, 1 GPU) has the 1 CPU and 2 GPU"),
        ({"GPU": 1}, "each of the 1 machines that have the 1 GPU it asks for is busy, or starts it now"),
        ({"CPU": 1}, "each of the 2 machines that have the 1 CPU it asks for is busy"),
    ],
)
def test_what_is_missing_is_counted_over_the_machines_that_are_up(monkeypatch, bundle, says):
    monkeypatch.setattr(room.ray, "nodes", lambda: NODES)
    assert lacking(bundle).startswith(says)


def test_it_is_told_again_and_again_until_a_worker_has_started(monkeypatch):
    monkeypatch.setattr(room.ray, "nodes", lambda: NODES)
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.01)
    said: list[str] = []
    with telling_what_lacks({"GPU": 4}, lambda: len(said) == 3, said.append):
        end = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
    assert said == [lacking({"GPU": 4})] * 3


def test_what_starts_at_once_says_nothing(monkeypatch):
    monkeypatch.setattr(room.ray, "nodes", lambda: NODES)
    said: list[str] = []
    with telling_what_lacks({"GPU": 4}, lambda: False, said.append):
        pass
    assert said == []
