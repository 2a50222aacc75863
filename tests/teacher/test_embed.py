"""Stage `embeddings`: order and values are kept, and values that cannot be stored are refused with a way out."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import TeacherConfig
from ckd.errors import ArtifactError, ConfigError
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.teacher.embed import WINDOW, EmbedWorker, column, encode_texts, teacher_fields
from ckd.teacher.engine import Load
from ckd.teacher.work import Work
from ckd.visits.columns import matrix
from tests.teacher.embedded import embedded, visits


class LengthEngine:
    """An engine whose embedding is the prompt's length and first id.

    Its prompts are the characters of the input.
    """

    hidden = 2
    load = Load(seconds=1.0, revision=None, adapter=None, engine="transformers", device="cpu")

    def __init__(self):
        self.prompter = self

    def take_work(self):
        return Work()

    def with_control_tokens(self, instructions, inputs):
        return 0

    def encode(self, *texts):
        if len(texts) == 1:
            return np.array([[len(p), p[0]] for p in texts[0]], np.float32)
        return [[ord(c) for c in text] for text in texts[1]], sum(len(text) > 50 for text in texts[1])


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=40))
def test_embeddings_keep_the_order_of_the_visits_and_truncation_is_counted(texts):
    vectors, tokens, truncated, _ = encode_texts(LengthEngine(), ["i"] * len(texts), texts)
    assert vectors.tolist() == [[len(t), float(np.float32(ord(t[0])))] for t in texts]
    assert tokens == sum(map(len, texts))
    assert truncated == sum(len(t) > 50 for t in texts)


def test_order_is_kept_over_many_windows():
    texts = [chr(65 + n % 50) * (1 + n % 37) for n in range(3 * WINDOW + 5)]
    vectors, *_ = encode_texts(LengthEngine(), ["i"] * len(texts), texts)
    assert vectors[:, 0].tolist() == [len(t) for t in texts]


def test_a_part_holds_its_shards_visits_in_order_and_can_be_written_twice(tmp_path):
    config, cohort, _ = embedded(tmp_path, visits(["train"] * 40))
    worker = EmbedWorker(Run(config, {"embeddings": {"a": 1}}), LengthEngine())
    stage = Stage(cohort.root, "embeddings", {"a": 1})
    for shard in (*cohort.shards, cohort.shards[0]):
        row = worker(shard)
        assert (row["index"], row["rows"]) == (shard.index, shard.rows)
        part, texts = stage.read(shard.index), cohort.read(shard)["input"].to_pylist()
        assert part["visit_id"] == cohort.read(shard)["visit_id"]
        assert matrix(part["embedding"])[:, 0].tolist() == [len(t) for t in texts]


def test_values_that_cannot_be_stored_name_the_setting():
    config = TeacherConfig(store_dtype="float16", dtype="float16")
    with pytest.raises(ConfigError, match=r"teacher\.store_dtype=float16: an embedding exceeds its range; use float32"):
        column(np.full((2, 3), 1e6, np.float32), config)
    with pytest.raises(ConfigError, match=r"teacher\.dtype=float16: 1 of 2 embeddings are not finite"):
        column(np.array([[np.nan, 0], [0, 0]], np.float32), config)


def test_a_machine_with_another_model_under_the_same_name_refuses(tmp_path, teacher_folder):
    config, cohort, _ = embedded(
        tmp_path,
        visits(["train"] * 4),
        overrides=[f"teacher.base_model={teacher_folder}/base", "teacher.dtype=float32"],
    )
    other = {**teacher_fields(config), "teacher.base_model": "other"}
    with pytest.raises(ArtifactError, match="on this machine: made with teacher.base_model="):
        EmbedWorker(Run(config, {"embeddings": other}))(cohort.shards[0])


class WaitingEngine(LengthEngine):
    """Computes the second shard only when the first one's worker has returned, and notes whose prompts it was given."""

    def __init__(self):
        super().__init__()
        self.given, self.first_returned = [], threading.Event()

    def encode(self, *texts):
        if len(texts) == 1:
            mine = chr(texts[0][0][0])
            if self.given and mine != self.given[0]:
                assert self.first_returned.wait(20), "a finished shard waits for the other's forward passes"
            self.given.append(mine)
            time.sleep(0.02)  # the other shard would come between if it could
        return super().encode(*texts)


def test_two_shards_at_once_are_computed_one_after_the_other_and_a_finished_one_does_not_wait(tmp_path):
    rows = [replace(visit, input="AB"[n // 150] * (1 + n % 9)) for n, visit in enumerate(visits(["train"] * 300))]
    config, cohort, _ = embedded(tmp_path, rows, shard_rows=150)
    engine = WaitingEngine()
    worker = EmbedWorker(Run(config, {"embeddings": {"a": 1}}), engine)
    with ThreadPoolExecutor(2) as threads:
        for done in as_completed([threads.submit(worker, shard) for shard in cohort.shards]):
            assert done.result()["rows"] == 150
            engine.first_returned.set()
    assert "".join(engine.given) in ("AABB", "BBAA")
