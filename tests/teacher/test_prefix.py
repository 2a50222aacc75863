"""The shared prefix: found from the tokens, and the embeddings are the same with it, for every kind of model."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM as Causal
from transformers import (
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from ckd.config import TeacherConfig
from ckd.teacher.engine_hf import TransformersEngine
from ckd.teacher.prefix import MIN_PREFIX, can_share_prefix, shared_prefix

TOKENS = st.lists(st.integers(3, 299), min_size=1, max_size=40)
SMALL = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}


def engine(folder, adapter=True, **given):
    wanted = {
        "base_model": f"{folder}/base",
        "adapter": f"{folder}/adapter" if adapter else "",
        "dtype": "float32",
        "token_budget": 256,
    }
    return TransformersEngine(TeacherConfig(**(wanted | given)), 0)


@pytest.fixture(scope="module")
def with_adapter(teacher_folder):
    return engine(teacher_folder)


def alone(some, prompts):
    """Each prompt by itself, where there is nothing to share."""
    return np.concatenate([some.encode([p]) for p in prompts])


@given(TOKENS, st.lists(TOKENS, min_size=1, max_size=6))
@example([3] * 20, [[4], [4, 5]])
def test_the_prefix_is_the_longest_common_one_that_leaves_every_prompt_a_token(head, tails):
    prompts = [head + tail for tail in tails]
    longest = 0
    while all(longest < len(p) - 1 and p[longest] == prompts[0][longest] for p in prompts):
        longest += 1
    assert shared_prefix(prompts) == (longest if longest >= MIN_PREFIX and len(prompts) > 1 else 0)
    assert shared_prefix([tuple(p) for p in prompts]) == shared_prefix(prompts)


@settings(max_examples=40)
@given(head=st.lists(st.integers(3, 299), max_size=45), tails=st.lists(TOKENS, min_size=1, max_size=8))
@example(head=[7] * 30, tails=[[8]])  # one prompt
@example(head=[7] * 30, tails=[[8, 9]] * 4)  # identical prompts
@example(head=[7] * MIN_PREFIX, tails=[[8], [9, 10]])
@example(head=[7] * (MIN_PREFIX - 1), tails=[[8], [9, 10]])  # too short to share
def test_embeddings_with_a_shared_prefix_equal_each_prompt_alone(with_adapter, head, tails):
    prompts = [head + tail for tail in tails]
    with_adapter.take_work()
    together, work = with_adapter.encode(prompts), with_adapter.take_work()
    np.testing.assert_allclose(together, alone(with_adapter, prompts), atol=1e-4)
    assert work.prefix_saved == shared_prefix(prompts) * (len(prompts) - 1)
    assert work.computed == work.tokens - work.prefix_saved + work.padding


def test_the_same_call_gives_the_same_bytes_whatever_came_before(with_adapter):
    rng = np.random.default_rng(0)
    calls = [[[n] * 20 + rng.integers(3, 299, rng.integers(1, 60)).tolist() for _ in range(30)] for n in (5, 6)]
    first = with_adapter.encode(calls[0])
    with_adapter.encode(calls[1])
    assert with_adapter.encode(calls[0]).tobytes() == first.tobytes()


def teacher_of(config, teacher_folder, folder):
    """A random model of another kind behind the tiny teacher's tokenizer."""
    shutil.copytree(
        f"{teacher_folder}/base",
        folder / "base",
        ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation*"),
    )
    torch.manual_seed(0)
    Causal.from_config(config).save_pretrained(folder / "base")
    return engine(folder, adapter=False)


def plain(folder, prompts):
    model = Causal.from_pretrained(folder / "base", dtype=torch.float32).eval()
    with torch.no_grad():
        return np.stack(
            [
                model(input_ids=torch.tensor([p]), output_hidden_states=True).hidden_states[-1][0, -1].numpy()
                for p in prompts
            ]
        )


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (LlamaConfig(**GROUPED), True),
        (Qwen3Config(**GROUPED, head_dim=16), True),
        (GPTNeoXConfig(**SMALL), True),
        (LlamaConfig(**GROUPED, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), True),
        (MistralConfig(**GROUPED, sliding_window=8), False),
        (Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=1), False),
        (Phi3Config(**GROUPED, sliding_window=12, pad_token_id=0), False),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_every_kind_of_decoder_gives_its_plain_forwards_states(teacher_folder, tmp_path, config, shares):
    some = teacher_of(config, teacher_folder, tmp_path)
    rng = np.random.default_rng(1)
    prompts = [list(range(3, 27)) + rng.integers(3, 299, n).tolist() for n in (1, 20, 7, 40)]
    np.testing.assert_allclose(some.encode(prompts), plain(tmp_path, prompts), atol=1e-4)
    assert some.causal == shares
    assert bool(some.take_work().prefix_saved) == shares
    assert ("cannot share a prefix" in some.load.note) != shares


def test_a_model_whose_states_change_with_a_prefix_is_found_out_at_its_load(teacher_folder, monkeypatch):
    from ckd.teacher import attention

    def blind(module, query, key, value, mask, **_):
        return attention.attend(query, key[:, :, -query.shape[2] :], value[:, :, -query.shape[2] :], 1.0), None

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.CAUSAL, blind)
    some = engine(teacher_folder)
    assert not some.causal
    prompts = [[5] * 20 + [6], [5] * 20 + [7, 8]]
    np.testing.assert_allclose(some.encode(prompts), alone(some, prompts), atol=1e-4)


def test_a_compiled_decoder_gives_the_same_embeddings_without_a_graph_break(teacher_folder, with_adapter, monkeypatch):
    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **given: compiled(model, backend="eager", fullgraph=True, **given)
    )
    some = engine(teacher_folder, compile=True)
    rng = np.random.default_rng(2)
    for head in (18, 25):
        prompts = [[9] * head + rng.integers(3, 299, n).tolist() for n in (9, 30, 8, 31)]
        np.testing.assert_allclose(some.encode(prompts), with_adapter.encode(prompts), atol=1e-4)


def test_a_merged_adapter_gives_nearly_the_same_embeddings_and_no_adapter_layers(teacher_folder, with_adapter):
    merged = engine(teacher_folder, merge_adapter=True)
    prompts = [[9] * 18 + [n] for n in range(3, 9)]
    np.testing.assert_allclose(merged.encode(prompts), with_adapter.encode(prompts), atol=1e-4)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert any("lora" in name for name, _ in with_adapter.model.named_parameters())


class Shell:
    """A model of which only the configuration is asked."""

    _supports_attention_backend = True

    def __init__(self, config):
        self.config = config


def test_recurrent_layers_and_rotations_that_change_with_the_batch_are_not_shared():
    changing = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    assert can_share_prefix(Shell(LlamaConfig(**GROUPED)))
    assert not can_share_prefix(Shell(LlamaConfig(**GROUPED, rope_parameters=changing)))
    assert not can_share_prefix(Shell(Qwen3NextConfig(**GROUPED, layer_types=["linear_attention", "full_attention"])))
