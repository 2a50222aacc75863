"""The whole pipeline on rows of the open MIMIC demo and on tables of a hospital."""

import json
from pathlib import Path

from ckd.ehr.synthetic.tables import write_tables
from ckd.store.artifacts import Stage
from ckd.visits.cohort import Cohort
from jobs.cli import main
from tests.ehr.mimic_rows import write_rows
from tests.jobs.small_run import words


def test_open_mimic_rows_run_to_metrics(tmp_path, teacher_folder, bert, here):
    """It runs on real codes and dates; 100 patients show nothing about performance."""
    assert write_rows(tmp_path) == 29
    arguments = words(tmp_path, tmp_path, teacher_folder, bert)
    assert here(tmp_path, [a for a in arguments if not a.startswith("data.tuning")])[0] == 0
    metrics = json.loads((tmp_path / "results/t/metrics.json").read_text())
    assert metrics["held_out"]["student"]["micro"]["brier"] is not None
    assert Path(tmp_path / "results/t/student/model.safetensors").is_file()


def test_hospital_tables_run_to_metrics_with_every_option_of_the_distillation(tmp_path, teacher_folder, bert, here):
    """Unlabeled last visits come through the teacher into the student, only those of train subjects."""
    write_tables(str(tmp_path / "tables"), 80, 5)
    settings = ("ingest.min_support=2", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.2")
    assert main(["ingest", "mimic3", str(tmp_path / "tables"), "--out", str(tmp_path / "cohort"), *settings]) == 0
    options = "use_unlabeled=true embedding_weight=0.5 class_weighting=balanced max_length=48 epochs=1"
    arguments = [
        a
        for a in words(tmp_path, tmp_path, teacher_folder, bert)
        if not a.startswith(("data.train", "data.tuning", "data.held_out"))
    ]
    arguments += [f"data.train={tmp_path}/cohort", "data.tuning=", *(f"student.{o}" for o in options.split())]
    code, output, _ = here(tmp_path, arguments)
    assert code == 0
    root = str(tmp_path / "results/t/artifacts")
    cohort = Cohort.open(root)
    last = [shard for shard in cohort.select(labeled=None) if not shard.labeled]
    assert {shard.split for shard in last} == {"train", "tuning", "held_out"}
    wanted = {shard.index for shard in cohort.select()} | {shard.index for shard in last if shard.split == "train"}
    assert all(set(Stage(root, stage, {}).indices()) == wanted for stage in ("embeddings", "soft_labels", "tokens"))
    assert (
        "lost text from their end" in output
        and json.loads((tmp_path / "results/t/metrics.json").read_text())["held_out"]["student"]["micro"]["brier"]
        is not None
    )
