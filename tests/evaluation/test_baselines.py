import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from ckd.config import EvaluationConfig
from ckd.errors import DataError
from ckd.evaluation import logistic
from ckd.evaluation.baselines import (
    BASELINES,
    NAMES,
    Baseline,
    NotComputable,
    Predictions,
    fit_all,
    persist,
    persistence_rates,
)
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.scores import NotComputableError, Splits, read_split, texts
from ckd.evaluation.tfidf import fit_tfidf, sample
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, NUM_LABELS
from tests.evaluation.evaluation_cohort import make_visits, rows_of, write_all, write_cohort


def examples(x, y):
    return logistic.Examples(x, y, np.ones_like(y))


def fitted(root, visits):
    cohort = write_cohort(root, visits)
    splits = [read_split(cohort, split) for split in ("train", "tuning", "held_out")]
    return splits, fit_all(Splits(cohort, *splits), 0, lambda line: None)


def test_every_baseline_gives_a_probability_per_visit_and_label(tmp_path):
    (_, tuning, held_out), results = fitted(tmp_path, make_visits())
    assert tuple(results) == NAMES
    for result in results.values():
        assert result.tuning.shape == tuning.labels.shape and result.held_out.shape == held_out.labels.shape
        assert result.held_out.dtype == np.float32
        assert ((result.held_out >= 0) & (result.held_out <= 1)).all()


def test_one_row_of_the_table_is_all_that_a_baseline_needs(tmp_path, monkeypatch):
    def guess(data, seed):
        return Predictions(
            *(np.full((len(rows), NUM_LABELS), 0.5, np.float32) for rows in (data.tuning, data.held_out))
        )

    monkeypatch.setitem(BASELINES, "guess", Baseline("A guess", "A coin for everyone.", "nothing", guess))
    said = []
    cohort = write_all(tmp_path, make_visits((60, 60, 60)))
    metrics = evaluate(cohort, seed=0, say=said.append, wanted=EvaluationConfig(resamples=100))
    assert metrics["held_out"]["baselines"]["guess"]["macro"]["auroc"] == 0.5
    assert "guess" in metrics["comparisons"]["student"] and "baselines: nothing" in said
    assert "guess" in metrics["headline"]["strongest_baseline_tuning"]


def test_prevalence_is_the_train_share_and_copy_forward_the_current_labels(tmp_path):
    (train, _, held_out), results = fitted(tmp_path, make_visits())
    assert results["prevalence"].held_out[7] == pytest.approx(train.labels.mean(0))
    assert (results["copy_forward"].held_out == held_out.current).all()


def test_persistence_of_a_small_example_by_hand():
    now, following = np.zeros((5, NUM_LABELS), dtype=bool), np.zeros((5, NUM_LABELS), dtype=bool)
    now[:2, 0] = True
    following[[0, 2], 0] = True
    rates = persistence_rates(now, following, np.ones_like(now))
    # prevalence 2/5; present now: 1 of 2 stay; absent now: 1 of 3 appear; each gets two visits' worth of prevalence
    assert rates[1, 0] == pytest.approx((1 + 2 * 0.4) / (2 + 2))
    assert rates[0, 0] == pytest.approx((1 + 2 * 0.4) / (3 + 2))
    assert rates[1, 1] == rates[0, 1] == 0
    assert persist(rates, now)[:, 0] == pytest.approx([0.45, 0.45, 0.36, 0.36, 0.36])


def test_a_state_never_seen_in_train_falls_back_to_the_prevalence():
    now, following = np.zeros((4, NUM_LABELS), dtype=bool), np.zeros((4, NUM_LABELS), dtype=bool)
    following[0, 0] = True
    assert persistence_rates(now, following, np.ones_like(now))[1, 0] == pytest.approx(0.25)


def test_earlier_visits_help_where_the_current_one_does_not_tell_all(tmp_path):
    visits = make_visits((900, 200, 400))
    for row in range(1, len(visits), 2):  # the second visit's next labels are the first visit's own labels
        visits[row] = dataclasses.replace(visits[row], labels=visits[row - 1].current_labels)
    (_, _, held_out), results = fitted(tmp_path, visits)
    second = np.arange(len(held_out)) % 2 == 1

    def mean_auroc(name):
        return np.mean(
            [roc_auc_score(held_out.labels[second, j], results[name].held_out[second, j]) for j in range(NUM_LABELS)]
        )

    assert mean_auroc("history_logreg") > 0.9 and mean_auroc("label_logreg") < 0.6
    assert results["history_logreg"].notes["train_visits"] == 900


def test_current_labels_help_every_label_and_words_help_the_labels_they_tell_of(tmp_path):
    (_, _, held_out), results = fitted(tmp_path, make_visits((1500, 300, 600)))

    def mean_auroc(name, labels):
        return np.mean([roc_auc_score(held_out.labels[:, j], results[name].held_out[:, j]) for j in labels])

    assert mean_auroc("prevalence", range(25)) == 0.5
    assert mean_auroc("persistence", range(25)) > 0.65 and mean_auroc("label_logreg", range(25)) > 0.65
    assert mean_auroc("tfidf_logreg", range(6)) > 0.58
    assert 0.45 < mean_auroc("tfidf_logreg", range(6, 25)) < 0.55


