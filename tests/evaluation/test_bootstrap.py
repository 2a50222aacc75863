import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ckd.evaluation import bootstrap, ranking
from ckd.evaluation.bootstrap import MICRO, Draws, interval, macro, resample, with_intervals
from ckd.evaluation.comparisons import compare
from ckd.evaluation.metrics import METRICS, Metric, score
from ckd.evaluation.ranking import Ranking
from ckd.visits.labels import DISEASES, NUM_LABELS

RATES, THRESHOLDS = np.linspace(0.1, 0.6, NUM_LABELS), np.linspace(0.2, 0.9, NUM_LABELS)


def sample(subjects=40, seed=0):
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(subjects), rng.integers(1, 4, subjects))
    labels = rng.random((len(members), NUM_LABELS)) < 0.3
    labels[:, 5] = np.arange(len(members)) == 0  # one positive visit: many draws have none
    p = np.round(rng.random(labels.shape) * 0.6 + 0.4 * labels * rng.random(labels.shape), 1)  # ties
    p[:, 7] = rng.random(len(members))  # no ties
    cells = rng.random(labels.shape) < 0.8
    return members, labels, p, cells


def draws_of(members, resamples=20, seed=3):
    return Draws(members, int(members.max()) + 1, resamples, seed, True)


def slow(members, labels, p, cells, draws):
    """The figures of every draw from really repeated rows and the metrics that everything else is scored with."""
    rows_of = [np.flatnonzero(members == g) for g in range(draws.groups)]
    for r in range(draws.resamples):
        drawn = np.random.default_rng((draws.seed, r)).integers(draws.groups, size=draws.groups)
        rows = np.concatenate([rows_of[g] for g in drawn])
        block = score(labels[rows], p[rows], cells[rows], p[rows] >= THRESHOLDS, RATES, range(NUM_LABELS), DISEASES)
        figures = [[block["per_label"][d][m] for m in METRICS] for d in DISEASES] + [
            [block["micro"][m] for m in METRICS]
        ]
        yield np.array(figures, dtype=float)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_a_weight_counts_as_in_scikit_learn_whatever_the_ties(rows):
    y, p, w = np.array([r[0] for r in rows]), np.array([r[1] / 3 for r in rows]), np.array([r[2] for r in rows])
    area, precision = Ranking(y, p, np.arange(len(y)), len(y)).figures(w[:, None])
    if y[w > 0].any():
        assert precision[0] == pytest.approx(average_precision_score(y, p, sample_weight=w), abs=1e-12)
    else:
        assert np.isnan(precision[0])
    if len(set(y[w > 0])) == 2:
        assert area[0] == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    else:
        assert np.isnan(area[0])


@pytest.mark.parametrize("decimals", [1, 3, 16])
def test_many_steps_in_small_blocks_equal_scikit_learn(monkeypatch, decimals):
    monkeypatch.setattr(ranking, "_STEPS_AT_ONCE", 21)  # 7 steps at once
    rng = np.random.default_rng(1)
    y, p, groups, counts = (
        rng.random(500) < 0.3,
        np.round(rng.random(500), decimals),
        rng.integers(90, size=500),
        rng.integers(0, 4, (90, 3)),
    )
    area, precision = Ranking(y, p, groups, 90).figures(counts)
    for b in range(3):
        weight = counts[groups, b]
        assert area[b] == pytest.approx(roc_auc_score(y, p, sample_weight=weight), abs=1e-12)
        assert precision[b] == pytest.approx(average_precision_score(y, p, sample_weight=weight), abs=1e-12)


