"""The content of metrics.json: student, teacher head, baselines and further models on the held_out visits, and the headline. Writing and
printing it belong to jobs.

Calibration, thresholds, baselines and the choice of the strongest one see train and tuning only. The macro average's labels are fixed from held_out
label counts before any model is scored, and are the same for every model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import DEFAULT_THRESHOLD, UNCHANGED, Calibration
from ckd.config import EvaluationConfig
from ckd.errors import DataError
from ckd.evaluation import baselines
from ckd.evaluation.alerts import alerts
from ckd.evaluation.bootstrap import Draws, make_draws, resample, with_intervals
from ckd.evaluation.calibrate import calibrate, log_odds
from ckd.evaluation.comparisons import Figures, compare
from ckd.evaluation.headline import headline
from ckd.evaluation.metrics import MIN_COUNT, macro_labels, score
from ckd.evaluation.public_code import public_code_metrics
from ckd.evaluation.reliability import reliability
from ckd.evaluation.scores import Flags, Rows, Scores, Splits, align, read_split
from ckd.evaluation.subgroups import subgroups
from ckd.evaluation.thresholds import choose_thresholds
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES

if TYPE_CHECKING:
    import pyarrow as pa

MODELS = {"student": "predictions", "teacher": "soft_labels"}  # model -> the stage that holds its probabilities
TRUTH = "oracle_latent"  # the ceiling that is the true probability of a synthetic cohort's labels
Metrics = dict[str, Any]
Models = Mapping[
    str, tuple[Scores | None, Scores]
]  # model -> probabilities on tuning [m, 25] (None: unknown) and held_out [n, 25]


@dataclass(frozen=True)
class View:
    """Some cells of the held_out labels, and the labels that have enough visits there for the macro average."""

    name: str  # all, new_onset, persistent
    cells: Flags  # [n, 25]
    chosen: list[int]


def evaluate(
    cohort: Cohort,
    *,
    seed: int,
    say: Callable[[str], None],
    wanted: EvaluationConfig | None = None,
    adapter_optimism: float | None = None,
    ceilings: "pa.Table | None" = None,
    calibration: Calibration | None = None,
) -> Metrics:
    """Score everything of a prepared cohort on its labelled held_out visits; strict JSON (no NaN), undefined is null.

    Reads the stages visits, predictions and soft_labels. `ceilings` has a visit_id and one column of 25 probabilities per further model
    (an oracle, say) for the held_out visits; such a model stays uncalibrated, its thresholds at 0.5. `wanted` says what thresholds are for and
    how many bootstrap draws give the intervals; `adapter_optimism` is passed through. `calibration` is the student's where it is fitted already.

    Raises ArtifactError where a visit is missing, DataError without labelled held_out or train visits.
    """
    train = read_split(cohort, "train")
    tuning, held_out = (read_split(cohort, split, list(MODELS.values())) for split in ("tuning", "held_out"))
    for name, rows in (("train", train), ("held_out", held_out)):
        if not len(rows):
            raise DataError(f"{cohort.root}: no labelled {name} visits, nothing can be evaluated; give data.{name}")
    models: dict[str, tuple[Scores | None, Scores]] = {
        name: (tuning.scores[stage], held_out.scores[stage]) for name, stage in MODELS.items()
    }
    if ceilings is not None:
        names = [name for name in ceilings.column_names if name != "visit_id"]
        models |= {name: (None, align(held_out.visit_ids, ceilings, name, name)) for name in names}
    fitted = baselines.fit_all(Splits(cohort, train, tuning, held_out), seed, say)
    wanted = wanted or EvaluationConfig()
    say(f"figures and their intervals: {wanted.resamples:,} bootstrap draws of the held_out visits")
    maps = {"student": calibration} if calibration else {}
    maps |= {name: _calibrate(tuning, p[0], wanted, seed) for name, p in models.items() if name not in maps}
    computed = {name: result for name, result in fitted.items() if isinstance(result, baselines.Predictions)}
    maps |= {name: calibrate(tuning, result.tuning, wanted, seed) for name, result in computed.items()}
    metrics = assemble(
        cohort, train, tuning, held_out, models, fitted, make_draws(held_out, wanted.resamples, seed), maps
    )
    gains = {name: _gain(metrics["held_out"], name) for name in models if name not in MODELS}
    return {**metrics, "ceilings": gains, "adapter_optimism": adapter_optimism}


def assemble(
    cohort: Cohort,
    train: Rows,
    tuning: Rows,
    held_out: Rows,
    models: Models,
    fitted: Mapping[str, baselines.Result],
    draws: Draws,
    maps: Mapping[str, Calibration],
) -> Metrics:
    """metrics.json from probabilities that are already there."""
    views = make_views(held_out)
    rates = baselines.prevalence(train.labels)
    figures: dict[str, Figures] = {}

    def scored(name: str, p: Scores, calibration: Calibration) -> Metrics:
        block, drawn = score_model(held_out, p, calibration, views, rates, draws)
        figures.update({} if drawn is None else {name: drawn})
        return block

    own = {name: scored(name, p[1], maps[name]) for name, p in models.items()}
    others = {name: _baseline(result, name, maps, scored) for name, result in fitted.items()}
    chosen = views[0].chosen
    comparisons = compare("student", {**own, **others}, figures, chosen)
    calibrated = maps["student"].probabilities(log_odds(models["student"][1]))
    alarms = maps["student"].flags(calibrated)
    return {
        "headline": headline(own["student"], others, fitted, tuning, comparisons, draws, len(chosen)),
        "held_out": {**own, "baselines": others},
        "comparisons": {"student": comparisons},
        "intervals": draws.describe(),
        "public_code_metrics": {name: public_code_metrics(held_out.labels, models[name][1]) for name in MODELS},
        **{_macro_key(view.name): _counted(view, held_out) for view in views},
        "counts": _counts(train, tuning, held_out),
        "calibration": _reliability(held_out, models, maps, chosen, rates),
        "thresholds": {name: _thresholds(found) for name, found in maps.items() if name in models},
        "train_prevalence": dict(zip(DISEASES, map(float, rates), strict=True)),
        "alerts": alerts(held_out.labels, alarms, maps["student"].thresholds, chosen),
        "subgroups": subgroups(cohort, held_out, calibrated, alarms, chosen, draws),
        "teacher_saw_held_out": bool(cohort.facts.get("teacher_saw_held_out", False)),
        "warnings": [*_warnings(cohort.facts, tuning, held_out, views, fitted), *_untuned(models)],
    }


def make_views(held_out: Rows) -> list[View]:
    """All cells; those where the label is absent now (new_onset); those where it is present (persistent). Looks at no model."""
    known = held_out.known[:, None]
    cells = {
        "all": np.ones_like(held_out.labels),
        "new_onset": known & ~held_out.current,
        "persistent": known & held_out.current,
    }
    return [View(name, where, macro_labels(held_out.labels, where)) for name, where in cells.items()]


def score_model(
    held_out: Rows,
    p: Scores,
    calibration: Calibration,
    views: list[View],
    train_prevalence: NDArray[np.float64],
    draws: Draws,
) -> tuple[Metrics, Figures | None]:
    """One model's block: macro, micro, per_label over all visits, and the same inside new_onset and persistent; and all visits' figures per draw.

    p holds the probabilities on held_out as the model gives them; the calibrated ones decide its alarms alone.
    """
    alarms = calibration.flags(calibration.probabilities(log_odds(p)))
    blocks = {v.name: score(held_out.labels, p, v.cells, alarms, train_prevalence, v.chosen) for v in views}
    drawn: dict[str, Figures] = {}
    for v in views:
        if draws.reason is None:
            drawn[v.name] = resample(draws, held_out.labels, p, v.cells, alarms, train_prevalence)
        blocks[v.name] = with_intervals(blocks[v.name], drawn.get(v.name), v.chosen)
    if not held_out.known.any():
        reason = "current labels unknown for every held_out visit"
        blocks |= {name: _nothing(reason) for name in ("new_onset", "persistent")}
    return {**blocks.pop("all"), **blocks}, drawn.get("all")


def _baseline(
    result: baselines.Result,
    name: str,
    maps: Mapping[str, Calibration],
    scored: Callable[[str, Scores, Calibration], Metrics],
) -> Metrics:
    if isinstance(result, baselines.NotComputable):
        return {**_nothing(result.reason), "new_onset": None, "persistent": None}
    block = scored(name, result.held_out, maps[name])
    return {**block, **({"notes": result.notes} if result.notes else {})}


def _gain(held_out: Metrics, ceiling: str) -> Metrics:
    """How much of a ceiling's macro AUROC above chance (0.5) the student reaches."""
    student, top = (held_out[name]["macro"]["auroc"] for name in ("student", ceiling))
    known = student is not None and top is not None and top > 0.5
    return {"auroc": top, "share_of_gain": (student - 0.5) / (top - 0.5) if known else None}