def test_unknown_current_labels_are_a_reason_and_the_rest_is_computed(tmp_path):
    visits = make_visits(known=False)
    _, results = fitted(tmp_path, visits)
    for name in ("copy_forward", "persistence", "label_logreg"):
        assert isinstance(results[name], NotComputable)
        assert results[name].reason.startswith("current labels unknown for 120 of 120 tuning visits")
    assert not isinstance(results["tfidf_logreg"], NotComputable)


def test_without_the_column_the_treatment_clause_names_the_current_labels(tmp_path):
    visits = []
    for row, visit in enumerate(make_visits((60, 40, 40), known=False)):
        disease = DISEASES[row % NUM_LABELS]
        visits.append(
            dataclasses.replace(visit, input=render_input([disease], ["aspirin"], [], {disease: ["aspirin"]}))
        )
    (_, _, held_out), results = fitted(tmp_path, visits)
    assert held_out.from_clause.all() and not held_out.current_known.any()
    assert (results["copy_forward"].held_out.sum(1) == 1).all()
    assert results["copy_forward"].held_out[0].argmax() == 100 % NUM_LABELS
    assert results["persistence"].notes["current_labels_from"] == "treatment clause"


def test_one_held_out_visit_with_unknown_current_labels_makes_them_not_computable(tmp_path):
    visits = make_visits((60, 40, 40))
    visits[-1] = dataclasses.replace(visits[-1], current_labels=None)
    _, results = fitted(tmp_path, visits)
    assert "1 of 40 held_out visits" in results["persistence"].reason


def test_the_one_c_of_the_logistic_regressions_has_the_least_tuning_log_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 8)), rng.random((120, NUM_LABELS)) < 0.4
    grid = (0.01, 0.1, 1.0)
    model = logistic.fit(examples(x[:80], y[:80]), examples(x[80:], y[80:]), grid)
    losses = {}
    for c in grid:
        singles = [LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(x[:80], y[:80, j]) for j in range(NUM_LABELS)]
        losses[c] = np.mean([log_loss(y[80:, j], m.predict_proba(x[80:])[:, 1]) for j, m in enumerate(singles)])
        if c == model.c:
            assert model.predict(x[80:])[:, 3] == pytest.approx(singles[3].predict_proba(x[80:])[:, 1], abs=5e-3)
    assert model.c == min(losses, key=losses.get)
    assert logistic.log_loss(y[80:], model.logits(x[80:]), np.ones_like(y[80:])) == pytest.approx(
        losses[model.c], abs=1e-4
    )


def test_a_label_with_one_class_in_train_gets_a_constant_probability():
    x, y = np.eye(4), np.zeros((4, NUM_LABELS), dtype=bool)
    y[:2, 0], y[:, 1] = True, True
    p = logistic.fit(examples(x, y), examples(x, y), (1.0,)).predict(x)
    assert p[:, 1] == pytest.approx([4.5 / 5] * 4) and p[:, 2] == pytest.approx([0.5 / 5] * 4)
    assert p[0, 0] > p[3, 0]


def test_without_tuning_visits_the_middle_of_the_grid_stands_and_is_said():
    x, y = np.eye(4), np.zeros((4, NUM_LABELS), dtype=bool)
    model = logistic.fit(examples(x, y), examples(x[:0], y[:0]), (0.1, 1.0, 10.0))
    assert (model.c, model.tuned) == (1.0, False)


def test_tfidf_fits_on_a_seeded_sample_of_the_right_rows(tmp_path):
    cohort = write_cohort(tmp_path, make_visits((200, 40, 40)))
    train, tuning = read_split(cohort, "train"), read_split(cohort, "tuning")
    model = fit_tfidf(texts(cohort, "train"), train, texts(cohort, "tuning"), tuning, seed=3, max_train=50)
    chosen = sample(200, 50, 3)
    everything = [text for shard in texts(cohort, "train") for text in shard]
    rows = rows_of(train.labels[chosen])
    again = fit_tfidf([[everything[i] for i in chosen]], rows, texts(cohort, "tuning"), tuning, seed=3)
    assert model.trained_on == 50
    assert (model.predict(texts(cohort, "held_out")) == again.predict(texts(cohort, "held_out"))).all()


def test_texts_without_a_word_are_a_reason():
    two, none = (rows_of(np.zeros((n, NUM_LABELS), dtype=bool)) for n in (2, 0))
    with pytest.raises(NotComputableError):
        fit_tfidf([["...", "!"]], two, [], none, seed=0)


def test_the_errors_of_a_broken_text_are_not_taken_for_missing_words():
    def broken():
        yield ["some words"]
        raise DataError("broken")

    two, none = (rows_of(np.zeros((n, NUM_LABELS), dtype=bool)) for n in (2, 0))
    with pytest.raises(DataError):
        fit_tfidf(broken(), two, [], none, seed=0)
