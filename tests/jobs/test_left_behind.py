"""Patients' texts leave nothing behind: not half written, not as a working copy, and not readable by others."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.store.files import let_read, sweep_temporary, write_file
from jobs.cli import main
from testbed.rows import MARKER, rows, write_jsonl
from tests.predict.predicting import predicted
from tests.predict.predicting import rows as visits
from tests.predict.scored_student import make_student
from tests.student.student_cohort import OTHERS, make_base

HANG = """
import sys, time
from ckd.store.files import write_file

def write(stream):
    stream.write(sys.argv[2].encode())
    stream.flush()
    print("writing", flush=True)
    time.sleep(600)

write_file(sys.argv[1], write, private=True)
"""


def hanging(path: Path) -> subprocess.Popen:
    """A process in the middle of a write."""
    job = subprocess.Popen([sys.executable, "-c", HANG, str(path), MARKER], stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "writing\n"
    return job


def killed(path: Path) -> None:
    job = hanging(path)
    job.kill()
    job.wait()


def holding(folder: Path) -> list[str]:
    """The half written files below a folder that hold the marker."""
    return [str(path) for path in folder.rglob(".*.tmp") if MARKER.encode() in path.read_bytes()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def plain_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)
    let_read("0600")


def words(folder, teacher_folder, *more) -> list[str]:
    splits = {"train": (0, 40), "tuning": (40, 60), "held_out": (60, 80)}
    found = {s: [{**r, "input": f"{r['input']} {MARKER}"} for r in rows(*span, split=s)] for s, span in splits.items()}
    (folder / "in").mkdir(exist_ok=True)
    files = [f"data.{s}={write_jsonl(folder / 'in' / f'{s}.json', found[s])}" for s in splits]
    student = make_base(folder / "in" / "bert", others=[*OTHERS, MARKER])
    models = [f"teacher.base_model={teacher_folder}/base", f"student.base_model={student}", "teacher.dtype=float32"]
    small = "data.shard_rows=16 head.epochs=2 head.folds=2 student.epochs=1 student.max_length=32 run.name=t"
    places = [f"run.results={folder}/results", f"run.public_files={folder}/public"]
    return [*files, *models, *places, *small.split(), "evaluation.resamples=100", *more]


@pytest.mark.parametrize(("given", "wanted"), [((), 0o600), (("run.file_mode=0640",), 0o640)])
def test_files_of_visits_are_for_their_owner_or_whom_the_run_lets(tmp_path, teacher_folder, plain_umask, given, wanted):
    data = [*words(tmp_path, teacher_folder, *given), "data.tuning="]
    for command in ("embed", "train-head", "soft-labels"):
        assert main([command, *data]) == 0
    parts = list((tmp_path / "results/t/artifacts").rglob("part-*.parquet"))
    public = list((tmp_path / "public" / "data").glob("[!.]*.json"))
    assert len(parts) > 9 and len(public) >= 2
    assert {mode(path) for path in [*parts, *public]} == {wanted}
    assert mode(tmp_path / "results/t/artifacts/head/artifact.json") == 0o644


def test_a_stricter_umask_and_other_writings_of_the_mode(tmp_path, plain_umask):
    os.umask(0o077)
    let_read("0660")
    write_file(str(tmp_path / "a"), lambda stream: stream.write(b"x"), private=True)
    assert mode(tmp_path / "a") == 0o600
    (tmp_path / "c.yaml").write_text("run: {file_mode: 0640}")
    assert load(str(tmp_path / "c.yaml"), []).run.file_mode == "0640"
    assert load(None, ["run.file_mode=640"]).run.file_mode == "0640"
    for wrong in ("0400", "rw", "1777", "0o640"):
        with pytest.raises(ConfigError, match="file_mode"):
            load(None, [f"run.file_mode={wrong}"])


def test_what_a_killed_command_left_half_written_goes_with_the_next_and_a_living_ones_stays(
    tmp_path, teacher_folder, plain_umask
):
    given = words(tmp_path, teacher_folder)
    root, public = tmp_path / "results/t/artifacts", tmp_path / "public/data"
    parts = (root / "visits/part-00000.parquet", public / "name_train_kept.json", root / "card.json")
    others = [
        tmp_path / "public" / name for name in ("lora/h.pt", "results/test_metrics.txt", "results/heads_results.5/b.pt")
    ]
    for path in (*parts, *others):
        killed(path)
    living = hanging(root / "tokens/part-00000.parquet")
    (root / ".notes.tmp").write_text("a person's")
    left = holding(tmp_path / "results") + holding(tmp_path / "public")
    assert len(left) == 7 and {mode(Path(path)) for path in left} == {0o600}
    assert main(["embed", "--dry-run", *given]) == 0
    assert len(holding(tmp_path / "results")) == 3, "a dry run changes nothing"
    assert main(["embed", *given]) == 0
    (kept,) = holding(tmp_path / "results") + holding(tmp_path / "public")
    assert kept.startswith(f"{root}/tokens/.part-00000.parquet.") and (root / ".notes.tmp").exists()
    living.kill()
    living.wait()
    sweep_temporary(str(root))
    assert holding(tmp_path / "results") == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("model"))


def copies(out: Path) -> list[Path]:
    return [*out.glob("visits/*.parquet"), *out.rglob(".*.tmp")]


def test_predict_leaves_no_copy_of_the_texts_whatever_ended_it(model, tmp_path):
    out, given = tmp_path / "out", write_jsonl(tmp_path / "in.json", visits(60))
    predict = ["predict", given, "--model", model, "--out", str(out), "data.shard_rows=4"]
    job = subprocess.Popen([sys.executable, "-m", "jobs.cli", *predict], stdout=subprocess.DEVNULL)
    while job.poll() is None and not list(out.glob("visits/part-*.parquet")):
        pass
    job.kill()
    job.wait()
    assert copies(out), "killed in time"
    killed(out / "visits" / "part-00099.parquet")
    assert main(predict) == 0
    assert copies(out) == [] and len(predicted(out)) == 60


def test_predict_that_is_refused_for_bad_rows_leaves_no_copy(model, tmp_path, capsys):
    out, path = tmp_path / "out", tmp_path / "in.json"
    write_jsonl(path, visits(20))
    path.write_text(path.read_text() + f'{{"input": 7, "subject_id": "{MARKER}"}}\n')
    assert main(["predict", str(path), "--model", model, "--out", str(out), "data.shard_rows=4"]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert copies(out) == [] and holding(out) == []