def _nothing(reason: str) -> Metrics:
    return {"macro": None, "micro": None, "per_label": None, "reason": reason}


def _macro_key(view: str) -> str:
    return "labels_in_macro" if view == "all" else f"labels_in_macro_{view}"


def _counted(view: View, held_out: Rows) -> list[Metrics]:
    n, positives = view.cells.sum(0), (held_out.labels & view.cells).sum(0)
    return [{"disease": DISEASES[j], "n": int(n[j]), "positives": int(positives[j])} for j in view.chosen]


def _counts(train: Rows, tuning: Rows, held_out: Rows) -> Metrics:
    splits = {"train": train, "tuning": tuning, "held_out": held_out}
    return {
        **{name: {"visits": len(rows), "groups": len(np.unique(rows.groups))} for name, rows in splits.items()},
        "group": "subject"
        if all(rows.has_subjects for rows in splits.values())
        else "identical input where subject_id is missing",
        "held_out_with_known_current_labels": int(held_out.known.sum()),
        "labels_in_macro": len(macro_labels(held_out.labels)),
    }


def _calibrate(tuning: Rows, p: Scores | None, wanted: EvaluationConfig, seed: int) -> Calibration:
    if p is None:
        reasons = dict.fromkeys(DISEASES, "no tuning probabilities")
        return Calibration((UNCHANGED,) * len(DISEASES), np.full(len(DISEASES), DEFAULT_THRESHOLD), reasons)
    return calibrate(tuning, p, wanted, seed)


