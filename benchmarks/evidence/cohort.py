"""The cohort, the teachers and the student base of one phase of the ablation, and the stages that its arms share.

Those are visits, embeddings, heads and soft labels, made by the project's own jobs.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.evidence.setup import Arm, Setup, Trial
from ckd.config import Config
from ckd.configfile import load
from ckd.ehr.synthetic.ceiling import oracle_observed
from ckd.ehr.synthetic.patients import generate, parameters
from ckd.ehr.synthetic.rows import CEILINGS_FILE, COHORT_FILE, table
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import write_file
from ckd.visits.columns import lists, matrix
from ckd.visits.splits import of_adapter, point
from jobs import embed, soft_labels, train_head
from jobs.console import Console

SHARED_STAGES = ("visits", "embeddings", "soft_labels")


def configuration(trial: Trial, name: str, overrides: Sequence[str] = ()) -> Config:
    """The base configuration with its files below `<the trial's folder>/<name>`, and the given overrides."""
    folder = trial.folder / name
    places = ["run.name=run", f"run.results={folder}", f"run.public_files={folder}"]
    inputs = [f"data.train={trial.folder / COHORT_FILE}", f"student.base_model={trial.work / 'student_base'}"]
    return load(None, [*places, *inputs, *trial.setup.raw["base"], *overrides])


def make_cohort(trial: Trial) -> Path:
    """Write cohort.parquet and oracles.parquet unless they are there; returns their folder.

    All tuning and held_out subjects of the generator, and of the train subjects a hashed share: what a student learns
    from is small, what it is judged by is not. The oracles (visit_id, oracle_latent, oracle_observed) are of every
    labelled row.
    """
    sizes, seed, folder = trial.setup.raw["sizes"], trial.generator_seed, trial.folder
    fields = {"ablation": 1, "seed": seed, **{f"sizes.{k}": v for k, v in sizes.items()}}
    artifact = FolderArtifact(str(folder / "cohort"), fields)
    if artifact.is_done():
        return folder
    encounters = generate(sizes["patients"], seed)
    rows = table(encounters, include_last=True)
    observed = oracle_observed(encounters, sizes["ceiling_patients"], _seed("ceiling"))
    numbers = enumerate(zip(encounters.patient, encounters.order, strict=True))
    place = {f"{seed}-{patient:06d}-{order:02d}": n for n, (patient, order) in numbers}
    subjects = zip(rows["split"].to_pylist(), rows["group"].to_pylist(), strict=True)
    kept = [split != "train" or point(group, seed) < sizes["train_share"] for split, group in subjects]
    rows = rows.filter(pa.array(kept))
    labeled = rows.filter(rows["labels"].is_valid())
    ids = labeled["visit_id"].to_pylist()
    of_rows = lists(observed[[place[visit] for visit in ids]].astype(np.float32))
    oracles = pa.table({"visit_id": ids, "oracle_latent": labeled["oracle_latent"], "oracle_observed": of_rows})
    for name, written in ((COHORT_FILE, rows.drop_columns(["oracle_latent"])), (CEILINGS_FILE, oracles)):
        write_file(str(folder / name), lambda stream, t=written: pq.write_table(t, stream, compression="zstd"))
    artifact.commit([])
    return folder


def _seed(what: str) -> int:
    """The generator seed of one of synthetic.yaml's cohorts."""
    return int(parameters().raw["sizes"][what]["seed"])


def make_student_base(work: Path, setup: Setup) -> None:
    """The untrained student with a vocabulary from the text of other patients; one for both phases."""
    from ckd.student.tiny import SMALLEST, StudentSize, make_student

    seed, size = _seed("student"), SMALLEST if setup.raw.get("untrained") else StudentSize()
    other = table(generate(setup.raw["sizes"]["student_patients"], seed))
    make_student(str(work / "student_base"), other["input"].to_pylist(), seed, size)


def make_teacher_for(trial: Trial, adapter: str) -> Path:
    """A teacher that knows other patients, in place of a large model's pre-training, and this cohort's train subjects.

    Its adapter was tuned on all of them, or only on the share that `ckd export jsonl --adapter-share` would give it.
    """
    from ckd.teacher.tiny import UNTRAINED, TeacherSize, make_teacher

    raw, seed = trial.setup.raw, _seed("teacher")
    other = table(generate(raw["sizes"]["teacher_patients"], seed))
    rows = pq.read_table(trial.folder / COHORT_FILE)
    rows = rows.filter(pc.and_(pc.equal(rows["split"], "train"), rows["labels"].is_valid()))
    if adapter != "all":
        rows = rows.filter(pa.array(of_adapter(rows["group"].to_pylist(), float(adapter))))
    inputs = other["input"].to_pylist() + rows["input"].to_pylist()
    labels = np.concatenate([matrix(other["labels"]), matrix(rows["labels"])])
    teacher = trial.folder / f"teacher-{adapter}"
    size = UNTRAINED if raw.get("untrained") else TeacherSize(adapter_steps=raw["sizes"]["adapter_steps"])
    make_teacher(str(teacher), inputs, labels, seed, size)
    return teacher


def make_shared(trial: Trial, arm: Arm, console: Console) -> Path:
    """The artifacts folder with visits, embeddings and soft labels that the arm starts from; what is there is kept.

    The teacher's pass is made once per adapter and linked into the folders of its other heads.
    """
    teacher = make_teacher_for(trial, arm.adapter)
    models = [f"teacher.base_model={teacher / 'base'}", f"teacher.adapter={teacher / 'adapter'}"]
    models.append("student.use_unlabeled=true")
    first = configuration(trial, f"shared/{arm.adapter}", models)
    embed.run(first, console)
    config = configuration(trial, f"shared/{arm.shared}", [*models, *arm.teacher])
    if arm.shared != arm.adapter:
        link(Path(first.run.artifacts_root), Path(config.run.artifacts_root), ("visits", "embeddings"))
    train_head.run(config, console)
    soft_labels.run(config, console)
    return Path(config.run.artifacts_root)


def link(source: Path, target: Path, stages: Sequence[str]) -> None:
    """Hard-link whole stages: a writer replaces a file, it never writes into one."""
    for stage in stages:
        if not (target / stage).exists():
            unfinished = target / f"{stage}.linking"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(source / stage, unfinished, copy_function=os.link)
            unfinished.rename(target / stage)
