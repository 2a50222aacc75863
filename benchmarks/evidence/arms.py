"""One arm with one training seed: its soft labels, the student trained by the project's own jobs, its figures.

In the selection nothing of held_out is predicted or read.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.evidence.cohort import SHARED_STAGES, configuration, link
from benchmarks.evidence.setup import Arm, Phase, Trial
from ckd.config import Config
from ckd.ehr.synthetic.rows import CEILINGS_FILE
from ckd.evaluation.metrics import auprc, auroc, macro_labels
from ckd.evaluation.scores import read_split
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.store.files import read_table
from ckd.store.jsonfile import write_json
from ckd.visits.cohort import Cohort
from ckd.visits.columns import lists, matrix
from ckd.visits.visit import Split
from jobs import train_student
from jobs.console import Console
from jobs.predict_student import predict_splits

SPLITS: Mapping[Phase, tuple[Split, ...]] = {"selection": ("tuning",), "confirmation": ("tuning", "held_out")}


def run_arm(trial: Trial, arm: Arm, seed: int, shared: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Train and score an arm unless that is done; returns its figures.

    Probabilities of the confirmation are kept beside them (.npz).
    """
    done = trial.result_file(arm.name, seed)
    if done.exists():
        return dict(json.loads(done.read_text()))
    started, cpu, splits = time.monotonic(), time.process_time(), SPLITS[trial.phase]
    config = configuration(trial, f"arms/{arm.name}-{seed}", [*arm.teacher, *arm.student, f"seed={seed}"])
    root = Path(config.run.artifacts_root)
    root.mkdir(parents=True, exist_ok=True)
    link(shared, root, SHARED_STAGES)
    if arm.labels:
        replace_soft_labels(config, arm.labels, seed)
    with (root.parent / "log.txt").open("a") as log:
        console = Console(log)
        train_student.run(config, console)
        predict_splits(Run(config), console, splits)
    scored = {split: score_split(config, split) for split in splits}
    seconds = {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
    figures = {"arm": arm.name, "seed": seed, **facts, **{split: found for split, (found, _) in scored.items()}}
    figures |= {"truncated_share": truncated(config), **{clock: round(value, 1) for clock, value in seconds.items()}}
    figures["load_average"] = os.getloadavg()[0]
    done.parent.mkdir(parents=True, exist_ok=True)
    if trial.phase == "confirmation":
        np.savez(done.with_suffix(".npz"), **{split: p for split, (_, p) in scored.items()})
    write_json(str(done), figures)
    shutil.rmtree(root.parent.parent)
    return figures


def replace_soft_labels(config: Config, how: str, seed: int) -> None:
    """Write the control's soft labels of the labelled train visits in place of the teacher's. Safe to run twice."""
    cohort = Cohort.open(config.run.artifacts_root)
    found, shards = Stage(cohort.root, "soft_labels", {}), cohort.select("train")
    parts = [found.read(shard.index) for shard in shards]
    if how == "true":
        logits = true_logits(config, [visit for part in parts for visit in part["visit_id"].to_pylist()])
    else:
        labels = np.concatenate([matrix(cohort.read(shard, ["labels"])["labels"]) for shard in shards])
        teachers = np.concatenate([matrix(part["logits"]) for part in parts])
        logits = shuffled(teachers, labels, np.random.default_rng([seed, 17]))
    stage, start = Stage(cohort.root, "soft_labels", {"head": f"{how} labels of the ablation, {seed}"}), 0
    for shard, part in zip(shards, parts, strict=True):
        rows = logits[start : start + shard.rows]
        start += shard.rows
        probabilities = lists((1 / (1 + np.exp(-rows))).astype(np.float32))
        made = {"visit_id": part["visit_id"], "probabilities": probabilities, "logits": lists(rows.astype(np.float32))}
        table = pa.table({**made, "out_of_fold": part["out_of_fold"]})
        stage.write(shard.index, table, rows=shard.rows, input_hash=shard.text_hash)
    for shard in cohort.select("train", labeled=False):  # of another head now, and needed by no control
        found.delete(shard.index)


def shuffled(logits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft logits [n, 25] exchanged, label by label, among the visits that truly have it and among those that do not.

    Each label keeps the distribution of its soft labels in either class; what they say of a single visit beyond its
    true label is gone.
    """
    mixed = logits.copy()
    for label in range(labels.shape[1]):
        for rows in (np.flatnonzero(labels[:, label] > 0), np.flatnonzero(labels[:, label] <= 0)):
            mixed[rows, label] = logits[rng.permutation(rows), label]
    return mixed


def true_logits(config: Config, visit_ids: Sequence[str]) -> np.ndarray:
    """The generator's own probabilities of the next recorded labels as logits [n, 25]."""
    table = read_table(str(Path(config.data.train).with_name(CEILINGS_FILE)), ["visit_id", "oracle_latent"])
    place = {visit: row for row, visit in enumerate(table["visit_id"].to_pylist())}
    p = np.clip(matrix(table["oracle_latent"])[[place[visit] for visit in visit_ids]], 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def score_split(config: Config, split: Split) -> tuple[dict[str, float], np.ndarray]:
    """The student's figures on a split, and its probabilities [n, 25]."""
    rows = read_split(Cohort.open(config.run.artifacts_root), split, ["predictions"])
    p = rows.scores["predictions"]
    return figures(rows.labels, p), p


def figures(labels: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Macro AUROC and AUPRC over the labels with enough visits, and the mean log-loss (nats) over all 25."""
    chosen = macro_labels(labels)
    wide = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return {
        "macro_auroc": float(np.mean([auroc(labels[:, j], p[:, j]) for j in chosen])),
        "macro_auprc": float(np.mean([auprc(labels[:, j], p[:, j]) for j in chosen])),
        "log_loss": float(-np.mean(np.where(labels, np.log(wide), np.log1p(-wide)))),
    }


def truncated(config: Config) -> float:
    """The share of the labelled train visits that lost text to student.max_length."""
    cohort = Cohort.open(config.run.artifacts_root)
    stage = Stage(cohort.root, "tokens", {})
    parts = [stage.read(shard.index, ["truncated"])["truncated"] for shard in cohort.select("train")]
    return float(np.mean([flag for part in parts for flag in part.to_pylist()]))