def _reliability(
    held_out: Rows, models: Models, maps: Mapping[str, Calibration], chosen: list[int], rates: NDArray[np.float64]
) -> Metrics:
    """Of every model but the truth itself; those without tuning probabilities as they are."""
    truth = models[TRUTH][1] if TRUTH in models else None
    return {
        name: reliability(held_out.labels, p, None if on_tuning is None else maps[name], rates, chosen, truth)
        for name, (on_tuning, p) in models.items()
        if name != TRUTH
    }


def _thresholds(found: Calibration) -> Metrics:
    values = dict(zip(DISEASES, map(float, found.thresholds), strict=True))
    return {
        "for": found.threshold_for,
        "target": found.threshold_target,
        "values": values,
        "kept_at_05": dict(found.reasons),
    }


def _untuned(models: Models) -> list[str]:
    names = [name for name, (on_tuning, _) in models.items() if on_tuning is None]
    return [f"no tuning probabilities of {', '.join(names)}: macro F1 is at 0.5 there"] if names else []


def _warnings(
    facts: Mapping[str, Any], tuning: Rows, held_out: Rows, views: list[View], fitted: Mapping[str, baselines.Result]
) -> list[str]:
    lines = []
    if facts.get("teacher_saw_held_out"):
        lines.append(
            "teacher_saw_held_out: data.split=public gave visits to held_out that the teacher's adapter may have been tuned on"
        )
    left_out = len(DISEASES) - len(views[0].chosen)
    if left_out:
        lines.append(
            f"small sample: {left_out} of {len(DISEASES)} labels have fewer than {MIN_COUNT} positive or negative held_out visits"
        )
    if not held_out.has_subjects:
        lines.append(
            "visits without subject_id: patients may be on both sides of a split, and intervals are probably too narrow"
        )
    if held_out.from_clause.any():
        lines.append(
            f"current labels of {int(held_out.from_clause.sum())} held_out visits are those that the treatment clause names, maybe not all"
        )
    one_class = len(choose_thresholds(tuning.labels, np.zeros(tuning.labels.shape)).reasons)
    if one_class:
        lines.append(
            f"thresholds stay at 0.5 for {one_class} labels: tuning has {len(tuning)} visits and not both classes of them"
        )
    lines += [
        f"baseline {name}: {result.reason}"
        for name, result in fitted.items()
        if isinstance(result, baselines.NotComputable)
    ]
    for name, result in fitted.items():
        notes = result.notes if isinstance(result, baselines.Predictions) else {}
        if notes.get("train_visits", 0) < notes.get("of_train_visits", 0):
            lines.append(
                f"baseline {name}: fitted on {notes['train_visits']} of {notes['of_train_visits']} training visits, drawn with the seed"
            )
    return lines
