"""The transformers engine against the plain forward pass, one prompt at a time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker, teacher_fields
from ckd.teacher.engine_hf import TransformersEngine
from tests.teacher.embedded import embedded, visits


def config(folder, adapter=True, **kwargs):
    given = {
        "base_model": f"{folder}/base",
        "adapter": f"{folder}/adapter" if adapter else "",
        "dtype": "float32",
        "token_budget": 256,
    }
    return TeacherConfig(**(given | kwargs))


@pytest.fixture(scope="module")
def engine(teacher_folder):
    return TransformersEngine(config(teacher_folder), 0)


def plain(folder, prompts):
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype=torch.float32), f"{folder}/adapter"
    ).eval()
    with torch.no_grad():
        return np.stack(
            [
                model(input_ids=torch.tensor([p]), output_hidden_states=True).hidden_states[-1][0, -1].numpy()
                for p in prompts
            ]
        )


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(3, 299), min_size=1, max_size=60), min_size=1, max_size=12))
def test_batched_embeddings_equal_one_by_one(engine, prompts):
    together = engine.encode(prompts)
    alone = np.concatenate([engine.encode([p]) for p in prompts])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_embeddings_are_the_last_hidden_state_of_the_causal_model_with_its_adapter(teacher_folder, engine):
    prompts = [[5, 6, 7], list(range(3, 90)), [299]]
    wanted = plain(teacher_folder, prompts)
    np.testing.assert_allclose(engine.encode(prompts), wanted, atol=1e-4)
    assert not np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=0.05), "embeddings must not be normalised"


def test_the_adapter_changes_the_embeddings(teacher_folder, engine):
    bare = TransformersEngine(config(teacher_folder, adapter=False), 0)
    prompts = [[5, 6, 7], [8, 9]]
    assert np.abs(bare.encode(prompts) - engine.encode(prompts)).max() > 1e-3


def test_an_adapter_of_another_model_is_refused(teacher_folder, tmp_path):
    from ckd.teacher.tiny import TeacherSize, make_teacher

    wider = TeacherSize(hidden=64, layers=3, vocabulary=600, rank=4, base_steps=0, adapter_steps=0)
    make_teacher(str(tmp_path), ["some text here"] * 3, np.zeros((3, 25)), 1, wider)
    with pytest.raises(ConfigError, match="teacher.adapter"):
        TransformersEngine(config(teacher_folder).model_copy(update={"adapter": f"{tmp_path}/adapter"}), 0)


def test_a_gpu_that_is_not_there_is_a_config_error(teacher_folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="teacher.gpus_per_worker=1: this worker sees no CUDA device"):
        TransformersEngine(config(teacher_folder), 1)


def test_a_broken_model_folder_is_a_config_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TransformersEngine(TeacherConfig(base_model=str(tmp_path)), 0)


def test_a_shards_part_is_byte_equal_whatever_its_worker_did_before_or_does_beside_it(teacher_folder, tmp_path):
    def texts():
        for n, visit in enumerate(visits(["train"] * 120)):
            yield replace(visit, input=f"The patient-acquired disease is disease {n % 7}, Heart failure." * (1 + n % 5))

    overrides = [
        f"teacher.base_model={teacher_folder}/base",
        f"teacher.adapter={teacher_folder}/adapter",
        "teacher.dtype=float32",
    ]
    run, cohort, _ = embedded(tmp_path, texts(), shard_rows=30, overrides=overrides)
    fields = teacher_fields(run)
    part = Path(Stage(cohort.root, EMBEDDINGS.name, fields).path(2))
    seen = set()
    for before in ([], [0], [3, 1, 2]):
        worker = EmbedWorker(Run(run, {"embeddings": fields}))
        for index in before:
            worker(cohort.shards[index])
        worker(cohort.shards[2])
        seen.add(part.read_bytes())
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(EmbedWorker(Run(run, {"embeddings": fields})), cohort.shards))
    seen.add(part.read_bytes())
    assert len(seen) == 1


def test_the_tokenizer_pads_nothing_into_the_prompt(teacher_folder, engine):
    tokenizer = AutoTokenizer.from_pretrained(f"{teacher_folder}/base")
    prompts, _ = engine.prompter.encode(["Name the diseases."] * 2, ["short", "a longer text than the other"])
    assert all(tokenizer.pad_token_id not in p for p in prompts)
