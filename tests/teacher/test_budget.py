"""The token budget: found by doubling, remembered per device and model, found again when it is stale.

And batches that do not fit all the same.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.store.folders import cache_folder
from ckd.teacher.budget import CPU_BUDGET, MOST, SHARE, automatic_budget, find_budget
from ckd.teacher.engine_hf import TransformersEngine

FACTS = {"device": "GPU X", "memory": 24, "model": "m@1", "dtype": "bfloat16", "max_length": 1536}


class Device:
    """Memory of `size` tokens; anything above it runs out."""

    def __init__(self, size):
        self.size, self.asked = size, []

    def __call__(self, tokens):
        self.asked.append(tokens)
        if tokens > self.size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens / self.size


@given(st.integers(1, 4000), st.integers(1, 10**6))
def test_a_budget_is_the_largest_doubling_well_within_memory(longest, size):
    if longest > size:
        with pytest.raises(
            ConfigError, match=rf"teacher\.max_length: one prompt of {longest} tokens does not fit.*larger GPU"
        ):
            find_budget(longest, Device(size))
        return
    doublings = [longest * 2**k for k in range(30)]
    allowed = [b for b in doublings if b <= max(MOST, longest) and b <= SHARE * size]
    assert find_budget(longest, Device(size)) == max(allowed, default=longest)


def test_a_budget_is_remembered_for_the_same_facts_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, again, other = Device(20_000), Device(20_000), Device(10_000)
    assert automatic_budget(FACTS, 1536, first) == 12288
    assert automatic_budget(FACTS, 1536, again) == 12288
    assert automatic_budget({**FACTS, "device": "GPU Y"}, 1536, other) == 6144
    assert first.asked and other.asked and not again.asked


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '{"token_budget": 4}', None, -1, "many", True, 0])
def test_a_remembered_file_that_is_unreadable_or_stale_is_probed_anew(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    automatic_budget(FACTS, 1536, Device(20_000))
    (file,) = (cache_folder() / "token_budgets").iterdir()
    known = json.loads(file.read_text())
    text = content if isinstance(content, str) and content != "many" else json.dumps({**known, "token_budget": content})
    file.write_text(text)
    device = Device(40_000)
    assert automatic_budget(FACTS, 1536, device) == 24576
    assert device.asked
    assert json.loads(file.read_text())["token_budget"] == 24576


def test_where_nothing_can_be_kept_the_budget_is_found_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert automatic_budget(FACTS, 1536, Device(20_000)) == automatic_budget(FACTS, 1536, Device(20_000)) == 12288


@pytest.fixture(scope="module")
def engine(teacher_folder):
    config = TeacherConfig(base_model=f"{teacher_folder}/base", adapter=f"{teacher_folder}/adapter", dtype="float32")
    return TransformersEngine(config, 0)


class Short:
    """A decoder on a device that holds at most `most` padded tokens at once."""

    def __init__(self, model, most):
        self.model, self.most = model, most

    def __call__(self, input_ids, **given):
        if input_ids.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(input_ids=input_ids, **given)


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [[5] * 20 + rng.integers(3, 299, rng.integers(1, 30)).tolist() for _ in range(40)]


def test_on_a_cpu_the_budget_is_a_fixed_number(engine):
    assert engine.budget == CPU_BUDGET


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(engine, prompts, monkeypatch):
    wanted = engine.encode(prompts)
    plain = engine.take_work()
    monkeypatch.setattr(engine, "step", Short(engine.model, 300))
    np.testing.assert_allclose(engine.encode(prompts), wanted, atol=1e-4)
    halved = engine.take_work()
    assert 1 <= halved.ooms <= 4
    assert (plain.ooms, plain.tokens, plain.prompts) == (0, halved.tokens, halved.prompts)
    for work in (plain, halved):
        assert work.computed == work.tokens - work.prefix_saved + work.padding
    assert halved.padding <= plain.padding
    monkeypatch.undo()
    assert engine.encode(prompts).tobytes() == wanted.tobytes(), "a later call must not remember the halving"


def test_one_prompt_that_does_not_fit_is_a_config_error(engine, prompts, monkeypatch):
    monkeypatch.setattr(engine, "step", Short(engine.model, 20))
    with pytest.raises(
        ConfigError,
        match=r"teacher\.max_length: one prompt of \d\d tokens does not fit in the GPU's memory; "
        "lower it or use a larger GPU",
    ):
        engine.encode(prompts)


def test_the_work_of_a_call_is_what_the_formulas_say(engine):
    engine.take_work()
    engine.encode([[7] * 20 + [8], [7] * 20 + [9, 10, 11]])
    work = engine.take_work()
    assert (work.prompts, work.tokens, work.prefix_saved, work.padding) == (2, 44, 20, 2)
    assert work.computed == 20 + 2 * 3
    weights = sum(p.numel() for name, p in engine.model.named_parameters() if "embed_tokens" not in name)
    layers, width = 2, 32
    attended = sum(range(1, 21)) + 2 * (21 + 22 + 23)
    assert work.flops == 2 * weights * 26 + 4 * layers * width * attended
    assert work.busy_s > 0
    assert engine.take_work().busy_s == 0


def test_an_engine_tells_what_it_loaded(engine, teacher_folder):
    from ckd.store.models import adapter_hash, model_fields

    assert engine.load.revision == model_fields("x", f"{teacher_folder}/base")["x"]
    assert engine.load.adapter == adapter_hash("x", f"{teacher_folder}/adapter")
    assert (engine.load.engine, engine.load.device, engine.load.note) == ("transformers", "cpu", "")
    assert engine.load.seconds > 0


def test_no_prompts_give_no_rows(engine):
    assert engine.encode([]).shape == (0, engine.hidden)
