"""From logits to calibrated probabilities and to alarms: one map and one threshold per label.

Stored as calibration.json beside the student. evaluation/calibrate.py chooses them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.errors import ArtifactError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import exists, join
from ckd.store.jsonfile import read_json, sealed, write_json

FILE = "calibration.json"
FORMAT = 1
DEFAULT_THRESHOLD = 0.5
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Map:
    """One label's map from logits z to probabilities.

    `none`: sigmoid(z). `temperature`: sigmoid(z / temperature). `platt`: sigmoid(slope·z + intercept), slope >= 0.
    `isotonic`: linear between the points (logits ascending, probabilities not descending), constant outside them.
    """

    kind: str
    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def __call__(self, logits_N: NDArray[Any]) -> Floats:
        """Probabilities [n] of logits [n]."""
        z_N = np.asarray(logits_N, np.float64)
        if self.kind == "isotonic":
            return np.interp(z_N, self.logits, self.probabilities)
        return sigmoid(z_N * self.slope / self.temperature + self.intercept)

    def record(self) -> dict[str, Any]:
        """`kind` and its parameters, as calibration.json holds them."""
        return {"kind": self.kind, **{name: _plain(getattr(self, name)) for name in _PARAMETERS[self.kind]}}


_PARAMETERS = {
    "none": (),
    "temperature": ("temperature",),
    "platt": ("slope", "intercept"),
    "isotonic": ("logits", "probabilities"),
}
UNCHANGED = Map("none")


@dataclass(frozen=True)
class Calibration:
    """A map and a threshold per label (an alarm is p >= threshold, p calibrated), in the labels' order."""

    maps: tuple[Map, ...]
    thresholds: Floats  # [L]
    reasons: Mapping[str, str] = field(default_factory=dict)  # label -> why its threshold is the default one
    threshold_for: str = "f1"
    threshold_target: float | None = None

    @classmethod
    def load(cls, path: str, names: Sequence[str], model: str | None = None) -> "Calibration":
        """Read calibration.json and check everything in it; `names` are those of the task's labels.

        Raises ArtifactError when it is missing, damaged, of other labels, or made for another model than `model`, the
        identity of a student's artifact (None: any).
        """
        try:
            content = read_json(path, "delete it and run 'ckd evaluate' again")
            found = _content(content, names)
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no calibration there; run 'ckd evaluate' first") from None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            what = str(error) if isinstance(error, _WrongError) else "not a calibration of this project"
            raise ArtifactError(f"{path}: {what}; delete it and run 'ckd evaluate' again") from None
        if model is not None and content["model"] != model:
            raise ArtifactError(f"{path}: made for another student than the one beside it; run 'ckd evaluate' again")
        return found

    @classmethod
    def of_student(cls, folder: str, names: Sequence[str]) -> "Calibration | None":
        """The calibration of the student in `folder` (path or URL); None when it has none.

        Raises ArtifactError when it is damaged, of other labels, or made for another student.
        """
        path = join(folder, FILE)
        if not exists(path):
            return None
        return cls.load(path, names, FolderArtifact(folder, {}).identity())

    def save(self, path: str, names: Sequence[str], model: str) -> None:
        """Write calibration.json whole, for labels of these names and the model of that identity. Safe to run twice."""
        labels = [
            {
                "disease": name,  # whatever the labels are: the file's key since its first version
                **one.record(),
                "threshold": float(threshold),
                "threshold_reason": self.reasons.get(name),
            }
            for name, one, threshold in zip(names, self.maps, self.thresholds, strict=True)
        ]
        content = {
            "format": FORMAT,
            "model": model,
            "threshold_for": self.threshold_for,
            "threshold_target": self.threshold_target,
            "labels": labels,
        }
        write_json(path, sealed(content))

    def probabilities(self, logits_NL: NDArray[Any]) -> Floats:
        """Calibrated probabilities float64 [n, L] of the model's logits [n, L]."""
        return np.stack([one(logits_NL[:, j]) for j, one in enumerate(self.maps)], axis=1)

    def flags(self, probabilities_NL: NDArray[Any]) -> Flags:
        """Where a calibrated probability reaches its label's threshold, bool [n, L]. `Task.named` names a row's."""
        return np.asarray(probabilities_NL >= self.thresholds)


def sigmoid(z: NDArray[Any]) -> Floats:
    """1 / (1 + exp(-z)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(z, np.float64))))


class _WrongError(ValueError):
    """What is wrong with a calibration.json."""


def _content(content: Any, names: Sequence[str]) -> Calibration:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _WrongError(f"not a calibration of format {FORMAT}")
    if set(content) != {"format", "model", "threshold_for", "threshold_target", "labels"} or not isinstance(
        content["model"], str
    ):
        raise _WrongError("its keys are not format, model, threshold_for, threshold_target, labels")
    rows, target = content["labels"], content["threshold_target"]
    if not isinstance(rows, list) or [row["disease"] for row in rows] != list(names):
        raise _WrongError(f"its labels are not the {len(names)} of the task in their order")
    if content["threshold_for"] not in ("f1", "sensitivity", "precision"):
        raise _WrongError("threshold_for is not f1, sensitivity or precision")
    if (content["threshold_for"] == "f1") != (target is None):
        raise _WrongError("threshold_target goes with sensitivity and precision only")
    maps = tuple(_map(row) for row in rows)
    thresholds = np.array([_number(row, "threshold") for row in rows])
    if not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise _WrongError("a threshold is outside 0..1")
    reasons = {row["disease"]: str(row["threshold_reason"]) for row in rows if row["threshold_reason"] is not None}
    return Calibration(
        maps,
        thresholds,
        reasons,
        content["threshold_for"],
        None if target is None else _number(content, "threshold_target"),
    )


def _map(row: Mapping[str, Any]) -> Map:
    disease, kind = row["disease"], row["kind"]
    if kind not in _PARAMETERS:
        raise _WrongError(f"{disease}: kind is not one of {', '.join(_PARAMETERS)}")
    names = _PARAMETERS[kind]
    if set(row) != {"disease", "kind", "threshold", "threshold_reason", *names}:
        raise _WrongError(f"{disease}: kind {kind} has the parameters {', '.join(names) or 'none'}")
    if kind == "isotonic":
        return _isotonic(disease, *([_finite(value, f"{disease}: a point") for value in row[name]] for name in names))
    values: dict[str, Any] = {name: _number(row, name) for name in names}
    found = Map(kind, **values)
    if found.slope < 0 or found.temperature <= 0:
        raise _WrongError(f"{disease}: slope is below 0, or temperature not above 0")
    return found


def _isotonic(disease: str, logits: Sequence[float], probabilities: Sequence[float]) -> Map:
    if len(logits) != len(probabilities) or not logits:
        raise _WrongError(f"{disease}: isotonic needs as many logits as probabilities, at least one")
    if (np.diff(logits) <= 0).any() or (np.diff(probabilities) < 0).any():
        raise _WrongError(f"{disease}: isotonic points must rise: logits strictly, probabilities never down")
    if probabilities[0] < 0 or probabilities[-1] > 1:
        raise _WrongError(f"{disease}: an isotonic probability is outside 0..1")
    return Map("isotonic", logits=tuple(logits), probabilities=tuple(probabilities))


def _number(row: Mapping[str, Any], name: str) -> float:
    return _finite(row[name], f"{row.get('disease', 'calibration')}: {name}")


def _finite(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _WrongError(f"{what} is no finite number")
    return float(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
