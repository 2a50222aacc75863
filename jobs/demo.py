"""Job: make a synthetic cohort and tiny models once, run the pipeline, compare the result with the known ceilings."""

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.store.jsonfile import read_json
from jobs import pipeline
from jobs.console import Console

TARGET_SHARE = 0.75  # of oracle_observed's macro AUROC gain over .5
CLAIM = (
    "This shows that the machinery works. It shows nothing about a 7B model on MIMIC: patients, drugs and models are "
    "invented and tiny."
)


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Make what is missing, run every stage, print the table. Raises ConfigError for data or models of others."""
    from ckd.ehr.synthetic.patients import parameters

    started = time.monotonic()
    make(config, console, parameters().raw["sizes"])
    pipeline.run(config, console)
    metrics = read_json(Run(config).metrics_file, "run 'ckd demo' again")
    for line in summary(metrics):
        console.say(line)
    console.say(f"demo: {time.monotonic() - started:.0f} s; the report is {Run(config).report_file}")


def make(config: Config, console: Console, sizes: Mapping[str, Mapping[str, int]], *, trained: bool = True) -> None:
    """Cohort, teacher and student base at the places that the config names; what is there already is kept.

    `sizes` gives patients and generator seed of demo, teacher, student, ceiling. `trained=False`: smaller models that
    take a second.
    """
    import pyarrow.parquet as pq

    from ckd.ehr.synthetic.rows import CEILINGS_FILE, COHORT_FILE, write_cohort

    cohort, teacher, student = _places(config, COHORT_FILE)
    console.say(f"demo: synthetic cohort in {cohort}, models in {teacher} and {student}")
    started = time.monotonic()
    write_cohort(str(cohort), sizes["demo"]["patients"], sizes["demo"]["seed"], sizes["ceiling"]["patients"])
    rows = pq.read_table(cohort / COHORT_FILE, columns=["split"]).num_rows
    console.say(
        f"demo: {rows:,} visits with a next one, ceilings in {cohort / CEILINGS_FILE} "
        f"({time.monotonic() - started:.0f} s)"
    )
    _make_teacher(teacher, sizes["teacher"], console, trained)
    _make_student(student, sizes["student"], console, trained)


def summary(metrics: Mapping[str, Any]) -> list[str]:
    """The demo table: ceilings, models, baselines; the paired interval against persistence; the share of the gain."""
    held_out = metrics["held_out"]
    models = {name: held_out[name] for name in ("oracle_latent", "oracle_observed", "teacher", "student")} | held_out[
        "baselines"
    ]
    width = max(map(len, models))
    lines = ["", f"{'demo, held_out'.ljust(width)}  macro AUROC  macro AUPRC"]
    lines += [
        f"{name.ljust(width)}  {_figure(block, 'auroc'):>11}  {_figure(block, 'auprc'):>11}"
        for name, block in models.items()
    ]
    against = metrics["headline"]["against_persistence"]
    if against and against["interval"]:
        low, high = against["interval"]
        verdict = "above 0" if low > 0 else "NOT above 0"
        lines.append(
            f"student - persistence: {against['difference']:+.3f} macro AUROC, "
            f"paired 95 % interval {low:+.3f} to {high:+.3f}: {verdict}"
        )
    share = metrics["ceilings"]["oracle_observed"]["share_of_gain"]
    if share is not None:
        verdict = "reached" if share >= TARGET_SHARE else "NOT reached"
        lines.append(
            f"student: {share:.0%} of oracle_observed's AUROC gain over .5 (target {TARGET_SHARE:.0%}: {verdict})"
        )
    return [*lines, CLAIM]


def _make_teacher(folder: Path, size: Mapping[str, int], console: Console, trained: bool) -> None:
    from ckd.teacher.tiny import UNTRAINED, TeacherSize, make_teacher

    started = time.monotonic()
    inputs, labels = _other_patients(size)
    make_teacher(str(folder), inputs, labels, size["seed"], TeacherSize() if trained else UNTRAINED)
    console.say(
        f"demo: teacher and adapter from {len(inputs):,} visits of other patients ({time.monotonic() - started:.0f} s)"
    )


def _make_student(folder: Path, size: Mapping[str, int], console: Console, trained: bool) -> None:
    from ckd.student.tiny import SMALLEST, StudentSize, make_student

    started = time.monotonic()
    inputs, _ = _other_patients(size)
    make_student(str(folder), inputs, size["seed"], StudentSize() if trained else SMALLEST)
    console.say(
        f"demo: student base, vocabulary from the text of {len(inputs):,} visits of other patients "
        f"({time.monotonic() - started:.0f} s)"
    )


def _other_patients(size: Mapping[str, int]) -> tuple[list[str], Any]:
    """Texts and next labels [visits, L] of patients of another generator seed."""
    import numpy as np

    from ckd.ehr.synthetic.patients import generate
    from ckd.ehr.synthetic.rows import table

    rows = table(generate(size["patients"], size["seed"]))
    return rows["input"].to_pylist(), np.array(rows["labels"].to_pylist())


def _places(config: Config, cohort_file: str) -> tuple[Path, Path, Path]:
    """Folders of the cohort, the teacher and the student base. Raises ConfigError when they are not the demo's own."""
    train, base, adapter = Path(config.data.train), Path(config.teacher.base_model), Path(config.teacher.adapter)
    if train.name != cohort_file:
        raise ConfigError(
            f"data.train={config.data.train}: the demo makes its own {cohort_file}; run other visits with 'ckd run'"
        )
    if (base.name, adapter.name) != ("base", "adapter") or base.parent != adapter.parent:
        raise ConfigError(
            f"teacher.base_model={base}: the demo makes its own <folder>/base and <folder>/adapter; "
            "run another teacher with 'ckd run'"
        )
    return train.parent, base.parent, Path(config.student.base_model)


def _figure(block: Mapping[str, Any], name: str) -> str:
    value = (block["macro"] or {}).get(name)
    return "-" if value is None else f"{value:.3f}"
