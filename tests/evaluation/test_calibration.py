"""Maps from logits to probabilities: fits against scikit-learn and scipy, what every map keeps, calibration.json."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from ckd.calibration import FILE, Calibration, Map, sigmoid
from ckd.errors import ArtifactError
from ckd.evaluation.calibrate import fit_isotonic
from ckd.evaluation.fits import fit_logistic, fit_platt, fit_temperature, platt_targets
from ckd.store.artifacts import FolderArtifact
from ckd.store.jsonfile import SEAL
from ckd.visits.labels import DISEASES, NUM_LABELS, names

POINTS = st.lists(st.tuples(st.floats(-30, 30, width=32), st.booleans()), min_size=2, max_size=40)


def sample(n=400, slope=0.6, intercept=0.3, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 2, (n, NUM_LABELS))
    return z, rng.random(z.shape) < sigmoid(slope * z + intercept)


def cross_entropy(z, t):
    return np.mean(np.logaddexp(0, z) - t * z)


def arrays(points):
    return np.array([z for z, _ in points]), np.array([y for _, y in points])


def mixed(seed=1):
    """A calibration with every kind of map."""
    z, y = sample(seed=seed)
    maps = [
        Map("none"),
        fit_temperature(z, y, np.ones_like(y)),
        fit_platt(z[:, 2], y[:, 2]),
        fit_isotonic(z[:, 3], y[:, 3]),
    ]
    thresholds = np.random.default_rng(seed).random(NUM_LABELS)
    reasons = {DISEASES[4]: "no positive tuning visit"}
    return Calibration(tuple(maps[j % 4] for j in range(NUM_LABELS)), thresholds, reasons, "precision", 0.3)


def test_platt_is_scikit_learns():
    z, y = sample()
    for j in range(5):
        found, reference = fit_platt(z[:, j], y[:, j]), _SigmoidCalibration().fit(z[:, j], y[:, j])
        assert (found.slope, found.intercept) == pytest.approx((-reference.a_, -reference.b_), rel=1e-4)


def test_platt_and_temperature_are_at_scipys_optimum():
    z, y = sample(seed=3)
    t = np.stack([platt_targets(column) for column in y.T], axis=1)
    found = fit_platt(z[:, 0], y[:, 0])
    best = minimize(lambda w: cross_entropy(w[0] * z[:, 0] + w[1], t[:, 0]), [1, 0], tol=1e-12)
    assert (found.slope, found.intercept) == pytest.approx(tuple(best.x), abs=1e-5)
    scalar = minimize_scalar(
        lambda s: cross_entropy(s * z, t), bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10}
    )
    assert fit_temperature(z, y, np.ones_like(y)).temperature == pytest.approx(1 / scalar.x, rel=1e-6)


def test_isotonic_is_scikit_learns_between_platts_targets():
    z, y = sample()
    found = fit_isotonic(z[:, 0], y[:, 0])
    low, high = platt_targets(y[:, 0]).min(), platt_targets(y[:, 0]).max()
    reference = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(z[:, 0], y[:, 0])
    grid = np.linspace(-12, 12, 500)
    np.testing.assert_allclose(found(grid), reference.predict(grid), atol=1e-12)


def test_logistic_recalibration_finds_the_slope_it_was_made_with():
    z, y = sample(40_000)
    assert fit_logistic(z[:, 0], y[:, 0]) == pytest.approx((0.6, 0.3), abs=0.05)


@settings(deadline=None)
@given(POINTS)
def test_every_fit_is_finite_rises_and_stays_between_0_and_1_whatever_the_data(points):
    z, y = arrays(points)
    grid = np.linspace(-40, 40, 200)
    for found in (
        fit_platt(z, y),
        fit_temperature(z[:, None], y[:, None], np.ones_like(y)[:, None]),
        fit_isotonic(z, y),
    ):
        p = found(grid)
        assert np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()
        assert (np.diff(p) >= -1e-12).all()


@settings(deadline=None)
@given(POINTS, st.randoms())
def test_the_order_of_rows_plays_no_part(points, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    grid = np.linspace(-40, 40, 50)
    for fit in (
        fit_platt,
        lambda z, y: fit_temperature(z[:, None], y[:, None], np.ones_like(y)[:, None]),
        fit_isotonic,
    ):
        np.testing.assert_allclose(fit(*arrays(points))(grid), fit(*arrays(shuffled))(grid), atol=1e-5)


def test_separable_and_one_class_data_stay_finite():
    z = np.array([-3.0, -2, 2, 3])
    separable, negative = fit_platt(z, z > 0), fit_platt(z, z > 9)
    assert 0 < separable.slope < 10 and separable(z).max() < 1
    assert negative(z).max() <= 0.2  # 1 / (4 + 2), not 0
    assert fit_platt(z, z < 0).slope == 0  # would turn the ranking round
    assert fit_platt(np.zeros(4), z > 0)(np.zeros(1)) == pytest.approx(0.5)


def test_a_file_gives_back_equal_bits_and_names_the_alarms(tmp_path):
    before, z = mixed(), sample()[0].astype(np.float32)
    path = str(tmp_path / FILE)
    for _ in range(2):  # safe to run twice
        before.save(path, DISEASES, "m")
    after = Calibration.load(path, DISEASES, "m")
    assert after.maps == before.maps and after.reasons == before.reasons
    assert (after.threshold_for, after.threshold_target) == ("precision", 0.3)
    np.testing.assert_array_equal(after.thresholds, before.thresholds)
    np.testing.assert_array_equal(after.probabilities(z), before.probabilities(z))
    row = after.flags(after.probabilities(z))[0]
    assert names(row) == [
        d for d, p, t in zip(DISEASES, after.probabilities(z)[0], after.thresholds, strict=True) if p >= t
    ]
    assert after.probabilities(z[:0]).shape == (0, NUM_LABELS)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: c["labels"].reverse(), "not the 25 of the task in their order"),
        (lambda c: c["labels"].pop(), "not the 25 of the task in their order"),
        (lambda c: c["labels"][2].update(slope=float("nan")), "JSON with NaN or Infinity"),
        (lambda c: c["labels"][2].update(slope="1"), "slope is no finite number"),
        (lambda c: c["labels"][2].update(slope=10**400), "not a calibration of this project"),
        (lambda c: c["labels"][2].update(slope=-1.0), "slope is below 0"),
        (lambda c: c["labels"][3]["probabilities"].reverse(), "isotonic points must rise"),
        (lambda c: c["labels"][3]["logits"].pop(), "as many logits as probabilities"),
        (lambda c: c["labels"][3]["logits"].__setitem__(1, c["labels"][3]["logits"][0]), "isotonic points must rise"),
        (lambda c: c["labels"][0].update(kind="spline"), "kind is not one of none, temperature, platt, isotonic"),
        (lambda c: c["labels"][0].update(kind=[]), "not a calibration of this project"),
        (lambda c: c["labels"][0].update(slope=1.0), "kind none has the parameters none"),
        (lambda c: c["labels"][0].update(threshold=1.5), "a threshold is outside 0..1"),
        (lambda c: c["labels"].__setitem__(0, 7), "not a calibration of this project"),
        (lambda c: c.update(format=2), "not a calibration of format 1"),
        (lambda c: c.update(threshold_for="luck"), "threshold_for is not"),
        (lambda c: c.update(threshold_target=None), "threshold_target goes with"),
        (lambda c: c.pop("model"), "its keys are not"),
    ],
)
def test_a_spoiled_file_is_refused_in_one_line(tmp_path, spoil, said):
    path = tmp_path / FILE
    mixed().save(str(path), DISEASES, "m")
    content = json.loads(path.read_text())
    del content[SEAL]  # what stays is as if another program had written it
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=said) as error:
        Calibration.load(str(path), DISEASES)
    assert "\n" not in str(error.value) and "ckd evaluate" in str(error.value)


@pytest.mark.parametrize("count", [1, 40])
def test_any_labels_in_any_number_come_back_and_others_are_refused(tmp_path, count):
    names, path = [f"label {n}" for n in range(count)], str(tmp_path / FILE)
    before = Calibration(
        (Map("platt", slope=2.0, intercept=0.5),) * count, np.linspace(0.1, 0.9, count), {names[-1]: "why"}
    )
    before.save(path, names, "m")
    after = Calibration.load(path, names, "m")
    assert after.maps == before.maps and after.reasons == {names[-1]: "why"}
    assert after.probabilities(np.zeros((3, count))).shape == (3, count)
    for others in (names[:-1], [*names, "one more"], [*names[1:], "label 0"] if count > 1 else ["other"]):
        with pytest.raises(ArtifactError, match=f"not the {len(others)} of the task in their order"):
            Calibration.load(path, others)


def test_text_that_is_no_json_and_no_file_are_refused(tmp_path):
    (tmp_path / FILE).write_text("[1")
    with pytest.raises(ArtifactError, match="broken JSON; delete it and run"):
        Calibration.load(str(tmp_path / FILE), DISEASES)
    with pytest.raises(ArtifactError, match="no calibration there; run 'ckd evaluate' first"):
        Calibration.load(str(tmp_path / "none.json"), DISEASES)


def test_a_students_calibration_is_its_own_and_does_not_touch_its_artifact(tmp_path):
    student = FolderArtifact(str(tmp_path), {"student": "a"})
    (tmp_path / "weights").write_bytes(b"1")
    student.commit(["weights"])
    identity = student.identity()
    assert Calibration.of_student(str(tmp_path), DISEASES) is None
    mixed().save(str(tmp_path / FILE), DISEASES, identity)
    student.verify()
    assert student.identity() == identity
    assert Calibration.of_student(str(tmp_path), DISEASES).maps == mixed().maps
    (tmp_path / "weights").write_bytes(b"2")
    student.commit(["weights"])
    with pytest.raises(ArtifactError, match="made for another student.*run 'ckd evaluate' again"):
        Calibration.of_student(str(tmp_path), DISEASES)
