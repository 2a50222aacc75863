"""The whole pipeline by its command: open MIMIC demo rows, killed and continued, on Ray, without patient text."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from ckd.calibration import Calibration
from ckd.configfile import load
from ckd.evaluation import calibrate
from ckd.store.files import list_files, read_bytes
from ckd.store.jsonfile import SEAL
from ckd.visits.labels import DISEASES, render_output
from jobs.cli import main
from tests.jobs.small_run import words
from tests.student.student_cohort import make_visits

MARKER = "ZQMARKERPATIENTQZ"
STAGES = ("visits", "embeddings", "soft_labels", "tokens", "predictions")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Public JSONL files of a synthetic cohort; every input ends in a marker."""
    folder = tmp_path_factory.mktemp("rows")
    for split, count in (("train", 120), ("tuning", 60), ("held_out", 60)):
        with (folder / f"{split}.json").open("w") as file:
            for visit in make_visits(split, count):
                row = {
                    "instruction": visit.instruction,
                    "input": f"{visit.input} {MARKER}",
                    "output": render_output(visit.labels),
                }
                file.write(json.dumps(row | {"subject_id": visit.subject_id}) + "\n")
    return folder


def command(folder, arguments):
    """Start `ckd` in `folder` with its output in a file."""
    folder.mkdir(exist_ok=True)
    log = (folder / "output.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
    )


def finish(folder, arguments):
    """Run to the end; returns everything printed so far."""
    code = command(folder, arguments).wait(timeout=280)
    output = (folder / "output.txt").read_text()
    assert code == 0, output[-3000:]
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, rows, teacher_folder, bert):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, finish(folder, words(folder, rows, teacher_folder, bert))


def parts(folder):
    """Every part's bytes of every stage."""
    root = folder / "results/t/artifacts"
    return {
        f"{stage}/{name}": read_bytes(f"{root}/{stage}/{name}")
        for stage in STAGES
        for name in list_files(f"{root}/{stage}", ".parquet")
    }


def test_the_pipeline_ends_with_metrics_public_files_and_a_clean_audit(undisturbed, rows, teacher_folder, bert, here):
    folder, output = undisturbed
    metrics = json.loads((folder / "results/t/metrics.json").read_text())
    for model in ("student", "teacher"):
        for average in ("macro", "micro"):
            assert set(metrics["held_out"][model][average]) >= {"auroc", "auprc", "brier", "f1", "f1_at_05"}
    assert metrics["held_out"]["student"]["macro"]["auroc"] is not None
    assert "visits: read 240 = kept 240 + quarantined 0" in output
    written = (
        "data/hands_name_train.json",
        "data/hands_name_val.json",
        "lora/teacher_classification_head.pt",
        "results/test_metrics.txt",
    )
    assert all((folder / name).is_file() for name in written)
    public = {p.name for p in (folder / "results/heads_results0.9").iterdir() if not p.name.startswith(".")}
    assert public == {"best_model.pt", "test_results.pt"}
    assert len(json.loads((folder / "data/hands_name_train.json").read_text())) == 120
    assert f"report: wrote {folder}/results/t/report.html" in output
    assert "This sample shows nothing about performance" in (folder / "results/t/report.html").read_text()
    student = folder / "results/t/student"
    assert Calibration.of_student(str(student), DISEASES).thresholds.tolist() == list(
        metrics["thresholds"]["student"]["values"].values()
    )
    verify = ["verify", *words(folder, rows, teacher_folder, bert)[1:]]
    assert here(folder, verify)[0] == 0
    fresh = (student / "calibration.json").read_text()
    other = json.loads(fresh) | {"model": "other"}
    (student / "calibration.json").write_text(json.dumps({key: other[key] for key in other if key != SEAL}))
    code, *said = here(folder, verify)
    (student / "calibration.json").write_text(fresh)
    assert code == 2 and "made for another student" in "".join(said)


def test_no_patient_text_reaches_a_log_an_error_or_a_metric(undisturbed):
    folder, output = undisturbed
    assert MARKER not in output
    assert "w01" not in output
    for path in (folder / "results").rglob("*"):
        if path.is_file() and path.suffix in {".json", ".jsonl", ".txt", ".html"} and path.name != "tokenizer.json":
            assert MARKER not in path.read_text(), path


def test_a_finished_run_answers_quickly_and_changes_nothing(undisturbed, rows, teacher_folder, bert, here):
    folder, _ = undisturbed
    before = parts(folder), (folder / "results/t/metrics.json").read_bytes()
    code, again, _ = here(folder, words(folder, rows, teacher_folder, bert))
    assert code == 0 and "embed: 8 of 8 shards done, 0 to do" in again
    assert (parts(folder), (folder / "results/t/metrics.json").read_bytes()) == before
    assert (folder / "results/test_metrics.txt").read_text().count("\n") == 1


def test_evaluate_fits_every_models_calibration_once(undisturbed, rows, teacher_folder, bert, monkeypatch):
    folder, _ = undisturbed
    fitted, cross_fitted = Counter(), calibrate.cross_fitted
    monkeypatch.setattr(
        calibrate, "cross_fitted", lambda z, *rest: (fitted.update([z.tobytes()]), cross_fitted(z, *rest))[1]
    )
    monkeypatch.chdir(folder)
    assert main(["evaluate", *words(folder, rows, teacher_folder, bert)[1:]]) == 0
    assert len(fitted) >= 4 and set(fitted.values()) == {1}