def test_every_figure_of_every_draw_equals_one_from_really_repeated_rows():
    members, labels, p, cells = sample()
    draws = draws_of(members)
    found = resample(draws, labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    expected = np.stack(list(slow(members, labels, p, cells, draws)))
    assert np.isnan(expected[:, 5, 0]).any() and not np.isnan(expected[:, MICRO]).any()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_one_row_of_the_table_is_all_that_a_metric_needs(monkeypatch):
    def sensitivity(c):
        return float(c.alarms[c.y].mean()) if c.y.any() else None

    monkeypatch.setitem(METRICS, "sensitivity", Metric(sensitivity, lambda d: d["hits"] / d["positives"]))
    members, labels, p, cells = sample()
    draws = draws_of(members)
    found = resample(draws, labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    expected = np.stack(list(slow(members, labels, p, cells, draws)))
    assert found.shape == (20, NUM_LABELS + 1, len(METRICS))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    block = with_intervals(score(labels, p, cells, p >= THRESHOLDS, RATES, [0], DISEASES), found, [0])
    low, high = block["macro"]["intervals"]["sensitivity"]
    assert low < block["macro"]["sensitivity"] < high
    assert "sensitivity" in compare("student", {"student": block, "teacher": block}, {}, [0])["teacher"]["macro"]


def test_blocks_of_draws_and_numbers_of_64_bits_change_nothing(monkeypatch):
    members, labels, p, cells = sample()
    draws = draws_of(members, resamples=40)
    whole = resample(draws, labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7)
    monkeypatch.setattr(ranking, "_EXACT_ROWS", 10)
    np.testing.assert_allclose(
        resample(draws, labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS)), whole, rtol=0, atol=1e-12
    )


def test_visits_of_one_patient_are_drawn_together():
    members, labels, p, cells = sample()
    once = resample(draws_of(members), labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    copied = [np.repeat(x, 4, axis=0) for x in (members, labels, p, cells)]
    again = resample(draws_of(copied[0]), *copied[1:], copied[2] >= THRESHOLDS, RATES, range(NUM_LABELS))
    np.testing.assert_allclose(again, once, rtol=0, atol=1e-12)  # repeating a patient's rows adds no certainty


def test_intervals_stand_beside_the_figures_they_belong_to():
    members, labels, p, cells = sample()
    block = score(labels, p, cells, p >= THRESHOLDS, RATES, [0, 7], DISEASES)
    figures = resample(draws_of(members, 200), labels, p, cells, p >= THRESHOLDS, RATES, range(NUM_LABELS))
    found = with_intervals(block, figures, [0, 7])
    for j, (row, place) in {0: (found["per_label"][DISEASES[0]], 0), 1: (found["micro"], MICRO)}.items():
        for i, name in enumerate(METRICS):
            assert row["intervals"][name] == pytest.approx(np.quantile(figures[:, place, i], [0.025, 0.975])), (j, name)
    means = figures[:, [0, 7], 0].mean(1)
    assert found["macro"]["intervals"]["auroc"] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert set(found["per_label"][DISEASES[5]]["intervals"].values()) == {None}  # too few visits for the macro average
    assert {key: value for key, value in found["macro"].items() if key != "intervals"} == block["macro"]


def test_without_draws_every_interval_is_null():
    _, labels, p, cells = sample()
    found = with_intervals(score(labels, p, cells, p >= THRESHOLDS, RATES, [0], DISEASES), None, [0])
    rows = [found["macro"], found["micro"], *found["per_label"].values()]
    assert all(row["intervals"] == dict.fromkeys(METRICS) for row in rows)


def test_a_draw_without_a_class_leaves_that_label_out():
    figures = np.full((2, NUM_LABELS + 1, 1), np.nan)
    figures[:, 0, 0], figures[0, 1, 0] = 0.5, 0.3
    assert macro(figures, [0, 1])[:, 0] == pytest.approx([0.4, 0.5])
    assert np.isnan(macro(figures, [2])).all() and np.isnan(macro(figures, [])).all()


def test_a_figure_that_many_draws_leave_undefined_has_no_interval():
    values = np.arange(100.0)
    values[:5] = np.nan
    assert interval(values) == pytest.approx(tuple(np.quantile(np.arange(5.0, 100), [0.025, 0.975])))
    values[5] = np.nan
    assert interval(values) is None


def test_few_patients_have_a_reason_and_inputs_instead_of_patients_a_note():
    assert Draws(np.arange(29), 29, 10, 0, True).reason == "29 patients, fewer than 30"
    assert Draws(np.arange(30), 30, 10, 0, True).reason is None
    assert Draws(np.arange(29), 29, 10, 0, False).reason == "29 distinct inputs, fewer than 30"
    assert Draws(np.arange(30), 30, 10, 0, True).note is None
    described = Draws(np.arange(30), 30, 10, 0, False).describe()
    assert described["note"].startswith("probably too narrow") and described["group"].startswith("identical input")
