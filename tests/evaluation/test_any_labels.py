"""One label, 18 of which some are unknown, 283: evaluated as scikit-learn does it on the known cells."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from ckd.config import EvaluationConfig
from ckd.evaluation import evaluate as module
from ckd.evaluation import logistic
from ckd.evaluation.baselines import NotComputable, fit_all, persistence_rates, prevalence
from ckd.evaluation.bootstrap import Draws, resample
from ckd.evaluation.calibrate import calibrate
from ckd.evaluation.metrics import METRICS, macro_labels, score
from ckd.evaluation.scores import Splits, read_split
from ckd.evaluation.table import render
from ckd.evaluation.thresholds import best_threshold, choose_thresholds, sensitivity_threshold
from tests.evaluation.evaluation_cohort import hidden, make_visits, noisy, rows_of, task_of, write_cohort, write_stage

WANTED = EvaluationConfig(resamples=100)
MIXED = task_of(18, L16={"given": "column"}, L17={"readmission_days": 30})


def evaluated(root, visits, known, task, **more):
    """metrics.json of these visits, of which `known` [visits, L] is to be seen; the models know all of it."""
    seen = [
        dataclasses.replace(v, labels=hidden(v.labels, ~here), current_labels=now(v, task))
        for v, here in zip(visits, known, strict=True)
    ]
    cohort = write_cohort(root, seen, task=task)
    write_stage(cohort, "predictions", noisy(visits, 1))
    write_stage(cohort, "soft_labels", noisy(visits, 2))
    return cohort, module.evaluate(cohort, seed=0, wanted=WANTED, say=lambda _: None, **more)


def now(visit, task):
    """What of the present visit is known: nothing of labels that no code can make true."""
    return hidden(visit.current_labels, [not label.ccs for label in task.labels])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """18 labels: a fifth of the cells unknown; L3 known for a fifth of the visits, L4 for none of train."""
    visits = make_visits((160, 80, 100), task=MIXED)
    known = np.random.default_rng(5).random((len(visits), 18)) < 0.8
    known[:, 3] = np.arange(len(visits)) % 5 == 0
    known[:160, 4] = False
    return *evaluated(tmp_path_factory.mktemp("mixed"), visits, known, MIXED), visits, known


def of_split(visits, split, values):
    return np.array([values[i] for i, v in enumerate(visits) if v.split == split])


def test_every_figure_is_scikit_learns_on_the_known_cells(mixed):
    cohort, metrics, visits, known = mixed
    labels = of_split(visits, "held_out", [v.labels for v in visits])
    here, p = of_split(visits, "held_out", known), read_split(cohort, "held_out", ["predictions"]).scores["predictions"]
    rates = metrics["train_prevalence"]
    found = metrics["held_out"]["student"]
    for j, name in enumerate(MIXED.names):
        y, q, row = labels[here[:, j], j], p[here[:, j], j].astype(float), found["per_label"][name]
        assert (row["n"], row["positives"]) == (here[:, j].sum(), y.sum())
        assert row["auroc"] == pytest.approx(sk.roc_auc_score(y, q))
        assert row["auprc"] == pytest.approx(sk.average_precision_score(y, q))
        assert row["brier"] == pytest.approx(sk.brier_score_loss(y, q))
        assert row["f1_at_05"] == pytest.approx(sk.f1_score(y, q >= 0.5))
        if name != "L4":
            mine = of_split(visits, "train", known)[:, j]
            assert rates[name] == pytest.approx(of_split(visits, "train", [v.labels for v in visits])[mine, j].mean())
            skill = 1 - sk.brier_score_loss(y, q) / np.mean((rates[name] - y) ** 2)
            assert row["brier_skill"] == pytest.approx(skill)
    assert rates["L4"] is None and found["per_label"]["L4"]["brier_skill"] is None
    assert found["micro"]["auroc"] == pytest.approx(sk.roc_auc_score(labels[here], p[here]))
    chosen = [row["disease"] for row in metrics["labels_in_macro"]]
    assert "L3" not in chosen and found["macro"]["auroc"] == pytest.approx(
        np.mean([found["per_label"][name]["auroc"] for name in chosen])
    )
    public = metrics["public_code_metrics"]["student"]
    assert public["accuracy"] == pytest.approx(np.mean(labels[here] == (p[here] > 0.5)))


def test_it_is_said_on_how_many_visits_a_label_is_known(mixed):
    _, metrics, visits, known = mixed
    here = of_split(visits, "held_out", known)
    assert metrics["counts"]["known"]["held_out"] == {f"L{j}": here[:, j].sum() for j in range(18)}
    assert metrics["counts"]["known"]["train"]["L4"] == 0
    of_macro = [row["n"] for row in metrics["labels_in_macro"]]
    assert f"each label known on {min(of_macro)} to {max(of_macro)}" in render(metrics)
    assert metrics["task"] == {
        "name": "made",
        "labels": 18,
        "meanings": ["codes at the next visit", "given", "readmission within a time"],
    }
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_baselines_use_what_is_known_and_what_cannot_be_now_is_at_its_training_rate(mixed):
    cohort, metrics, visits, known = mixed
    baselines = metrics["held_out"]["baselines"]
    assert baselines["copy_forward"]["macro"] is None
    assert baselines["copy_forward"]["reason"] == "2 of 18 labels cannot be there at the present visit"
    assert baselines["persistence"]["notes"]["labels_without_present"] == 2
    splits = Splits(cohort, *(read_split(cohort, split) for split in ("train", "tuning", "held_out")))
    results = fit_all(splits, 0, lambda _: None)
    assert np.allclose(results["persistence"].held_out[:, 17], metrics["train_prevalence"]["L17"])
    present = np.array([v.current_labels[0] for v in visits]) & known[:, 0]
    y = np.array([v.labels[0] for v in visits])
    train = np.arange(len(visits)) < 160
    stay = y[present & train]
    expected = (stay.sum() + 2 * metrics["train_prevalence"]["L0"]) / (len(stay) + 2)
    rows = of_split(visits, "held_out", [v.current_labels[0] for v in visits])
    assert results["persistence"].held_out[rows, 0] == pytest.approx(expected)
    assert (results["prevalence"].held_out[:, 4] == 0.5).all(), "no training visit knows it"


@pytest.mark.parametrize("split", ["train", "tuning", "held_out"])
def test_what_stands_in_a_masked_cell_changes_no_figure(mixed, monkeypatch, split):
    cohort, metrics, _, _ = mixed

    def flipped(cohort, name, stages=()):
        rows = read_split(cohort, name, stages)
        return dataclasses.replace(rows, labels=rows.labels ^ (~rows.known & (name == split)))

    monkeypatch.setattr(module, "read_split", flipped)
    again = module.evaluate(cohort, seed=0, wanted=WANTED, say=lambda _: None)
    assert again == metrics


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 18]))
def test_a_masked_cell_is_in_no_fit_draw_or_threshold(seed, count):
    rng = np.random.default_rng(seed)
    labels, known = rng.random((60, count)) < 0.4, rng.random((60, count)) < 0.6
    p, task = rng.random((60, count)).astype(np.float32), task_of(count)
    other = labels ^ (~known & (rng.random(known.shape) < 0.7))
    draws, rates = Draws(np.arange(60) // 2, 30, 40, 0, True), np.full(count, 0.3)
    found = []
    for y in (labels, other):
        rows = rows_of(y, known, task=task, groups=(np.arange(60) // 2).astype(np.uint64))
        fitted = calibrate(rows, p, WANTED, 0)
        chosen = macro_labels(y, known, 5)
        examples = logistic.Examples(p, y, known)
        found.append(
            [
                *(fitted.maps, fitted.thresholds.tolist(), fitted.reasons, chosen),
                score(y, p, known, p >= 0.5, rates, chosen, task.names),
                np.nan_to_num(resample(draws, y, p, known, p >= 0.5, rates, chosen), nan=-1).tolist(),
                np.nan_to_num(prevalence(y, known), nan=-1).tolist(),
                persistence_rates(p > 0.5, y, known).tolist(),
                logistic.fit(examples, examples, (0.1, 1.0)).weight.tolist(),
            ]
        )
    assert found[0] == found[1]


def test_a_draw_weighs_only_known_cells_and_counts_as_repeated_rows_do():
    rng = np.random.default_rng(0)
    labels, known = rng.random((80, 3)) < 0.4, rng.random((80, 3)) < 0.6
    p, members = rng.random((80, 3)), np.arange(80) // 2
    draws = Draws(members, 40, 5, 0, True)
    found = resample(draws, labels, p, known, p >= 0.5, np.full(3, 0.3), range(3))
    for r in range(5):
        drawn = np.random.default_rng((0, r)).integers(40, size=40)
        rows = np.concatenate([np.flatnonzero(members == g) for g in drawn])
        for j in range(3):
            at = rows[known[rows, j]]
            assert found[r, j, list(METRICS).index("auroc")] == pytest.approx(sk.roc_auc_score(labels[at, j], p[at, j]))


def test_a_labels_own_threshold_takes_the_place_of_the_configured_one():
    task = task_of(3, L1={"ccs": [2], "threshold": {"for": "sensitivity", "target": 0.9}})
    rng = np.random.default_rng(1)
    labels, known = rng.random((200, 3)) < 0.4, rng.random((200, 3)) < 0.7
    p = rng.random((200, 3))
    chosen = choose_thresholds(rows_of(labels, known, task=task), p, WANTED).values
    columns = [(labels[known[:, j], j], p[known[:, j], j]) for j in range(3)]
    assert chosen[1] == sensitivity_threshold(*columns[1], 0.9)
    assert [chosen[0], chosen[2]] == [best_threshold(*columns[0]), best_threshold(*columns[2])]


def test_readmission_alone_has_no_present_and_says_why(tmp_path):
    task = task_of(1, L0={"readmission_days": 30})
    visits = make_visits((80, 60, 80), task=task, often=0.5)
    cohort, metrics = evaluated(tmp_path, visits, np.ones((220, 1), bool), task)
    baselines, student = metrics["held_out"]["baselines"], metrics["held_out"]["student"]
    for name in ("copy_forward", "persistence", "label_logreg", "history_logreg"):
        assert baselines[name]["macro"] is None
    assert baselines["persistence"]["reason"] == "current labels unknown for 60 of 60 tuning visits"
    assert student["new_onset"] == {
        **dict.fromkeys(("macro", "micro", "per_label")),
        "reason": "current labels unknown for every held_out visit",
    }
    labels, p = (read_split(cohort, "held_out", ["predictions"]) for _ in range(2))
    assert "1 label)" in metrics["headline"]["sentence"]
    expected = sk.roc_auc_score(labels.labels[:, 0], p.scores["predictions"][:, 0])
    assert student["macro"]["auroc"] == pytest.approx(expected) == student["micro"]["auroc"]
    assert (
        metrics["headline"]["strongest_baseline"] in ("prevalence", "tfidf_logreg") and "known" not in metrics["counts"]
    )
    assert "new onset" not in render(metrics).split("macro over")[1]


def test_many_labels_are_fitted_on_a_sparse_design_with_the_same_optimum():
    rng = np.random.default_rng(0)
    x = rng.random((150, logistic.MOST_DENSE + 1)) < 0.05
    wide = logistic.design(x)
    assert not isinstance(wide, np.ndarray) and isinstance(logistic.design(x[:, :50], x[:, 50:100]), np.ndarray)
    y, known = rng.random((150, 2)) < 0.4, rng.random((150, 2)) < 0.7
    found = logistic.fit(logistic.Examples(wide, y, known), logistic.Examples(wide, y, known), (1.0,)).predict(wide)
    for j in range(2):
        one = LogisticRegression(tol=1e-8, max_iter=1000).fit(x[known[:, j]], y[known[:, j], j])
        assert found[:, j] == pytest.approx(one.predict_proba(x)[:, 1], abs=0.03)


def test_a_present_label_that_one_visit_does_not_tell_of_makes_its_baselines_not_computable(tmp_path):
    task = task_of(3)
    visits = make_visits((60, 40, 40), task=task)
    visits[-1] = dataclasses.replace(visits[-1], current_labels=(True, None, False))
    cohort = write_cohort(tmp_path, visits, task=task)
    splits = Splits(cohort, *(read_split(cohort, split) for split in ("train", "tuning", "held_out")))
    results = fit_all(splits, 0, lambda _: None)
    assert results["persistence"] == NotComputable("current labels unknown for 1 of 40 held_out visits")
    assert results["history_logreg"].reason == "held_out visits with unknown current labels: at least 1"
