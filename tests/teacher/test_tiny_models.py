"""The demo's models: small, made locally, cached, and loadable like the real ones."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ckd.config import TeacherConfig
from ckd.configfile import load
from ckd.ehr.synthetic.patients import generate
from ckd.ehr.synthetic.rows import table
from ckd.errors import ArtifactError, ConfigError
from ckd.student.tiny import SMALLEST as TINY_STUDENT
from ckd.student.tiny import make_student
from ckd.teacher.engine_hf import TransformersEngine
from ckd.teacher.tiny import UNTRAINED as TINY_TEACHER
from ckd.teacher.tiny import TeacherSize, make_teacher
from ckd.visits.labels import DISEASES, INSTRUCTION
from jobs import demo
from jobs.commands import COMMANDS
from jobs.console import Console

DEMO_SIZES = {
    "demo": {"seed": 1, "patients": 60},
    "teacher": {"seed": 2, "patients": 40},
    "student": {"seed": 3, "patients": 40},
    "ceiling": {"seed": 4, "patients": 60},
}


@pytest.fixture(scope="module")
def rows():
    made = table(generate(60, 31))
    return made["input"].to_pylist(), np.array(made["labels"].to_pylist())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tiny_teacher")
    make_teacher(str(folder), *rows, 5, TINY_TEACHER)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tiny_student")
    make_student(str(folder), rows[0], 5, TINY_STUDENT)
    return folder


def embed(folder, texts, adapter):
    settings = TeacherConfig(
        base_model=str(folder / "base"), adapter=str(folder / "adapter") if adapter else "", dtype="float32"
    )
    engine = TransformersEngine(settings, 0)
    return engine.encode(engine.prompter.encode([INSTRUCTION] * len(texts), texts)[0])


def test_the_teacher_loads_as_a_causal_model_with_a_peft_adapter(teacher):
    model = AutoModelForCausalLM.from_pretrained(teacher / "base")
    assert model.config.model_type == "qwen2"
    tuned = PeftModel.from_pretrained(model, str(teacher / "adapter"))
    assert any(p.abs().sum() > 0 for name, p in tuned.named_parameters() if "lora_B" in name)
    assert {f.name for f in (teacher / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    settings = json.loads((teacher / "adapter" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["task_type"], settings["base_model_name_or_path"]) == (
        "LORA",
        "CAUSAL_LM",
        str(teacher / "base"),
    )


def test_the_teachers_tokenizer_loses_nothing_and_has_qwens_template(teacher, rows):
    tokenizer = AutoTokenizer.from_pretrained(teacher / "base")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a\nb"}], tokenize=False, add_generation_prompt=True
    )
    system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    assert text == system + "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"
    for visit in [*rows[0][:20], "Etwas völlig anderes: 気, x.", text]:
        assert tokenizer.decode(tokenizer(visit)["input_ids"]) == visit
    assert tokenizer("<|im_start|>")["input_ids"] == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


def test_even_an_untrained_adapter_changes_the_embeddings(teacher, rows):
    plain, adapted = (embed(teacher, rows[0][:8], adapter) for adapter in (False, True))
    assert np.isfinite(adapted).all()
    assert np.abs(plain - adapted).max() > 1e-2


def test_training_moves_base_and_adapter_and_is_the_same_each_time(tmp_path, rows, teacher):
    size = TeacherSize(**{**TINY_TEACHER.__dict__, "base_steps": 4, "adapter_steps": 4, "batch": 8})
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        make_teacher(str(folder), *rows, 5, size)
    first, second = (embed(folder, rows[0][:4], True) for folder in folders)
    assert np.array_equal(first, second)
    assert not np.allclose(first, embed(folders[0], rows[0][:4], False), atol=1e-3)
    assert not np.allclose(first, embed(teacher, rows[0][:4], True), atol=1e-3)


def test_a_teacher_that_is_there_is_kept_and_another_one_refused(teacher, rows):
    written = (teacher / "base" / "model.safetensors").stat().st_mtime_ns
    make_teacher(str(teacher), *rows, 5, TINY_TEACHER).verify()
    assert (teacher / "base" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ArtifactError, match="seed"):
        make_teacher(str(teacher), *rows, 6, TINY_TEACHER)


def test_the_student_loads_as_a_classifier_of_25_labels(student, rows):
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    tokenizer = AutoTokenizer.from_pretrained(student)
    assert [model.config.id2label[i] for i in range(25)] == list(DISEASES)
    batch = tokenizer(rows[0][:4], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert model(**batch).logits.shape == (4, 25)
    ids = tokenizer(rows[0][0])["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_a_student_that_is_there_is_kept_and_another_one_refused(student, rows):
    written = (student / "model.safetensors").stat().st_mtime_ns
    make_student(str(student), rows[0], 5, TINY_STUDENT).verify()
    assert (student / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ArtifactError, match="data"):
        make_student(str(student), rows[0][1:], 5, TINY_STUDENT)


def test_the_demo_makes_cohort_and_models_where_its_config_says(tmp_path):
    places = [
        f"data.train={tmp_path}/cohort/cohort.parquet",
        f"teacher.base_model={tmp_path}/teacher/base",
        f"teacher.adapter={tmp_path}/teacher/adapter",
        f"student.base_model={tmp_path}/student",
    ]
    config = load(COMMANDS["demo"].config, places)
    said = StringIO()
    demo.make(config, Console(said), DEMO_SIZES, trained=False)
    assert Path(config.data.train).is_file()
    assert Path(config.teacher.adapter, "adapter_config.json").is_file()
    assert Path(config.student.base_model, "config.json").is_file()
    assert "patient-acquired" not in said.getvalue()
    with pytest.raises(ConfigError, match="ckd run"):
        demo.make(
            load(COMMANDS["demo"].config, [f"data.train={tmp_path}/mine.parquet"]),
            Console(said),
            DEMO_SIZES,
            trained=False,
        )


def test_the_demo_table_shows_ceilings_share_and_interval():
    block = {"macro": {"auroc": 0.8, "auprc": 0.5}}
    metrics = {
        "held_out": {
            **dict.fromkeys(("oracle_latent", "oracle_observed", "teacher", "student"), block),
            "baselines": {"persistence": block, "tfidf_logreg": {"macro": None}},
        },
        "headline": {"against_persistence": {"difference": 0.1, "interval": [0.08, 0.12]}},
        "ceilings": {"oracle_observed": {"share_of_gain": 0.7}},
    }
    text = "\n".join(demo.summary(metrics))
    assert "interval +0.080 to +0.120: above 0" in text
    assert "70% of oracle_observed's AUROC gain over .5 (target 75%: NOT reached)" in text
    assert "nothing about a 7B model on MIMIC" in text
