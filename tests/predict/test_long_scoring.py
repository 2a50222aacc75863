"""Whoever scores texts with a finished student reads long ones as its training did: the run's own predictions are the reference."""

import io
import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ckd.errors import ConfigError
from ckd.predict.modelfolder import ModelFolder
from ckd.predict.scored import score_all
from ckd.predict.scorer import Scorer
from ckd.store.artifacts import FolderArtifact, Stage
from ckd.student.windows import MOST
from ckd.visits.cohort import Cohort
from jobs import export_model
from jobs.cli import main
from jobs.console import Console
from testbed.rows import write_jsonl
from tests.predict.finished_run import finished_run

LENGTH = 8  # 6 tokens of text; 8 windows hold 41, and the visits have 3 to 40


@pytest.fixture(scope="module", params=["head_tail", "windows"])
def run(request, tmp_path_factory):
    """A finished run and its export; ONNX files only for windows."""
    root = tmp_path_factory.mktemp(request.param)
    config = finished_run(root, held_out=40, max_length=LENGTH, long_text=request.param)
    export_model.run(config, Console(io.StringIO()), str(root / "exported"), onnx=request.param == "windows")
    return config, root / "exported"


def own(config) -> tuple[list[str], list[str], np.ndarray]:
    """visit_ids, texts and probabilities of the run's stage `predictions`."""
    cohort, stage = Cohort.open(config.run.artifacts_root), Stage(config.run.artifacts_root, "predictions", {})
    shards = cohort.select("tuning", "held_out")
    rows = [row for shard in shards for row in cohort.read(shard, ["visit_id", "input"]).to_pylist()]
    found = {row["visit_id"]: row["probabilities"] for shard in shards for row in stage.read(shard.index).to_pylist()}
    ids = [row["visit_id"] for row in rows]
    return ids, [row["input"] for row in rows], np.array([found[name] for name in ids])


def folders(run) -> list[tuple[str, str, float]]:
    """Where the student is, for which engine, and how near its probabilities must be."""
    config, exported = run
    found = [(f"{config.run.folder}/student", "torch", 1e-5), (str(exported), "torch", 1e-5)]
    return found + ([(str(exported), "onnx", 1e-4)] if config.student.long_text == "windows" else [])


def test_the_scorer_says_what_the_run_s_own_predictions_say(run):
    _, texts, expected = own(run[0])
    assert sum(len(text.split()) > LENGTH - 2 for text in texts) > len(texts) / 2
    for folder, engine, tolerance in folders(run):
        scorer = Scorer.load(folder, engine)
        np.testing.assert_allclose(scorer(texts).probabilities, expected, atol=tolerance, err_msg=f"{engine} {folder}")
        np.testing.assert_allclose(score_all(scorer, texts).probabilities, expected, atol=tolerance)


def test_reading_the_beginning_alone_would_say_something_else(run):
    """So that the other tests can fail: the text's end counts."""
    config, _ = run
    _, texts, expected = own(config)
    beginnings = [" ".join(text.split()[: LENGTH - 2]) for text in texts]
    assert (
        np.abs(Scorer.load(f"{config.run.folder}/student")(beginnings).probabilities - expected).max() > 0.01
    )  # a hundred times the tolerances


def test_order_and_company_do_not_matter(run):
    config, _ = run
    _, texts, expected = own(config)
    order = np.random.default_rng(0).permutation(len(texts))
    for folder, engine, tolerance in folders(run):
        scorer = Scorer.load(folder, engine)
        np.testing.assert_allclose(scorer([texts[i] for i in order]).probabilities, expected[order], atol=tolerance)
        alone = np.concatenate([scorer([text]).probabilities for text in texts[:12]])
        np.testing.assert_allclose(alone, expected[:12], atol=tolerance)


def test_predict_says_the_same_and_tells_what_was_lost(run, tmp_path, capsys):
    config, exported = run
    ids, texts, expected = own(config)
    longest = {"visit_id": "longest", "input": "w01 w02 " * 100}
    source = write_jsonl(
        tmp_path / "in.json",
        [longest, *({"visit_id": name, "input": text} for name, text in zip(ids, texts, strict=True))][::-1],
    )
    assert (
        main(["predict", source, "--model", str(exported), "--out", str(tmp_path / "out"), "data.shard_rows=30"]) == 0
    )
    rows = {
        row["visit_id"]: row["probabilities"] for row in pq.read_table(tmp_path / "out" / "predictions").to_pylist()
    }
    np.testing.assert_allclose([rows[name] for name in ids], expected, atol=1e-5)
    lost = {"head_tail": sum(len(text.split()) > LENGTH - 2 for text in texts) + 1, "windows": 1}[
        config.student.long_text
    ]
    where = {"head_tail": "their middle", "windows": f"beyond {MOST} windows"}[config.student.long_text]
    told = capsys.readouterr().out
    assert f"{lost} of {len(texts) + 1} visits are longer than the {LENGTH} tokens" in told and where in told


def test_the_card_s_rule_alone_gives_the_same_figures(run):
    """Long texts by the words on the card, without this project's code."""
    config, exported = run
    _, texts, expected = own(config)
    card = (exported / "README.md").read_text()
    assert (
        f"n = {LENGTH} tokens less the tokenizer's special tokens" in card
        and "`truncation=True` cuts at the end instead" in card
    )
    model = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    vocabulary = json.loads((exported / "tokenizer.json").read_text())["model"]["vocab"]
    n = LENGTH - 2
    for text, probabilities in zip(texts, expected, strict=True):
        ids = [vocabulary[word] for word in text.split()]
        if len(ids) <= n:
            pieces = [ids]
        elif config.student.long_text == "head_tail":
            assert "round(n · 0.250980)" in card
            pieces = [ids[: round(n * 0.250980)] + ids[-(n - round(n * 0.250980)) :]]
        else:
            assert (
                "Each begins n - floor(n · 0.25) tokens after the one before" in card
                and "the mean of its windows' logits" in card
            )
            starts = [start for start in range(0, len(ids), n - n // 4) if start + n < len(ids)] + [len(ids) - n]
            assert all(a < b for a, b in pairwise(starts))
            pieces = [ids[start : start + n] for start in starts[:8]]
        with torch.no_grad():
            logits = torch.stack([model(input_ids=torch.tensor([[2, *piece, 3]])).logits[0] for piece in pieces]).mean(
                0
            )
        np.testing.assert_allclose(torch.sigmoid(logits), probabilities, atol=1e-5)


def test_how_long_texts_are_read_is_in_the_folder_and_in_the_fingerprint(run):
    config, exported = run
    for folder in (f"{config.run.folder}/student", str(exported)):
        model = ModelFolder.open(folder)
        assert model.long_text == config.student.long_text == model.fields["student.long_text"]


def test_a_way_of_a_later_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("x")
    FolderArtifact(str(tmp_path), {"student.max_length": 8, "student.long_text": "summary"}).commit(
        ["config.json", "model.safetensors"]
    )
    with pytest.raises(ConfigError, match="student.long_text=summary, which this version does not know"):
        ModelFolder.open(str(tmp_path))
