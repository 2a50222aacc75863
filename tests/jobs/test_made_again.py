"""What `ckd verify` tells to delete is made again by the command that it names: no advice leads nowhere."""

import pytest

from jobs.cli import main
from jobs.stages import STEPS
from testbed.rows import rows, write_jsonl
from tests.student.student_cohort import OTHERS, make_base


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder):
    """A finished small run: its folder of artifacts, and the words of its configuration."""
    folder = tmp_path_factory.mktemp("finished")
    splits = {"train": (0, 40), "tuning": (40, 60), "held_out": (60, 80)}
    files = [f"data.{s}={write_jsonl(folder / f'{s}.json', rows(*span, split=s))}" for s, span in splits.items()]
    models = [
        f"teacher.base_model={teacher_folder}/base",
        f"student.base_model={make_base(folder / 'b', others=OTHERS)}",
    ]
    small = "run.name=t data.shard_rows=16 teacher.dtype=float32 head.epochs=2 head.folds=2 student.epochs=1"
    places = [f"run.results={folder}/results", f"run.public_files={folder}", "evaluation.resamples=100"]
    words = [*files, *models, *places, *small.split(), "student.max_length=32"]
    assert main(["run", *words]) == 0
    return folder / "results/t/artifacts", words


@pytest.mark.parametrize("stage", [step.name for step in STEPS])
def test_parts_that_are_deleted_are_made_again_with_the_same_bytes(finished, stage, capsys):
    root, words = finished
    parts = sorted((root / stage).glob("part-*.parquet"))
    before = [part.read_bytes() for part in parts]
    for part in {parts[0], parts[-1]}:
        part.write_bytes(part.read_bytes()[:-100])
    capsys.readouterr()
    assert main(["verify", *words]) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    for part in {parts[0], parts[-1]}:
        assert [line for line in told if str(part) in line and "delete it and" in line], told
        part.unlink()
    assert main(["run", *words]) == 0
    assert main(["verify", *words]) == 0, capsys.readouterr().out
    assert [part.read_bytes() for part in parts] == before


def test_a_damaged_line_of_the_shared_test_metrics_is_seen_and_hinders_no_run(finished, capsys):
    root, words = finished
    path = next(root.parents[2].glob("results/test_metrics.txt"))
    before = path.read_bytes()
    theirs = before.replace(b"0.9", b"0.3")
    for damaged in (before.replace("：".encode(), b"\xef\xbc"), before.replace(b"Test F1", b"Test G1"), b""):
        path.write_bytes(theirs + damaged)
        capsys.readouterr()
        assert main(["verify", *words]) == 2
        assert f"problem: {path}: no line holds this run's figures" in capsys.readouterr().out
        assert main(["evaluate", *words]) == 0
        assert path.read_bytes() == theirs + damaged + before
        assert main(["verify", *words]) == 0
    path.unlink()
    assert main(["verify", *words]) == 2
    assert main(["evaluate", *words]) == 0 and path.read_bytes() == before


def test_a_report_sweeps_what_a_killed_one_left(finished):
    root, words = finished
    left, others = (root.parent / f".{name}.{'0' * 32}.tmp" for name in ("report.html", "notes"))
    kept = root.parent / ".notes.tmp"
    for path in (left, others, kept):
        path.touch()
    assert main(["report", *words]) == 0
    assert not left.exists() and not others.exists() and kept.exists()
