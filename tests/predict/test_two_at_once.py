"""Two drivers of one folder at once: one does it, the other says who and ends with exit code 3, or finds it done."""

import subprocess
import sys

import pytest

from ckd.store.artifacts import FolderArtifact
from jobs.cli import main
from jobs.submit import overrides
from testbed.rows import write_jsonl
from tests.predict.finished_run import finished_run
from tests.predict.predicting import predicted, rows
from tests.store.test_lease import another_process_that_holds
from tests.student.student_cohort import make_base, make_cohort, make_config
from tests.student.trainings import VISITS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"), held_out=20)


def refused(words, folder, capsys):
    with another_process_that_holds(folder) as first:
        capsys.readouterr()
        assert main(words) == 3
        (said,) = capsys.readouterr().err.splitlines()[-1:]
        assert f"(process {first.pid} on " in said and "run this again when it has ended" in said


def test_each_command_names_the_one_that_writes_there_and_works_when_that_has_ended(finished, tmp_path, capsys):
    model, given = f"{finished.run.folder}/student", write_jsonl(tmp_path / "in.json", rows(12))
    out, meds, exported = (str(tmp_path / name) for name in ("out", "meds", "exported"))
    predict = ["predict", given, "--model", model, "--out", out, "--meds", meds]
    export = ["export", "model", "--out", exported, *overrides(finished)]
    training = make_config(tmp_path / "training", make_base(tmp_path / "base"), epochs=1)
    make_cohort(training.run.artifacts_root, VISITS)
    train = ["train-student", *overrides(training)]
    for words, folder in (
        (predict, out),
        (predict, meds),
        (export, exported),
        (train, f"{training.run.artifacts_root}/checkpoints"),
    ):
        refused(words, folder, capsys)
    for words in (predict, export, train):
        assert main(words) == 0
    assert len(predicted(tmp_path / "out")) == 12
    for folder in (meds, exported):
        FolderArtifact(folder, {}).verify()


def test_two_processes_that_predict_and_publish_at_once_leave_whole_folders(finished, tmp_path):
    model, given = f"{finished.run.folder}/student", write_jsonl(tmp_path / "in.json", rows(40))
    out, meds = str(tmp_path / "out"), str(tmp_path / "meds")
    words = [sys.executable, "-m", "jobs.cli", "predict", given, "--model", model, "--out", out, "--meds", meds]
    jobs = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) for _ in range(2)]
    told = [job.communicate(timeout=120)[1] for job in jobs]
    assert {job.returncode for job in jobs} <= {0, 3} and 0 in {job.returncode for job in jobs}
    assert all("Traceback" not in said for said in told)
    assert len(predicted(tmp_path / "out")) == 40
    FolderArtifact(meds, {}).verify()
