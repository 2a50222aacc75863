"""A model folder is checked before it is believed, and a text's figures depend on the text alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from ckd.calibration import FILE
from ckd.errors import ArtifactError, ConfigError
from ckd.predict.modelfolder import ENGINES, ModelFolder
from ckd.predict.scorer import Scorer
from ckd.store.artifacts import FolderArtifact
from ckd.store.jsonfile import SEAL
from ckd.visits.labels import NUM_LABELS
from tests.predict.scored_student import make_student
from tests.student.student_cohort import WORDS, make_visits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.load(folder)


def texts(count: int, seed: int = 0) -> list[str]:
    return [visit.input for visit in make_visits("tuning", count, seed=seed)]


def plain(folder: str, text: str) -> np.ndarray:
    """The slow reference: one text, no padding, the words' ids looked up by hand."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    vocabulary = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    ids = [2, *[vocabulary.get(word, 1) for word in text.split()][:30], 3]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def test_the_figures_are_the_model_s_own_and_the_calibration_s(folder, scorer):
    given_texts = texts(5)
    scores = scorer(given_texts)
    expected = np.stack([plain(folder, text) for text in given_texts])
    np.testing.assert_allclose(scores.logits, expected, atol=1e-5)
    np.testing.assert_allclose(scores.probabilities, 1 / (1 + np.exp(-expected.astype(float))), atol=1e-5)
    slopes, intercepts = np.arange(NUM_LABELS) / 50 + 0.5, np.arange(NUM_LABELS) / 100 - 0.1
    np.testing.assert_allclose(scores.calibrated, 1 / (1 + np.exp(-(expected * slopes + intercepts))), atol=1e-5)
    np.testing.assert_array_equal(scores.flags, scores.calibrated >= np.linspace(0.3, 0.7, NUM_LABELS))
    assert 0 < scores.flags.mean() < 1
    assert list(scores.truncated) == [len(text.split()) > 30 for text in given_texts]


@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=45).map(" ".join), min_size=1, max_size=12), st.randoms())
def test_order_and_company_do_not_change_a_text_s_probabilities(scorer, chosen, random):
    alone = np.concatenate([scorer([text]).probabilities for text in chosen])
    order = random.sample(range(len(chosen)), len(chosen))
    together = scorer([chosen[i] for i in order]).probabilities
    np.testing.assert_allclose(together, alone[order], atol=1e-5)


def test_a_text_of_a_megabyte_and_an_empty_one_are_scored(scorer):
    scores = scorer(["w01 " * 250_000, ""])
    assert list(scores.truncated) == [True, False]
    assert np.isfinite(scores.probabilities).all()


def test_without_a_calibration_the_calibrated_figures_are_none_and_that_is_said(tmp_path):
    scorer = Scorer.load(make_student(tmp_path, calibrated=False))
    scores = scorer(texts(2))
    assert scores.calibrated is None and scores.flags is None
    assert scores.probabilities.shape == (2, NUM_LABELS)
    assert "no calibrated probabilities" in scorer.model.notes[0]


def copied(folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def recommitted(copy: Path, **fields: str) -> str:
    """Write a new artifact.json, as if the folder had been made so; the calibration is another student's and goes."""
    (copy / FILE).unlink(missing_ok=True)
    FolderArtifact(str(copy), {"student.max_length": 32, **fields}).commit(
        p.name for p in copy.iterdir() if p.name != "artifact.json"
    )
    return str(copy)


def test_a_changed_weights_file_is_refused(folder, tmp_path):
    copy = copied(folder, tmp_path)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-5] ^= 255
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: missing or changed since it was written"):
        Scorer.load(str(copy))


@pytest.mark.parametrize("damage", [b"", b"no tensors here", None], ids=["empty", "text", "cut"])
def test_weights_that_were_damaged_before_the_folder_was_committed_are_refused(folder, tmp_path, damage):
    copy = copied(folder, tmp_path)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    with pytest.raises(ConfigError, match="damaged weight file") as caught:
        Scorer.load(recommitted(copy))
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_nan_is_refused(folder, tmp_path):
    copy = copied(folder, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(copy)
    with torch.no_grad():
        model.classifier.bias[3] = float("nan")
    model.save_pretrained(copy)
    with pytest.raises(ConfigError, match="not finite"):
        Scorer.load(recommitted(copy))


@pytest.mark.parametrize("change", ["order", "fewer", "none"])
def test_other_labels_are_refused(folder, tmp_path, change):
    copy = copied(folder, tmp_path)
    content = json.loads((copy / "config.json").read_text())
    names = content["id2label"]
    if change == "order":
        names["4"], names["5"] = names["5"], names["4"]
    elif change == "fewer":
        del names["24"]
    else:
        del content["id2label"]
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="its id2label is not that of ccs25, and ckd_task is no task"):
        ModelFolder.open(recommitted(copy))


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(range(256)) * 8])
@pytest.mark.parametrize("engine", ["onnx", "onnx-int8"])
def test_an_onnx_file_that_nothing_can_read_is_told_in_one_line(engine, content, folder, tmp_path):
    copy = copied(folder, tmp_path)
    (copy / ENGINES[engine]).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{ENGINES[engine]}: the model cannot be loaded \("):
        Scorer.load(recommitted(copy), engine)


def test_a_tokenizer_that_another_version_made_is_told_in_one_line(folder, tmp_path):
    copy = copied(folder, tmp_path)
    content = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(content | {"model": content["model"] | {"type": "NewPiece"}}))
    with pytest.raises(
        ConfigError, match=r"its tokenizer cannot be loaded \(Exception\); .* install the versions that made it"
    ):
        Scorer.load(recommitted(copy))


def test_a_calibration_of_another_student_is_refused(folder, tmp_path):
    copy = copied(folder, tmp_path)
    content = json.loads((copy / FILE).read_text()) | {"model": "0123456789abcdef"}
    del content[SEAL]
    (copy / FILE).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="another student"):
        ModelFolder.open(str(copy))


def test_a_folder_that_is_no_student_and_an_engine_without_its_file_say_what_was_expected(folder, tmp_path):
    with pytest.raises(ConfigError, match="expected results/<run>/student"):
        ModelFolder.open(str(tmp_path))
    with pytest.raises(ConfigError, match="ckd export model --onnx"):
        ModelFolder.open(folder, "onnx")
    with pytest.raises(ConfigError, match="torch, onnx, onnx-int8"):
        ModelFolder.open(folder, "tensorrt")


@pytest.mark.parametrize("way", ["head_tail", "windows"])
def test_a_student_that_read_long_texts_in_a_way_that_is_gone_is_refused_and_one_of_heads_opens(folder, tmp_path, way):
    copy = copied(folder, tmp_path)
    told = f"copy: a student trained with student.long_text={way}, .* train it again with this version, or use commit"
    with pytest.raises(ConfigError, match=told):
        ModelFolder.open(recommitted(copy, **{"student.long_text": way}))
    assert ModelFolder.open(recommitted(copy, **{"student.long_text": "head"})).max_length == 32


def test_the_fingerprint_follows_the_calibration(folder, tmp_path):
    copy = copied(folder, tmp_path)
    assert ModelFolder.open(str(copy)).fields == ModelFolder.open(folder).fields
    (copy / FILE).unlink()
    assert ModelFolder.open(str(copy)).fields == {**ModelFolder.open(folder).fields, "calibration": None}
