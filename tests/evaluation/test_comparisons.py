import numpy as np
import pytest

from ckd.evaluation.comparisons import compare, holm, p_value
from ckd.evaluation.metrics import METRICS
from ckd.visits.labels import DISEASES, NUM_LABELS


def test_holm_of_a_small_example_by_hand():
    # sorted .01 .02 .03 .5: 4·.01 = .04; 3·.02 = .06; 2·.03 = .06; 1·.5
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    # .01·3 = .03; .04·2 = .08; .05·1 = .05 is raised to .08: never below a smaller p's
    assert holm([0.05, 0.01, 0.04]) == pytest.approx([0.08, 0.03, 0.08])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_what_was_not_tested_does_not_count():
    assert holm([None, 0.02, None, 0.03]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]


def test_the_p_value_is_twice_the_smaller_tail_and_never_zero():
    assert p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert p_value(np.append(np.ones(980), -np.ones(19))) == pytest.approx(2 * 20 / 1000)
    assert p_value(np.zeros(99)) == 1
    assert p_value(np.array([np.nan, 1.0, 1.0, -1.0])) == pytest.approx(2 * 2 / 4)


def blocks_and_figures(resamples=200):
    rng, blocks, figures = np.random.default_rng(0), {}, {}
    for name, height in (("student", 0.8), ("teacher", 0.7)):
        drawn = height + 0.01 * rng.normal(size=(resamples, NUM_LABELS + 1, len(METRICS)))
        row = dict.fromkeys(METRICS, height)
        blocks[name], figures[name] = {"macro": row, "micro": row, "per_label": dict.fromkeys(DISEASES, row)}, drawn
    blocks["absent"] = {"macro": None, "micro": None, "per_label": None, "reason": "why"}
    return blocks, figures


def test_differences_are_paired_draw_by_draw():
    blocks, figures = blocks_and_figures()
    found = compare("student", blocks, figures, [0, 3])
    assert set(found) == {"teacher"}
    gaps = figures["student"] - figures["teacher"]
    row = found["teacher"]["macro"]["auprc"]
    assert row["difference"] == pytest.approx(0.1)
    assert row["interval"] == pytest.approx(np.quantile(gaps[:, [0, 3], 1].mean(1), [0.025, 0.975]))
    rows = found["teacher"]["per_label"]
    assert list(rows) == [DISEASES[0], DISEASES[3]]
    assert rows[DISEASES[3]]["interval"] == pytest.approx(np.quantile(gaps[:, 3, 0], [0.025, 0.975]))
    assert rows[DISEASES[3]]["p"] == pytest.approx(2 / 201) and rows[DISEASES[3]]["p_holm"] == pytest.approx(4 / 201)


def test_without_draws_the_differences_stand_alone():
    blocks, _ = blocks_and_figures()
    found = compare("student", blocks, {}, [0])["teacher"]
    assert found["macro"]["auroc"] == {"difference": pytest.approx(0.1), "interval": None, "p": None}
    assert found["per_label"][DISEASES[0]] == {
        "difference": pytest.approx(0.1),
        "interval": None,
        "p": None,
        "p_holm": None,
    }
