"""Job: make a synthetic cohort and tiny models once, run the pipeline, compare the result with the known ceilings."""

import os
import signal
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from ckd.config import Config
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.store.folders import ARTIFACT_FILE
from ckd.store.jsonfile import read_json
from jobs import killed_actor, pipeline
from jobs.cluster_paths import on_cluster
from jobs.console import Console

TARGET_SHARE = 0.75  # of oracle_observed's macro AUROC gain over .5
CLAIM = (
    "This shows that the machinery works. It shows nothing about a 7B model on MIMIC: patients, drugs and models are "
    "invented and tiny."
)


Sizes = Mapping[str, Mapping[str, int]]


class Places(NamedTuple):
    """Folders that the demo fills."""

    cohort: Path
    teacher: Path
    student: Path


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd demo`."""
    text = "afterwards kill an actor in the middle of a second pass of the teacher, and show that nothing is lost"
    parser.add_argument("--kill", action="store_true", help=text)


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Make what is missing, run every stage, print the table. Raises ConfigError for data or models of others."""
    from ckd.ehr.synthetic.patients import parameters

    started, kill = time.monotonic(), arguments is not None and arguments.kill
    if on_cluster(config):
        raise ConfigError("RAY_ADDRESS names a cluster, which sees no file of this demo; unset it and run 'ckd demo'")
    if kill:
        killed_actor.require_actors(config)
    make(config, console, parameters().raw["sizes"])
    console.say(f"demo: {_who(config)}")
    pipeline.run(config, console)
    if kill:
        killed_actor.run(config, console)
    metrics = read_json(Run(config).metrics_file, "run 'ckd demo' again")
    for line in summary(metrics):
        console.say(line)
    console.say(f"demo: {time.monotonic() - started:.0f} s; the report is {Run(config).report_file}")


def make(config: Config, console: Console, sizes: Sizes, *, trained: bool = True) -> None:
    """Teacher, cohort and student base at the places that the config names; what is there already is kept.

    `sizes` gives patients and generator seed of demo, teacher, student, ceiling. `trained=False`: smaller models that
    take a second. Else the teacher takes three minutes of one core, in which a second process makes the other two.
    """
    from ckd.ehr.synthetic.rows import CEILINGS_FILE, COHORT_FILE

    places = _places(config, COHORT_FILE)
    console.say(f"demo: synthetic cohort in {places.cohort}, models in {places.teacher} and {places.student}")
    with _head_start(places, sizes) if trained else nullcontext():
        _make_teacher(places.teacher, sizes["teacher"], console, trained)
    rows = _make_cohort(places.cohort, sizes)
    console.say(f"demo: {rows:,} visits with a next one, ceilings in {places.cohort / CEILINGS_FILE}")
    texts = _make_student(places.student, sizes["student"], trained)
    console.say(f"demo: student base, vocabulary from the text of {texts:,} visits of other patients")


@contextmanager
def _head_start(places: Places, sizes: Sizes) -> Iterator[None]:
    """Begin with cohort and student in a second process. What fails there does so again, with its reason, here."""
    if (places.cohort / ARTIFACT_FILE).exists():
        yield
        return
    beside = get_context("spawn").Process(target=_make_beside, args=(places, sizes), daemon=True)
    beside.start()
    try:
        yield
        beside.join()
    finally:
        beside.terminate()


def _make_beside(places: Places, sizes: Sizes) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal: the first process ends this one
        signal.signal(number, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _make_cohort(places.cohort, sizes)
    _make_student(places.student, sizes["student"], trained=True)


def _make_cohort(folder: Path, sizes: Sizes) -> int:
    """Write the cohort and its ceilings; its visits."""
    import pyarrow.parquet as pq

    from ckd.ehr.synthetic.rows import COHORT_FILE, write_cohort

    write_cohort(str(folder), sizes["demo"]["patients"], sizes["demo"]["seed"], sizes["ceiling"]["patients"])
    return int(pq.read_metadata(folder / COHORT_FILE).num_rows)


def _who(config: Config) -> str:
    """Who does the work, and how to have it done in the other way."""
    teacher, student = config.teacher.workers, config.student.workers
    if teacher.in_process and student.in_process:
        return "everything in this process, without Ray ('ckd demo': actors and ranks)"
    ranks = f"{student} student ranks with DeepSpeed ZeRO stage {config.student.zero_stage}"
    return (
        f"{teacher} teacher actors, then {ranks}, on a Ray of this machine "
        "('ckd demo teacher.workers=0 student.workers=0': all in this process)"
    )


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


def _make_student(folder: Path, size: Mapping[str, int], trained: bool) -> int:
    """Write the student base; the visits that its vocabulary is from."""
    from ckd.student.tiny import SMALLEST, StudentSize, make_student

    inputs, _ = _other_patients(size)
    make_student(str(folder), inputs, size["seed"], StudentSize() if trained else SMALLEST)
    return len(inputs)


def _other_patients(size: Mapping[str, int]) -> tuple[list[str], Any]:
    """Texts and next labels [visits, L] of patients of another generator seed."""
    import numpy as np

    from ckd.ehr.synthetic.patients import generate
    from ckd.ehr.synthetic.rows import table

    rows = table(generate(size["patients"], size["seed"]))
    return rows["input"].to_pylist(), np.array(rows["labels"].to_pylist())


def _places(config: Config, cohort_file: str) -> Places:
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
    return Places(train.parent, base.parent, Path(config.student.base_model))


def _figure(block: Mapping[str, Any], name: str) -> str:
    value = (block["macro"] or {}).get(name)
    return "-" if value is None else f"{value:.3f}"
