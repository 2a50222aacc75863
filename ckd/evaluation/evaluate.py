"""Computes metrics.json: student, teacher, baselines and further models on the held_out visits, and the headline.

Calibration, thresholds, baselines and the choice of the strongest one use train and tuning only. The macro average's
labels are fixed from held_out label counts before any model is scored, and are the same for every model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ckd.calibration import Calibration
from ckd.config import EvaluationConfig
from ckd.errors import DataError
from ckd.evaluation.alerts import alerts
from ckd.evaluation.baselines import NotComputable, Result, fit_all, prevalence
from ckd.evaluation.blocks import Model, Sample, View, make_views, nothing
from ckd.evaluation.bootstrap import make_draws
from ckd.evaluation.calibrate import calibrate
from ckd.evaluation.comparisons import compare
from ckd.evaluation.headline import headline
from ckd.evaluation.metrics import MIN_COUNT, macro_labels
from ckd.evaluation.public_code import public_code_metrics
from ckd.evaluation.reliability import reliability
from ckd.evaluation.scores import Rows, Splits, align, read_split
from ckd.evaluation.subgroups import subgroups
from ckd.evaluation.thresholds import own_aims
from ckd.evaluation.wording import meanings
from ckd.visits.cohort import Cohort
from ckd.visits.grammar import names_the_labels
from ckd.visits.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

MODELS = {"student": "predictions", "teacher": "soft_labels"}  # model -> the stage that holds its probabilities
TRUTH = "oracle_latent"  # the ceiling that is the true probability of a synthetic cohort's labels
Metrics = dict[str, Any]


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

    Reads the stages visits, predictions and soft_labels. `wanted` says what thresholds are for and how many bootstrap
    draws give the intervals. `adapter_optimism` is passed through. `ceilings` has a visit_id and one column of L
    probabilities per further model (an oracle, say) for the held_out visits; such a model stays uncalibrated, its
    thresholds at 0.5. `calibration` is the student's, where it is fitted already.

    Raises ArtifactError where a visit is missing, DataError without labelled held_out or train visits.
    """
    wanted = wanted or EvaluationConfig()
    data = _read(cohort)

    def fitted_on_tuning(p: np.ndarray) -> Calibration:
        return calibrate(data.tuning, p, wanted, seed)

    maps = {} if calibration is None else {"student": calibration}
    models = {
        name: Model(data.held_out.scores[stage], maps.get(name) or fitted_on_tuning(data.tuning.scores[stage]))
        for name, stage in MODELS.items()
    }
    for name in ceilings.column_names if ceilings is not None else ():
        if name != "visit_id":
            models[name] = Model.untuned(align(data.held_out.visit_ids, ceilings, name, name), cohort.task)
    baselines = fit_all(data, seed, say)
    say(f"figures and their intervals: {wanted.resamples:,} bootstrap draws of the held_out visits")
    draws, rates = make_draws(data.held_out, wanted.resamples, seed), prevalence(data.train.labels, data.train.known)
    sample = Sample(data.held_out, make_views(data.held_out), rates, draws)
    metrics = assemble(data, sample, models, baselines, fitted_on_tuning)
    gains = {name: _gain(metrics["held_out"], name) for name in models if name not in MODELS}
    return {**metrics, "ceilings": gains, "adapter_optimism": adapter_optimism}


def assemble(
    data: Splits,
    sample: Sample,
    models: Mapping[str, Model],
    baselines: Mapping[str, Result],
    fitted_on_tuning: Callable[[np.ndarray], Calibration],
) -> Metrics:
    """metrics.json from probabilities that are already there; `fitted_on_tuning` calibrates a baseline's."""
    own, others, figures = {}, {}, {}
    for name, model in models.items():
        own[name], figures[name] = sample.block(model)
    for name, result in baselines.items():
        if isinstance(result, NotComputable):
            others[name] = {**nothing(result.reason), "new_onset": None, "persistent": None}
            continue
        others[name], figures[name] = sample.block(Model(result.held_out, fitted_on_tuning(result.tuning)))
        others[name] |= {"notes": result.notes} if result.notes else {}
    task, held_out, student, chosen = data.task, data.held_out, models["student"], sample.views["all"].chosen
    comparisons = compare("student", {**own, **others}, figures, chosen)
    calibrated = student.calibrated()
    alarms = student.calibration.flags(calibrated)
    draws, count = sample.draws, len(chosen)
    return {
        **_named(task),
        "headline": headline(own["student"], others, baselines, data.tuning, comparisons, draws, count),
        "held_out": {**own, "baselines": others},
        "comparisons": {"student": comparisons},
        "intervals": draws.describe(),
        "public_code_metrics": {name: _public(held_out, models[name].p) for name in MODELS},
        **{_macro_key(name): _counted(view, held_out) for name, view in sample.views.items()},
        "counts": _counts(data),
        "calibration": _reliability(sample, models),
        "thresholds": {name: _thresholds(model, task) for name, model in models.items()},
        "train_prevalence": dict(zip(task.names, map(_number, sample.train_prevalence), strict=True)),
        "alerts": alerts(held_out, alarms, student.calibration.thresholds, chosen),
        "subgroups": subgroups(data.cohort, held_out, calibrated, alarms, chosen, draws),
        "teacher_saw_held_out": bool(data.cohort.facts.get("teacher_saw_held_out", False)),
        "warnings": list(_warnings(data, models, baselines, len(task) - count)),
    }


