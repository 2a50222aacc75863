"""Measures the student inside groups of held_out visits: predicted minus observed, and its alerts.

Groups and labels with small cells are left out here already, so that metrics.json holds none. Pooled rows count every
(visit, label) pair of the labels in the macro average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.bootstrap import MIN_GROUPS, Draws, interval
from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags, Rows
from ckd.evaluation.small_cells import MIN_CELL, OTHER, pooled, shown
from ckd.visits.cohort import Cohort
from ckd.visits.visit import SUBGROUP_FIELDS, Split

UNKNOWN = "unknown"
MOST_GROUPS = 12  # rows of one field; the rest is pooled
# From which age on, in years.
AGE_BANDS = ((0, "0–17"), (18, "18–44"), (45, "45–64"), (65, "65–79"), (80, "80–89"), (90, "90+"))
_DRAWS_AT_ONCE = 100


class Sums(NamedTuple):
    """Sums over (visit, label) pairs: numbers, or arrays of one shape."""

    pairs: Any
    events: Any
    predicted: Any
    alerts: Any
    hits: Any  # alerts that are events


FIGURES: dict[str, Callable[[Sums], Any]] = {  # rates per pair, alerts per 100 pairs
    "observed": lambda s: s.events / s.pairs,
    "predicted": lambda s: s.predicted / s.pairs,
    "predicted_minus_observed": lambda s: (s.predicted - s.events) / s.pairs,
    "sensitivity": lambda s: s.hits / s.events,
    "alerts_per_100": lambda s: 100 * s.alerts / s.pairs,
}


def subgroups(
    cohort: Cohort, held_out: Rows, p: Floats, alarms: Flags, chosen: list[int], draws: Draws
) -> dict[str, Any]:
    """The block `subgroups` of metrics.json: per field its groups, or the reason why it has none.

    p are calibrated probabilities and alarms the alerts at the thresholds, both [n, L].
    """
    labels, known = held_out.labels & held_out.known, held_out.known
    p, alarms = np.where(known, p, 0.0), alarms & known
    sums = np.stack(Sums(known, labels, p, alarms, alarms & labels), axis=-1).astype(np.float64)  # [n, L, 5]
    fields = {
        field: _field(names, held_out, sums, chosen, draws) for field, names in read_fields(cohort, "held_out").items()
    }
    return {
        "model": "student",
        "min_cell": MIN_CELL,
        "labels": [held_out.task.names[j] for j in chosen],
        "fields": fields,
    }


def read_fields(cohort: Cohort, split: Split) -> dict[str, NDArray[np.object_]]:
    """The group of every labelled visit of a split per field [n], ages as bands, in the order of read_split."""
    fields = [*SUBGROUP_FIELDS, *cohort.subgroups]
    tables = [cohort.read(shard, fields) for shard in cohort.select(split)]
    found = {}
    for field in fields:
        raw = [value for table in tables for value in table.column(field).to_pylist()]
        names = [age_band(value) if field == "age" else (value or "").strip() or UNKNOWN for value in raw]
        found[field] = np.array(names, dtype=object)
    return found


def age_band(age: str | None) -> str:
    """The band of an age in years, such as "90" or "90+"; UNKNOWN when it is no number."""
    try:
        years = float((age or "").strip().removesuffix("+"))
    except ValueError:
        return UNKNOWN
    bands = [name for start, name in AGE_BANDS if years >= start]
    return bands[-1] if bands else UNKNOWN  # NaN is above nothing


def _field(
    names: NDArray[np.object_], held_out: Rows, sums: NDArray[np.float64], chosen: list[int], draws: Draws
) -> dict[str, Any]:
    if (names == UNKNOWN).all():
        return _none("not in the data")
    if not chosen:
        return _none("no label has enough positive and negative held-out visits")
    rows = _rows(names, held_out)
    if len(rows) < 2:
        return _none(f"fewer than two groups of at least {MIN_CELL} visits and {MIN_CELL} patients")
    pairs = np.stack([sums[where][:, chosen].sum(0) for where in rows.values()])  # [rows, chosen, 5]
    events, others = pairs[..., 1], pairs[..., 0] - pairs[..., 1]
    pooled_shown = shown(events.sum(1).tolist(), others.sum(1).tolist())
    label_shown = [shown(events[:, k].tolist(), others[:, k].tolist()) for k in range(len(chosen))]
    groups, names_of = [], held_out.task.names
    for i, (group, where) in enumerate(rows.items()):
        found: dict[str, Any] = {**dict.fromkeys(FIGURES), "intervals": dict.fromkeys(FIGURES)}
        if pooled_shown[i]:
            found = {**_figures(pairs[i].sum(0)), "intervals": _intervals(where, sums[:, chosen].sum(1), draws)}
        per_label = {names_of[j]: _figures(pairs[i, k]) if label_shown[k][i] else None for k, j in enumerate(chosen)}
        groups.append({"group": group, "visits": int(where.sum()), **found, "per_label": per_label})
    return {"reason": None, "groups": groups}


def _none(reason: str) -> dict[str, Any]:
    return {"reason": reason, "groups": []}


def _rows(names: NDArray[np.object_], held_out: Rows) -> dict[str, Flags]:
    """Row -> which visits it holds; in order, with the unknown and then the pooled last."""
    visits = {str(group): names == group for group in sorted(set(names))}
    sizes = {group: min(int(where.sum()), len(np.unique(held_out.groups[where]))) for group, where in visits.items()}
    row_of = pooled(sizes, MOST_GROUPS)
    order = sorted(set(row_of.values()), key=lambda row: (row == OTHER, row == UNKNOWN, row))
    return {row: np.any([where for group, where in visits.items() if row_of[group] == row], axis=0) for row in order}


def _figures(sums: NDArray[np.float64]) -> dict[str, float | None]:
    """FIGURES of sums [5]; sensitivity is None without an event."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {name: float(figure(Sums(*sums))) for name, figure in FIGURES.items()}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def _intervals(where: Flags, sums: NDArray[np.float64], draws: Draws) -> dict[str, list[float] | None]:
    """Percentile intervals of FIGURES over the visits `where` [n]; None under MIN_GROUPS patients.

    sums [n, 5] are over the labels.
    """
    if draws.reason or len(np.unique(draws.members[where])) < MIN_GROUPS:
        return dict.fromkeys(FIGURES)
    of_patient = np.zeros((draws.groups, len(Sums._fields)))
    np.add.at(of_patient, draws.members[where], sums[where])
    drawn = [
        _drawn(of_patient, draws.counts(start, min(start + _DRAWS_AT_ONCE, draws.resamples)))
        for start in range(0, draws.resamples, _DRAWS_AT_ONCE)
    ]
    bounds = {name: interval(values) for name, values in zip(FIGURES, np.concatenate(drawn, axis=1), strict=True)}
    return {name: None if found is None else list(found) for name, found in bounds.items()}


def _drawn(of_patient: NDArray[np.float64], counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """FIGURES in every draw [5, B], NaN where undefined."""
    sums = Sums(*(of_patient.T @ counts.astype(np.float64)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([figure(sums) for figure in FIGURES.values()])
