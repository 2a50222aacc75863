import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ckd.configfile import load
from ckd.evaluation.calibrate import calibrate_student
from ckd.evaluation.claims import headline_facts
from ckd.evaluation.evaluate import evaluate
from ckd.evaluation.scores import read_split
from ckd.run import Run
from ckd.store.jsonfile import sealed
from ckd.visits.cohort import Cohort
from jobs import evaluate as job
from jobs.console import Console
from tests.evaluation.evaluation_cohort import MARKER, as_lists, make_visits, task_of, write_all


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose predictions and soft labels are there, reported twice."""
    folder = tmp_path_factory.mktemp("results")
    config = load(None, [f"run.results={folder}", "run.name=small"])
    cohort = write_all(config.run.artifacts_root, make_visits())
    console = Console(io.StringIO(), config.run.folder)
    metrics = evaluate(Cohort.open(cohort.root), seed=config.seed, wanted=config.evaluation, say=console.say)
    run = Run(config)
    for _ in range(2):
        job.report(run, console, metrics)
        job.write_public_results(run, console, metrics)
    return config, cohort, console, metrics


def test_metrics_json_holds_what_was_measured_and_the_terminal_shows_it(finished):
    config, _, console, metrics = finished
    written = Path(config.run.folder, "metrics.json").read_text(encoding="utf-8")
    found = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == sealed(metrics)
    printed = console.stream.getvalue()
    assert headline_facts(metrics).sentence in printed and "macro AUROC" in printed
    events = Path(config.run.folder, "events.jsonl").read_text(encoding="utf-8")
    assert MARKER not in written + printed + events


def test_the_public_result_files_hold_the_same_figures(finished):
    config, cohort, _, metrics = finished
    rows = read_split(cohort, "held_out", ["predictions", "soft_labels"])
    stored = torch.load(Path(config.run.public_results, "heads_results0.9", "test_results.pt"), weights_only=True)
    assert (stored["all_preds"].numpy() == rows.scores["predictions"]).all()
    assert (stored["all_labels_hard"].numpy() == rows.labels).all()
    assert (stored["all_labels_soft"].numpy() == rows.scores["soft_labels"]).all()
    lines = Path(config.run.public_results, "test_metrics.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1  # the second report repeats nothing
    for value in metrics["public_code_metrics"]["student"].values():
        assert f"{value:.4f}" in lines[0]


def test_a_threshold_that_came_into_the_labels_file_later_is_the_one_that_counts(tmp_path):
    stored = task_of(2)
    own = [{**one, "threshold": {"for": "sensitivity", "target": 1}} for one in stored.stored["labels"]]
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump({**stored.stored, "labels": own}))
    config = load(None, [f"run.artifacts={tmp_path}", "run.name=small", f"task.labels={tmp_path / 'labels.yaml'}"])
    cohort = write_all(config.run.artifacts_root, make_visits((20, 60, 20), task=stored), task=stored)
    found = calibrate_student(job.judged(Run(config)), config.evaluation, 0)
    assert (found.thresholds < calibrate_student(cohort, config.evaluation, 0).thresholds).all()


def test_a_synthetic_cohorts_oracles_are_found_beside_its_rows_unless_it_was_split_anew(tmp_path):
    oracles = pa.table({"visit_id": ["a"], "oracle_latent": as_lists(np.full((1, 25), 0.5))})
    rows = tmp_path / "cohort.parquet"
    assert job.ceilings(load(None, [f"data.train={rows}"])) is None
    pq.write_table(oracles, tmp_path / "oracles.parquet")
    assert job.ceilings(load(None, [f"data.train={rows}"])).column_names == ["visit_id", "oracle_latent"]
    assert job.ceilings(load(None, [f"data.train={rows}", "data.split=public"])) is None


def test_adapter_optimism_comes_from_the_head(tmp_path):
    from ckd.store.artifacts import FolderArtifact

    run = Run(load(None, [f"run.artifacts={tmp_path}"]), {"head": {}})
    assert job.adapter_optimism(run) is None
    FolderArtifact(str(tmp_path / "head"), {}).commit([], {"adapter_optimism": 0.03})
    assert job.adapter_optimism(run) == 0.03