def _read(cohort: Cohort) -> Splits:
    train = read_split(cohort, "train")
    tuning, held_out = (read_split(cohort, split, list(MODELS.values())) for split in ("tuning", "held_out"))
    for name, rows in (("train", train), ("held_out", held_out)):
        if not len(rows):
            raise DataError(f"{cohort.root}: no labelled {name} visits, nothing can be evaluated; give data.{name}")
    return Splits(cohort, train, tuning, held_out)


def _gain(held_out: Metrics, ceiling: str) -> Metrics:
    """How much of a ceiling's macro AUROC above chance (0.5) the student reaches."""
    student, top = (held_out[name]["macro"]["auroc"] for name in ("student", ceiling))
    known = student is not None and top is not None and top > 0.5
    return {"auroc": top, "share_of_gain": (student - 0.5) / (top - 0.5) if known else None}


def _macro_key(view: str) -> str:
    return "labels_in_macro" if view == "all" else f"labels_in_macro_{view}"


def _counted(view: View, held_out: Rows) -> list[Metrics]:
    names, n, positives = held_out.task.names, view.cells.sum(0), (held_out.labels & view.cells).sum(0)
    return [{"disease": names[j], "n": int(n[j]), "positives": int(positives[j])} for j in view.chosen]


def _counts(data: Splits) -> Metrics:
    splits = {"train": data.train, "tuning": data.tuning, "held_out": data.held_out}
    subjects = all(rows.has_subjects for rows in splits.values())
    return {
        **{name: {"visits": len(rows), "groups": len(np.unique(rows.groups))} for name, rows in splits.items()},
        "group": "subject" if subjects else "identical input where subject_id is missing",
        "held_out_with_known_current_labels": int(data.held_out.current_known.any(1).sum()),
        "labels_in_macro": len(macro_labels(data.held_out.labels, data.held_out.known)),
        **_known(splits),
    }


def _public(rows: Rows, p: np.ndarray) -> Metrics:
    return public_code_metrics(rows.labels, p, rows.known)


def _known(splits: Mapping[str, Rows]) -> Metrics:
    """Per split and label on how many visits it is known, where that is not all of them."""
    found = {
        split: dict(zip(rows.task.names, map(int, rows.known.sum(0)), strict=True)) for split, rows in splits.items()
    }
    return {} if all(rows.known.all() for rows in splits.values()) else {"known": found}


def _named(task: Task) -> Metrics:
    """Which task it is and what its labels mean, for the words of report and model card; ccs25's are the usual ones."""
    if names_the_labels(task):
        return {}
    return {"task": {"name": task.name, "labels": len(task), "meanings": meanings(task)}}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _reliability(sample: Sample, models: Mapping[str, Model]) -> Metrics:
    """Of every model but the truth itself; those without tuning probabilities as they are."""
    rows, rates, chosen = sample.rows, sample.train_prevalence, sample.views["all"].chosen
    truth = models[TRUTH].p if TRUTH in models else None
    return {
        name: reliability(rows, model.p, model.calibration if model.tuned else None, rates, chosen, truth)
        for name, model in models.items()
        if name != TRUTH
    }


def _thresholds(model: Model, task: Task) -> Metrics:
    found, own = model.calibration, own_aims(task)
    values = dict(zip(task.names, map(float, found.thresholds), strict=True))
    return {
        "for": found.threshold_for,
        "target": found.threshold_target,
        "values": values,
        "kept_at_05": dict(found.reasons),
        **({"own": own} if own and model.tuned else {}),
    }


def _warnings(
    data: Splits, models: Mapping[str, Model], baselines: Mapping[str, Result], left_out: int
) -> Iterator[str]:
    held_out, tuning = data.held_out, data.tuning
    if data.cohort.facts.get("teacher_saw_held_out"):
        yield (
            "teacher_saw_held_out: data.split=public gave visits to held_out that the teacher's adapter may have been "
            "tuned on"
        )
    if left_out:
        few = f"fewer than {MIN_COUNT} positive or negative held_out visits"
        yield f"small sample: {left_out} of {len(data.task)} labels have {few}"
    if not held_out.has_subjects:
        yield (
            "visits without subject_id: patients may be on both sides of a split, and intervals are probably too narrow"
        )
    if held_out.from_clause.any():
        guessed = f"{int(held_out.from_clause.sum())} held_out visits"
        yield f"current labels of {guessed} are those that the treatment clause names, maybe not all"
    one_class = len(data.task) - len(macro_labels(tuning.labels, tuning.known, min_count=1))
    if one_class:
        reason = f"tuning has {len(tuning)} visits and not both classes of them"
        yield f"thresholds stay at 0.5 for {one_class} labels: {reason}"
    yield from _baseline_warnings(baselines)
    untuned = [name for name, model in models.items() if not model.tuned]
    if untuned:
        yield f"no tuning probabilities of {', '.join(untuned)}: macro F1 is at 0.5 there"


def _baseline_warnings(baselines: Mapping[str, Result]) -> Iterator[str]:
    """First those that have no figures, then those that were fitted on a sample."""
    for name, result in baselines.items():
        if isinstance(result, NotComputable):
            yield f"baseline {name}: {result.reason}"
    for name, result in baselines.items():
        notes = {} if isinstance(result, NotComputable) else result.notes
        used, all_visits = notes.get("train_visits", 0), notes.get("of_train_visits", 0)
        if used < all_visits:
            yield f"baseline {name}: fitted on {used} of {all_visits} training visits, drawn with the seed"
