import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from ckd.config import EvaluationConfig
from ckd.errors import DataError
from ckd.evaluation.baselines import NAMES
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.headline import sentence
from ckd.evaluation.table import render
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.evaluation.evaluation_cohort import (
    MARKER,
    as_lists,
    make_visits,
    noisy,
    write_all,
    write_cohort,
    write_stage,
)

SHAPE = {"macro", "micro", "per_label", "new_onset", "persistent"}
FIGURES = {"auroc", "auprc", "brier", "brier_skill", "f1", "f1_at_05", "prevalence"}


def run(root, **arguments):
    return evaluate(
        Cohort.open(str(root)),
        **{"seed": 0, "wanted": EvaluationConfig(resamples=300), "say": lambda line: None, **arguments},
    )


@pytest.fixture(scope="module")
def visits():
    return make_visits()


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, visits):
    root = tmp_path_factory.mktemp("run")
    write_all(root, visits, facts={"teacher_saw_held_out": True})
    return run(root, adapter_optimism=0.02)


def test_every_model_has_the_promised_names(metrics):
    held_out = metrics["held_out"]
    assert set(held_out) == {"student", "teacher", "baselines"} and tuple(held_out["baselines"]) == NAMES
    for block in [held_out["student"], held_out["teacher"], *held_out["baselines"].values()]:
        assert set(block) - {"notes"} == SHAPE
        for part in (block, block["new_onset"], block["persistent"]):
            assert set(part["macro"]) - {"labels", "intervals"} == set(part["micro"]) - {"n", "intervals"} == FIGURES
            assert list(part["per_label"]) == list(DISEASES)
            assert set(part["per_label"][DISEASES[0]]) - {"n", "positives", "intervals"} == FIGURES
            assert set(part["macro"]["intervals"]) == set(part["per_label"][DISEASES[0]]["intervals"]) == FIGURES
    for model in ("student", "teacher"):
        assert set(metrics["public_code_metrics"][model]) == {"f1", "accuracy", "aupr", "auc"}
    assert metrics["adapter_optimism"] == 0.02 and metrics["teacher_saw_held_out"] is True


def test_the_figures_are_strict_json_without_patient_text(metrics):
    text = json.dumps(metrics, allow_nan=False)
    assert json.loads(text) == metrics
    assert MARKER not in text and MARKER not in render(metrics)
    assert "held_out-1" not in text  # no ids either: figures only


def test_the_macro_set_is_listed_with_its_counts_and_is_the_same_for_every_model(metrics, visits):
    held_out = [v for v in visits if v.split == "held_out"]
    for row in metrics["labels_in_macro"]:
        j = DISEASES.index(row["disease"])
        assert (row["n"], row["positives"]) == (len(held_out), sum(v.labels[j] for v in held_out))
        assert row["positives"] >= 10 and row["n"] - row["positives"] >= 10
    for row in metrics["labels_in_macro_persistent"]:
        j = DISEASES.index(row["disease"])
        assert row["positives"] == sum(v.labels[j] and v.current_labels[j] for v in held_out)
    sizes = {block["macro"]["labels"] for block in metrics["held_out"]["baselines"].values()}
    assert sizes == {len(metrics["labels_in_macro"])}


def test_new_onset_and_persistent_part_every_labels_visits(metrics):
    student = metrics["held_out"]["student"]
    for disease in DISEASES:
        whole, onset, stay = (
            part["per_label"][disease] for part in (student, student["new_onset"], student["persistent"])
        )
        assert onset["n"] + stay["n"] == whole["n"] and onset["positives"] + stay["positives"] == whole["positives"]
    copies = metrics["held_out"]["baselines"]["copy_forward"]
    assert copies["new_onset"]["macro"]["auroc"] == copies["persistent"]["macro"]["auroc"] == 0.5  # constant there
    assert metrics["held_out"]["baselines"]["prevalence"]["macro"]["auroc"] == 0.5


