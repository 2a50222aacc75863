"""A model that is not wholly what was named is refused in one line, by the look at its files or by the load."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ckd.config import TeacherConfig
from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.store.models import model_fields
from ckd.store.pretrained import Source, load_model, load_settings, load_tokenizer
from ckd.student.model import new_student
from ckd.student.model import outline as student_outline
from ckd.teacher.decoder import outline as teacher_outline
from ckd.teacher.engine_hf import TransformersEngine
from ckd.visits.labels import DISEASES

TEACHER, STUDENT = "teacher.base_model", "student.base_model"
BERT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def edited(folder: str, to: Path, change=lambda tensors: tensors, **settings) -> Path:
    """A copy of a model folder with other tensors and other keys in its config.json."""
    shutil.copytree(folder, to)
    weights = to / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(weights)).items()}, weights, {"format": "pt"})
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return to


def engine(folder) -> TransformersEngine:
    return TransformersEngine(TeacherConfig(base_model=str(folder), dtype="float32", max_length=256), 0)


def refused(message: str, call, *given) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        call(*given)
    assert "\n" not in str(caught.value) and str(caught.value).count(";") >= 1


def without_layer_1(tensors):
    return {name: value for name, value in tensors.items() if "layers.1." not in name}


def behind_a_prefix(tensors):
    return {f"_orig_mod.{name}": value for name, value in tensors.items()}


def with_a_third_layer(tensors):
    third = {
        name.replace("layers.1.", "layers.2."): value.clone() for name, value in tensors.items() if "layers.1." in name
    }
    return tensors | third


def narrower(tensors):
    return {name: value[:8] if "layers.1.mlp.up_proj" in name else value for name, value in tensors.items()}


CHANGES = {
    "a layer is missing": (without_layer_1, r"12 of its \d+ tensors are not in its files \(first: model.layers.1"),
    "a prefix": (behind_a_prefix, r"tensors are not in its files .*behind the prefix '_orig_mod\.'"),
    "more layers": (with_a_third_layer, "hold model.layers.2.* but config.json says num_hidden_layers=2"),
    "another shape": (narrower, r"1 of its tensors have another shape .*mlp.up_proj.weight \[8, \d+\], config.json:"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_teacher_that_lacks_weights_is_refused_by_engine_and_plan(teacher_folder, tmp_path, case):
    change, message = CHANGES[case]
    folder = edited(f"{teacher_folder}/base", tmp_path / "base", change)
    refused(f"^teacher.base_model={folder}: .*{message}", engine, folder)
    refused(message, teacher_outline, TeacherConfig(), Source.find(TEACHER, str(folder)))


def test_a_teacher_without_lm_head_and_one_saved_without_its_prefix_have_the_same_embeddings(teacher_folder, tmp_path):
    def without_head(tensors):
        return {name: value for name, value in tensors.items() if "lm_head" not in name}

    bare = edited(f"{teacher_folder}/base", tmp_path / "bare", without_head)
    short = edited(
        f"{teacher_folder}/base", tmp_path / "short", lambda t: {k.removeprefix("model."): v for k, v in t.items()}
    )
    prompts = [[1, 5, 9, 30], [7, 7, 2]]
    wanted = engine(f"{teacher_folder}/base").encode(prompts)
    np.testing.assert_array_equal(engine(bare).encode(prompts), wanted)
    np.testing.assert_array_equal(engine(short).encode(prompts), wanted)


def test_a_weight_that_is_not_a_number_is_named(teacher_folder, tmp_path):
    def broken(tensors):
        tensors["model.norm.weight"][3] = float("nan")
        return tensors

    folder = edited(f"{teacher_folder}/base", tmp_path / "base", broken)
    refused("norm.weight holds values that are not finite", engine, folder)


def test_a_tokenizer_of_a_larger_model_is_refused(teacher_folder, tmp_path):
    folder = edited(
        f"{teacher_folder}/base",
        tmp_path / "base",
        lambda t: {k: v[:100] if "embed_tokens" in k or "lm_head" in k else v for k, v in t.items()},
        vocab_size=100,
    )
    refused("token ids up to .* its weights only 100 rows", engine, folder)


def test_a_folder_without_weights_and_a_model_of_a_newer_library_have_their_own_remedy(teacher_folder, tmp_path):
    newer = edited(f"{teacher_folder}/base", tmp_path / "newer", model_type="qwen99")
    refused("names a model_type that this transformers does not know", engine, newer)
    bare = edited(f"{teacher_folder}/base", tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    refused("folder has no weights; name the one with model.safetensors", engine, bare)


def test_weights_that_are_rounded_are_said(teacher_folder):
    config = TeacherConfig(base_model=f"{teacher_folder}/base", dtype="bfloat16", max_length=256)
    assert "stored in float32 and rounded to teacher.dtype=bfloat16" in TransformersEngine(config, 0).load.note
    assert "rounded" not in engine(f"{teacher_folder}/base").load.note


FILES = {
    "model.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    "tokenizer.json": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
    "config.json": (b"{", "config.json is not a JSON object"),
    "adapter_config.json": (b"{}", "adapter_config.json beside the model, which transformers would apply unasked"),
    "model.safetensors.index.json": (
        b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}',
        "1 of the 2 files that model.safetensors.index.json names are missing .*first: model-00001-of-00002",
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_what_it_should_be_is_refused_before_anything_is_loaded(teacher_folder, tmp_path, file):
    content, message = FILES[file]
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    (tmp_path / "base" / file).write_bytes(content)
    refused(message, model_fields, TEACHER, str(tmp_path / "base"))


def test_an_index_without_a_map_is_refused(teacher_folder, tmp_path):
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    for content in (b"[]", b'{"weight_map": []}', b"{}"):
        (tmp_path / "base/model.safetensors.index.json").write_bytes(content)
        refused("model.safetensors.index.json (is not|has no)", model_fields, TEACHER, str(tmp_path / "base"))


@pytest.mark.parametrize("cut", [0, 5, 300, -1], ids=str)
def test_weights_that_end_too_early_are_refused_before_anything_is_loaded(teacher_folder, tmp_path, cut):
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    refused("model.safetensors .*damaged, or not copied to its end", model_fields, TEACHER, str(tmp_path / "base"))


def test_a_header_that_is_no_header_is_refused(teacher_folder, tmp_path):
    shutil.copytree(f"{teacher_folder}/base", tmp_path / "base")
    why = dict.fromkeys((b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}'), "has no readable header")
    for header, found in {**why, b"{}": "holds no tensors"}.items():
        (tmp_path / "base" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        refused(f"model.safetensors {found}", model_fields, TEACHER, str(tmp_path / "base"))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_quantised_weights_are_refused_by_name(teacher_folder, tmp_path, method):
    quantised = {"quant_method": method, "bits": 4}
    folder = edited(f"{teacher_folder}/base", tmp_path / "base", quantization_config=quantised)
    refused(rf"weights are quantised \({method}\)", model_fields, TEACHER, str(folder))
    refused(rf"weights are quantised \({method}\)", load_settings, Source(TEACHER, str(folder), str(folder)))


def test_code_in_the_folder_is_never_run_and_nothing_is_asked(teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    ours = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoModelForSequenceClassification": "own.M"}
    folder = edited(f"{teacher_folder}/base", tmp_path / "base", auto_map=ours, model_type="own")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    source = Source(TEACHER, str(folder), str(folder))
    for load_it in (load_settings, load_tokenizer):
        refused("folder holds code of its own, which is never run", load_it, source)
    refused("holds code of its own", engine, folder)
    refused("holds code of its own", new_student, load(None, [f"{STUDENT}={folder}"]), DISEASES)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_its_vocabulary_is_refused(teacher_folder, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(f"{teacher_folder}/base", base)
    (base / "tokenizer.json").unlink()
    refused("no vocabulary: every text would be unknown tokens", load_tokenizer, Source.find(TEACHER, str(base)))
    bert = tmp_path / "bert"
    BertModel(BertConfig(vocab_size=30, **BERT)).save_pretrained(bert)
    for vocabulary in (None, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"):
        if vocabulary:
            (bert / "vocab.txt").write_text(vocabulary)
        refused("vocab.txt is missing or empty", load_tokenizer, Source.find(STUDENT, str(bert)))


def test_memory_that_is_short_and_packages_that_are_not_here_have_their_own_remedy(teacher_folder):
    source = Source.find(TEACHER, f"{teacher_folder}/base")
    settings = load_settings(source)

    class Failing:
        def __init__(self, error):
            self.error = error

        def from_pretrained(self, *_, **__):
            raise self.error

    for error, message in (
        (MemoryError(), "does not fit into this machine's memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "does not fit into this machine's memory"),
        (ImportError("needs sentencepiece: `pip install sentencepiece`"), "needs the package sentencepiece"),
        (KeyError("rope"), r"cannot be loaded \(KeyError\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_model(source, Failing(error), settings, new=lambda *_: False)


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """A BERT as masked language modelling saves it: without pooler and classification head."""
    folder = tmp_path_factory.mktemp("masked") / "bert"
    torch.manual_seed(3)
    BertForMaskedLM(BertConfig(vocab_size=30, **BERT)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fever", "pain"]))
    return folder


def student_of(folder) -> dict:
    return load(None, [f"{STUDENT}={folder}"])


def test_only_the_students_head_starts_at_random_and_it_is_said(masked):
    loaded = new_student(student_of(masked), DISEASES)
    new = "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight"
    assert str(loaded).startswith(f"{new} start at random")
    assert "not used: cls.predictions" in str(loaded)
    stored = load_file(masked / "model.safetensors")
    for name, value in loaded.model.state_dict().items():
        if name in stored:
            assert torch.equal(value, stored[name]), name
    again = new_student(student_of(masked), DISEASES).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in loaded.model.state_dict().items())


STUDENT_CHANGES = {
    "a layer is missing": lambda t: {k: v for k, v in t.items() if "layer.1." not in k},
    "a prefix": behind_a_prefix,
    "no word embeddings": lambda t: {k: v for k, v in t.items() if "word_embeddings" not in k},
}


@pytest.mark.parametrize("case", STUDENT_CHANGES)
def test_a_student_that_lacks_weights_is_refused_by_training_and_plan(masked, tmp_path, case):
    folder = edited(str(masked), tmp_path / "bert", STUDENT_CHANGES[case])
    refused(f"^student.base_model={folder}: .*are not in its files", new_student, student_of(folder), DISEASES)
    refused("are not in its files", student_outline, Source.find(STUDENT, str(folder)), 25)


@pytest.mark.parametrize("labels", [1, 2, 7, 40])
def test_a_classifier_of_other_labels_is_a_student_to_start_from(tmp_path, labels):
    torch.manual_seed(4)
    BertForSequenceClassification(BertConfig(vocab_size=30, num_labels=labels, **BERT)).save_pretrained(tmp_path)
    loaded = new_student(student_of(tmp_path), DISEASES)
    assert loaded.new == ("classifier.bias", "classifier.weight")
    assert loaded.model.classifier.weight.shape == (len(DISEASES), 16)
    stored, found = load_file(tmp_path / "model.safetensors"), loaded.model.state_dict()
    assert torch.equal(found["bert.pooler.dense.weight"], stored["bert.pooler.dense.weight"])
    assert float(found["classifier.weight"].std()) < 0.05  # as a fresh head is initialised


def test_a_model_of_another_kind_is_refused(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(vocab_size=64, num_key_value_heads=1, **BERT)).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_type": "bert", "vocab_size": 64}))
    refused("are not in its files", new_student, student_of(tmp_path), DISEASES)
