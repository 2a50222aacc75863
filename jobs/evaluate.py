"""Job: predict tuning and held_out with the student, calibrate it on tuning, score it beside teacher and baselines.
Writes calibration.json, metrics.json and the public result files."""

import math
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckd.config import Config
from ckd.run import Run
from ckd.store.files import exists, join, read_table
from ckd.store.jsonfile import sealed, write_json
from ckd.student.fingerprint import STUDENT
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.head import HEAD
from ckd.teacher.soft_labels import SOFT_LABELS
from ckd.visits.cohort import Cohort
from ckd.visits.grammar import names_the_labels
from jobs.console import Console
from jobs.predict_student import predict_splits

if TYPE_CHECKING:
    import pyarrow as pa

    from ckd.calibration import Calibration


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Score everything on held_out. Raises ArtifactError when soft labels or the student are missing."""
    work(Run(config), console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    shards = run.cohort.select("tuning", "held_out")
    EMBEDDINGS.require(run, shards)
    SOFT_LABELS.require(run, shards)
    predict_splits(run, console, ("tuning", "held_out"))
    from ckd.evaluation.evaluate import evaluate

    cohort = judged(run)
    model, calibration = save_calibration(run, cohort, console)
    console.say("evaluate: scoring the held_out visits")
    metrics = evaluate(
        cohort,
        seed=run.config.seed,
        say=lambda line: console.say(f"evaluate: {line}"),
        wanted=run.config.evaluation,
        adapter_optimism=adapter_optimism(run),
        ceilings=ceilings(run.config) if names_the_labels(run.task) else None,
        calibration=calibration,
    )
    report(run, console, {"model": model, **metrics})
    write_public_results(run, console, metrics)


def judged(run: Run) -> Cohort:
    """The stored visits with the labels' thresholds and headings as they stand in labels.yaml now."""
    return replace(run.cohort, task=run.task)


def save_calibration(run: Run, cohort: Cohort, console: Console) -> tuple[str, "Calibration"]:
    """Fit calibration.json on tuning only and write it beside the student. artifact.json does not list it.

    Returns the student's identity, which it names, and the calibration.
    """
    from ckd.calibration import FILE
    from ckd.evaluation.calibrate import calibrate_student

    student = STUDENT.require(run)
    found = calibrate_student(cohort, run.config.evaluation, run.config.seed)
    path = join(student.folder, FILE)
    found.save(path, run.cohort.task.names, student.identity())
    kinds = ", ".join(f"{kind} for {count}" for kind, count in sorted(Counter(one.kind for one in found.maps).items()))
    console.say(f"evaluate: wrote {path} (maps: {kinds} labels; {len(found.reasons)} thresholds at the default)")
    return student.identity(), found


def report(run: Run, console: Console, metrics: dict[str, Any]) -> None:
    """Write metrics.json and the events, print the table."""
    from ckd.evaluation.table import render

    path = run.metrics_file
    write_json(path, sealed(metrics))
    console.event(
        "evaluate",
        teacher_saw_held_out=metrics["teacher_saw_held_out"],
        **{key: value for key, value in metrics["headline"].items() if key != "against_persistence"},
    )
    console.say("")
    for line in render(metrics).split("\n"):
        console.say(line)
    console.say(f"evaluate: wrote {path}")


def write_public_results(run: Run, console: Console, metrics: dict[str, Any]) -> None:
    """Write test_results.pt (probabilities, hard and soft labels) and test_metrics.txt, as the public code does."""
    import torch

    from ckd.evaluation.evaluate import MODELS
    from ckd.evaluation.scores import read_split
    from ckd.visits.public_files import append_test_metrics, public_metrics_line, results_file, write_test_results

    rows = read_split(run.cohort, "held_out", list(MODELS.values()))
    predicted = torch.from_numpy(rows.scores[MODELS["student"]])
    hard, soft = torch.from_numpy(rows.labels).float(), torch.from_numpy(rows.scores[MODELS["teacher"]])
    hard[torch.from_numpy(~rows.known)] = math.nan
    results, weight = run.config.run.public_results, run.config.student.hard_weight
    with run.owner.writing(results_file(results, weight)):
        path = write_test_results(results, weight, predicted, hard, soft)
    line = append_test_metrics(results, public_metrics_line(weight, metrics))
    console.say(f"evaluate: wrote {path} and a line of {line} (the public code's figures, of 0/1 predictions at .5)")


def adapter_optimism(run: Run) -> float | None:
    """Tuning log-loss minus out-of-fold train log-loss, as the head recorded it."""
    content = HEAD.artifact(run).load() or {}
    value: float | None = content.get("extra", {}).get("adapter_optimism")
    return value


def ceilings(config: Config) -> "pa.Table | None":
    """The true probabilities that lie beside a synthetic cohort's rows: visit_id, one column per oracle.

    None for other rows, and where the cohort's own splits are not used.
    """
    from ckd.ehr.synthetic.rows import CEILINGS_FILE

    rows = config.data.held_out or config.data.train
    path = join(rows.rpartition("/")[0] or ".", CEILINGS_FILE)
    if not rows or config.data.split == "public" or not exists(path):
        return None
    return read_table(path)