def test_held_out_labels_change_no_threshold_and_no_choice_of_baseline(tmp_path, visits, metrics):
    changed = [
        dataclasses.replace(v, labels=tuple(not flag for flag in v.labels)) if v.split == "held_out" else v
        for v in visits
    ]
    cohort = write_cohort(tmp_path, changed)
    write_stage(cohort, "predictions", noisy(visits, 1))
    write_stage(cohort, "soft_labels", noisy(visits, 2))
    other = run(tmp_path)
    assert other["thresholds"] == metrics["thresholds"]
    for key in ("strongest_baseline", "strongest_baseline_tuning", "chosen_by"):
        assert other["headline"][key] == metrics["headline"][key]
    for name in NAMES:
        assert other["held_out"]["baselines"][name].get("notes") == metrics["held_out"]["baselines"][name].get("notes")
    assert other["held_out"]["student"]["macro"]["auroc"] != metrics["held_out"]["student"]["macro"]["auroc"]


def test_a_good_student_beats_the_strongest_baseline(metrics):
    found = metrics["headline"]
    assert found["strongest_baseline"] in ("persistence", "label_logreg", "history_logreg")
    assert found["difference"] == pytest.approx(found["student"] - found["baseline"])
    low, high = found["interval"]
    assert 0 < low < found["difference"] < high
    assert found["p"] == pytest.approx(2 / 301) and found["resamples"] == 300
    assert "beats" in found["sentence"]
    assert found["against_persistence"]["interval"][0] > 0


def test_intervals_hold_the_figures_and_every_other_model_is_compared(metrics):
    for block in [metrics["held_out"]["student"], *metrics["held_out"]["baselines"].values()]:
        for part in (block, block["new_onset"], block["persistent"]):
            low, high = part["macro"]["intervals"]["brier"]
            assert low <= part["macro"]["brier"] <= high
    compared = metrics["comparisons"]["student"]
    assert set(compared) == {"teacher", *NAMES}
    strongest = metrics["headline"]["strongest_baseline"]
    assert compared[strongest]["macro"]["auroc"]["interval"] == metrics["headline"]["interval"]
    rows = compared["persistence"]["per_label"]
    assert list(rows) == [row["disease"] for row in metrics["labels_in_macro"]]
    assert all(row["p"] <= row["p_holm"] <= 1 for row in rows.values())


def test_a_student_that_knows_nothing_loses_aloud(tmp_path, visits):
    write_all(tmp_path, visits, student_noise=100)
    metrics = run(tmp_path)
    found = metrics["headline"]
    assert found["difference"] < 0 and found["interval"][1] < 0
    assert "loses to" in found["sentence"]


def test_an_interval_around_zero_decides_nothing():
    compared = {
        "student": 0.71,
        "baseline": 0.70,
        "difference": 0.01,
        "interval": [-0.02, 0.04],
        "interval_reason": None,
        "interval_note": None,
    }
    assert "is above persistence" in sentence("persistence", compared, 9) and "does not decide" in sentence(
        "persistence", compared, 9
    )


def test_few_patients_give_no_interval_and_few_visits_no_macro(tmp_path):
    small = make_visits((60, 30, 16))
    write_all(tmp_path, small)
    found = run(tmp_path)
    assert found["headline"]["interval"] is None and found["headline"]["interval_reason"] == "8 patients, fewer than 30"
    assert found["labels_in_macro"] == [] and found["held_out"]["student"]["macro"]["auroc"] is None
    assert found["headline"]["sentence"].startswith("No headline")
    assert found["intervals"]["reason"] == "8 patients, fewer than 30" and found["intervals"]["resamples"] == 0
    assert set(found["held_out"]["student"]["micro"]["intervals"].values()) == {
        None
    } and "no intervals: 8 patients, fewer than 30" in render(found)
    assert any(line.startswith("small sample: 25 of 25") for line in found["warnings"])
    assert "small sample" in render(found)


