"""The queue before the model: who waits together is scored together, and each request fails or is refused by itself."""

import threading
import time

import pytest

from ckd.predict.serving.batcher import Batcher, BusyError, ModelFailedError


class Gate:
    """A model that waits until it is let go, and remembers its batches."""

    def __init__(self):
        self.entered, self.go, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, texts):
        self.entered.set()
        assert self.go.wait(20)
        self.batches.append(list(texts))
        return [text.upper() for text in texts]


def test_requests_that_wait_together_are_scored_together_and_answered_apart():
    gate = Gate()
    batcher = Batcher(gate)
    first = batcher.submit(["a"])
    assert gate.entered.wait(20)
    others = [batcher.submit([f"b{i}", f"c{i}"]) for i in range(5)]
    gate.go.set()
    assert first.result(20) == ["A"]
    assert [other.result(20) for other in others] == [[f"B{i}", f"C{i}"] for i in range(5)]
    assert gate.batches == [["a"], [text for i in range(5) for text in (f"b{i}", f"c{i}")]]
    batcher.close()


def test_a_full_queue_refuses_and_a_closed_one_answers_what_it_has():
    gate = Gate()
    batcher = Batcher(gate, waiting=3)
    first = batcher.submit(["a"])
    assert gate.entered.wait(20)
    second = batcher.submit(["b", "c"])
    with pytest.raises(BusyError):
        batcher.submit(["d", "e"])
    third = batcher.submit(["d"])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.alive():
        time.sleep(0.01)
    with pytest.raises(BusyError):
        batcher.submit(["f"])
    gate.go.set()
    closing.join(20)
    assert [first.result(0), second.result(0), third.result(0)] == [["A"], ["B", "C"], ["D"]]


def test_a_cancelled_request_costs_the_model_nothing_makes_room_at_once_and_is_counted():
    gate, dropped = Gate(), []
    batcher = Batcher(gate, waiting=3, dropped=dropped.append)
    running = batcher.submit(["a"])
    assert gate.entered.wait(20)
    gone, kept = batcher.submit(["b", "b"]), batcher.submit(["c"])
    assert gone.cancel() and not running.cancel()
    assert (batcher.waiting, dropped) == (1, [2])
    late = batcher.submit(["d", "e"])
    gate.go.set()
    assert (kept.result(20), late.result(20)) == (["C"], ["D", "E"])
    assert gate.batches == [["a"], ["c", "d", "e"]]
    assert (batcher.waiting, dropped) == (0, [2])
    batcher.close()


def test_one_request_that_raises_does_not_take_its_neighbours_with_it():
    gate = Gate()

    def score(texts):
        answers = gate(texts)
        if "bad" in texts:
            raise ValueError("bad text")
        return answers

    batcher = Batcher(score)
    batcher.submit(["a"])
    assert gate.entered.wait(20)
    good, bad, also = (batcher.submit([text]) for text in ("good", "bad", "also"))
    gate.go.set()
    assert good.result(20) == ["GOOD"]
    assert also.result(20) == ["ALSO"]
    failed = bad.exception(20)
    assert isinstance(failed, ModelFailedError)
    assert "ValueError at test_batcher.py" in str(failed)
    assert "bad text" not in str(failed)
    batcher.close()