@pytest.mark.parametrize(
    ("stage", "change", "field"),
    [
        ("run", "teacher.max_length=900", "teacher.max_length=1536, this run has teacher.max_length=900"),
        ("run", "teacher.adapter=", "teacher.adapter="),
        ("train-head", "head.epochs=9", "head.epochs=3, this run has head.epochs=9"),
        ("soft-labels", "head.epochs=9", "head.epochs=3, this run has head.epochs=9"),
        ("train-student", "student.epochs=9", "student.epochs=2, this run has student.epochs=9"),
        ("evaluate", "student.hard_weight=0.5", "student.hard_weight=0.9, this run has student.hard_weight=0.5"),
        ("evaluate", "teacher.adapter=", "teacher.adapter="),
        ("evaluate", "data.tuning=", "data.tuning="),
        ("report", "student.hard_weight=0.5", "student.hard_weight=0.9, this run has student.hard_weight=0.5"),
        ("verify", "teacher.max_length=900", "problems (listed above)"),
    ],
)
def test_every_stage_refuses_a_changed_setting_with_the_field_named(
    undisturbed, rows, teacher_folder, bert, stage, change, field, here
):
    folder, _ = undisturbed
    before = sorted(
        (p, p.stat().st_mtime_ns) for p in (folder / "results").rglob("*") if p.is_file() and p.name != "events.jsonl"
    )
    code, _, said = here(folder, [stage, *words(folder, rows, teacher_folder, bert, change)[1:]])
    assert code == 2, said
    assert field in said
    assert said.count("\n") == 1
    assert (
        sorted(
            (p, p.stat().st_mtime_ns)
            for p in (folder / "results").rglob("*")
            if p.is_file() and p.name != "events.jsonl"
        )
        == before
    )


def test_a_finished_run_is_looked_at_by_its_name_alone(undisturbed, here, tmp_path):
    folder, _ = undisturbed
    name = ["run.name=t", f"run.results={folder}/results"]
    saved = folder / "results/t/config.yaml"
    kept = load(str(saved))
    metrics = (folder / "results/t/metrics.json").read_bytes()
    for asked in (["report"], ["status"], ["verify"], ["evaluate"], ["export", "model", f"--out={tmp_path}/model"]):
        code, out, err = here(tmp_path, [*asked, *name])
        assert (code, err) == (0, ""), out
        assert out.startswith(f"settings of {saved}\n")
        assert "refused" not in out and "missing" not in out
    assert load(str(saved)) == kept
    assert (folder / "results/t/metrics.json").read_bytes() == metrics
    code, out, _ = here(tmp_path, ["status", *name, "student.hard_weight=0.3"])
    assert "student.hard_weight=0.9, this run has student.hard_weight=0.3" in out


def test_status_names_what_a_changed_setting_would_be_refused_for(undisturbed, rows, teacher_folder, bert, here):
    folder, _ = undisturbed
    arguments = ["status", *words(folder, rows, teacher_folder, bert)[1:]]
    assert "refused" not in here(folder, arguments)[1]
    changed = here(folder, [*arguments, "student.hard_weight=0.3"])[1]
    assert "student.hard_weight=0.9, this run has student.hard_weight=0.3" in changed


def test_a_best_model_that_another_run_wrote_over_is_written_again(undisturbed, rows, teacher_folder, bert, here):
    folder, _ = undisturbed
    path = folder / "results/heads_results0.9/best_model.pt"
    before = path.read_bytes()
    path.write_bytes(b"of another run")
    assert here(folder, ["train-student", *words(folder, rows, teacher_folder, bert)[1:]])[0] == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.results=/proc/nowhere", "cannot be made"),
        ("run.results=nothing://bucket/x", "no file system for it"),
        ("student.max_length=512", "knows 64 positions"),
        ("student.base_model=nowhere/at/all", "no such folder"),
        ("run.results=", "at least 1 character"),
    ],
)
def test_what_cannot_work_is_refused_before_the_teacher_runs(
    tmp_path, rows, teacher_folder, bert, change, message, here
):
    code, _, said = here(tmp_path, words(tmp_path, rows, teacher_folder, bert, change))
    assert code == 2, said
    assert message in said
    assert not list(tmp_path.rglob("embeddings/*"))


KILLS = (
    "embeddings/part-00001.parquet",
    "head",
    "soft_labels/part-00001.parquet",
    "checkpoints/step-0000002",
    "predictions",
)


def kill_when(process, path):
    """SIGKILL the whole process group as soon as `path` is there; False when the command ended first."""
    deadline = time.monotonic() + 200
    while not path.exists():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.faults
def test_a_killed_run_continues_and_ends_with_the_same_artifacts(tmp_path, undisturbed, rows, teacher_folder, bert):
    arguments = words(tmp_path, rows, teacher_folder, bert)
    for moment in KILLS:
        assert kill_when(command(tmp_path, arguments), tmp_path / "results/t/artifacts" / moment), moment
    finished = {name for name in parts(tmp_path) if name.startswith("embeddings")}
    times = {name: (tmp_path / "results/t/artifacts" / name).stat().st_mtime_ns for name in finished}
    finish(tmp_path, arguments)
    assert {name: (tmp_path / "results/t/artifacts" / name).stat().st_mtime_ns for name in finished} == times, (
        "a finished shard was computed again"
    )
    whole, _ = undisturbed
    assert parts(tmp_path) == parts(whole)
    assert (tmp_path / "results/t/metrics.json").read_bytes() == (whole / "results/t/metrics.json").read_bytes()


def test_the_same_embeddings_come_from_ray_actors(tmp_path, undisturbed, rows, teacher_folder, bert, here, local_ray):
    arguments = ["embed", *words(tmp_path, rows, teacher_folder, bert, "teacher.workers=1..2")[1:]]
    code, *said = here(tmp_path, arguments)
    assert code == 0, said
    whole = {name: part for name, part in parts(undisturbed[0]).items() if name.startswith(("visits", "embeddings"))}
    assert parts(tmp_path) == whole