def test_without_tuning_visits_thresholds_stay_and_it_is_said(tmp_path):
    write_all(tmp_path, make_visits((60, 0, 60)))
    found = run(tmp_path)
    assert set(found["thresholds"]["student"]["values"].values()) == {0.5}
    assert set(found["thresholds"]["student"]["kept_at_05"].values()) == {"no tuning visits"}
    assert (
        found["headline"]["strongest_baseline"] == "persistence"
        and "without a comparison" in found["headline"]["chosen_by"]
    )
    assert any("thresholds stay at 0.5 for 25 labels" in line for line in found["warnings"])


def test_unknown_current_labels_are_null_with_the_reason(tmp_path):
    write_all(tmp_path, make_visits((60, 60, 60), known=False, subjects=False))
    found = run(tmp_path)
    block = found["held_out"]["baselines"]["copy_forward"]
    assert block["macro"] is None and block["reason"].startswith("current labels unknown")
    assert found["held_out"]["student"]["new_onset"] == {
        "macro": None,
        "micro": None,
        "per_label": None,
        "reason": "current labels unknown for every held_out visit",
    }
    assert found["headline"]["against_persistence"] is None
    assert any("without subject_id" in line for line in found["warnings"])
    assert (
        found["intervals"]["note"].startswith("probably too narrow")
        and found["intervals"]["group"] == "identical input"
    )
    assert "probably too narrow" in found["headline"][
        "sentence"
    ] and "draws of 60 identical inputs; probably too narrow" in render(found)
    assert json.dumps(found, allow_nan=False) and "copy_forward" in render(found)


def test_ceilings_are_scored_like_models(tmp_path, visits):
    write_all(tmp_path, visits)
    held_out = [v for v in visits if v.split == "held_out"]
    perfect = as_lists([np.array(v.labels, dtype=np.float32) for v in held_out])
    found = run(tmp_path, ceilings=pa.table({"visit_id": [v.visit_id for v in held_out], "oracle": perfect}))
    assert found["held_out"]["oracle"]["macro"]["auroc"] == 1 and found["held_out"]["oracle"]["macro"]["brier"] == 0
    student = found["held_out"]["student"]["macro"]["auroc"]
    assert found["ceilings"]["oracle"]["share_of_gain"] == pytest.approx((student - 0.5) / 0.5)
    assert "oracle's AUROC gain" in render(found)
    assert "no tuning probabilities of oracle: macro F1 is at 0.5 there" in found["warnings"]


def test_nothing_to_evaluate_is_a_user_error(tmp_path):
    write_all(tmp_path, make_visits((60, 20, 0)))
    with pytest.raises(DataError, match=r"no labelled held_out visits.*data.held_out"):
        run(tmp_path)


def test_the_last_line_is_the_headline_of_the_report_which_claims_nothing_from_few_patients(metrics):
    few = metrics["counts"]["held_out"]
    assert few["groups"] < 100
    assert (
        render(metrics)
        .split("\n")[-1]
        .startswith("This sample shows nothing about performance: fewer than 100 held-out patients.")
    )
    many = metrics | {"counts": metrics["counts"] | {"held_out": few | {"groups": 100}}}
    assert render(many).split("\n")[-1] == metrics["headline"]["sentence"]


def test_the_table_is_aligned_and_shows_every_model(metrics):
    lines = render(metrics).split("\n")
    rows = lines[: 2 + 2 + len(NAMES)]
    assert len({len(line) for line in rows}) == 1
    assert [line.split()[0] for line in rows[2:]] == ["student", "teacher", *NAMES]
    assert f"{metrics['held_out']['student']['macro']['auroc']:.3f}" in rows[2]
    assert "teacher_saw_held_out: yes" in lines
    gap = metrics["comparisons"]["student"]["teacher"]["macro"]["auroc"]
    assert any(
        line.startswith("student - teacher") and f"{gap['difference']:+.3f} ({gap['interval'][0]:+.3f} to" in line
        for line in lines
    )
    assert "95 % intervals: 300 paired bootstrap draws of 80 subjects" in lines
    assert all(part["macro"]["labels"] <= NUM_LABELS for part in metrics["held_out"]["baselines"].values())
