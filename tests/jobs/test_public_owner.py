"""Public files know their run: their own run replaces them, another's and hand-made ones are refused untouched."""

import shutil

import pytest

from ckd.config import Config
from ckd.configfile import load
from ckd.errors import ConfigError
from ckd.run import Run
from ckd.store.files import write_bytes
from ckd.visits.public_owner import Owner
from jobs.cli import main
from jobs.public_files import owned, public_problems
from testbed.rows import rows, write_jsonl
from tests.student.student_cohort import OTHERS, make_base

PUBLIC = (
    "data/hands_name_train.json",
    "data/hands_name_val.json",
    "lora/teacher_classification_head.pt",
    "results/heads_results0.9/best_model.pt",
    "results/heads_results0.9/test_results.pt",
)


def write(owner, path, content):
    with owner.writing(str(path)):
        write_bytes(str(path), content)


def test_a_run_replaces_its_own_file_and_another_is_told_whose_it_is(tmp_path):
    one, other, path = Owner("a", "/runs/a"), Owner("a-b", "/runs/a"), tmp_path / "data" / "hands_name_train.json"
    write(one, path, b"1")
    write(one, path, b"2")
    assert path.read_bytes() == b"2" and [p.name for p in path.parent.iterdir()] != []
    for refused in (other, Owner("a", "/runs/else")):
        with pytest.raises(ConfigError, match=r"belongs to run 'a' \(/runs/a\); give this run run\.public_files=…"):
            write(refused, path, b"3")
        with pytest.raises(ConfigError):
            refused.remove(str(path))
        assert list(refused.problems([str(path)])) == []
    assert path.read_bytes() == b"2" and list(one.problems([str(path)])) == []
    path.unlink()  # as the message says: moved away
    write(other, path, b"3")
    assert path.read_bytes() == b"3"


def test_a_file_that_nobody_recorded_is_never_replaced_or_removed(tmp_path):
    owner, path = Owner("a", "/runs/a"), tmp_path / "teacher_classification_head.pt"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there, and no run is recorded that made it"):
        write(owner, path, b"theirs")
    with pytest.raises(ConfigError):
        owner.remove(str(path))
    assert path.read_bytes() == b"mine" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_record_that_has_lost_a_bit_is_a_problem_by_name_and_hides_no_other(tmp_path):
    owner, paths = Owner("a", "/runs/a"), [str(tmp_path / name) for name in ("one.json", "two.json")]
    for path in paths:
        write(owner, path, b"1")
    record = tmp_path / ".one.json.run.json"
    record.write_text(record.read_text().replace('"/runs/a"', '"/runs/c"'))
    (tmp_path / "two.json").write_bytes(b"2")
    damaged, changed = owner.problems(paths)
    assert f"{record}: does not hold what was written" in damaged and f"{paths[1]}: changed" in changed


def test_what_a_kill_left_is_its_own_runs_and_is_named_until_that_mends_it(tmp_path):
    owner, path = Owner("a", "/runs/a"), tmp_path / "best_model.pt"
    with pytest.raises(ZeroDivisionError), owner.writing(str(path)):
        path.write_bytes(b"whole, but not yet recorded")
        raise ZeroDivisionError
    (said,) = owner.problems([str(path)])
    assert said.startswith(f"{path}: was not written to its end")
    write(owner, path, b"whole")
    assert list(owner.problems([str(path)])) == []
    owner.remove(str(path))
    assert list(tmp_path.iterdir()) == []


def words(folder, name, *more) -> list[str]:
    return [f"run.name={name}", f"run.results={folder}/results", f"run.public_files={folder}", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher_folder):
    """A folder with the finished run `a`, and the other words of its configuration."""
    folder = tmp_path_factory.mktemp("runs")
    splits = {"train": (0, 40), "tuning": (40, 60), "held_out": (60, 80)}
    files = [f"data.{s}={write_jsonl(folder / f'{s}.json', rows(*span, split=s))}" for s, span in splits.items()]
    student = make_base(folder / "bert", others=OTHERS)
    models = [f"teacher.base_model={teacher_folder}/base", f"student.base_model={student}", "teacher.dtype=float32"]
    small = "data.shard_rows=16 head.epochs=2 head.folds=2 student.epochs=1 student.max_length=32"
    more = [*files, *models, *small.split(), "evaluation.resamples=100"]
    assert main(["run", *words(folder, "a", *more)]) == 0
    return folder, more


def configured(folder, name, more) -> Config:
    return load(None, words(folder, name, *more))


def test_another_run_is_refused_before_its_first_stage_and_in_every_command_that_writes_them(finished, capsys):
    folder, more = finished
    before = {name: (folder / name).read_bytes() for name in PUBLIC}
    assert main(["run", *words(folder, "b", *more)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "belongs to run 'a'" in said and "run.public_files=…" in said
    assert not (folder / "results" / "b" / "artifacts").exists()
    shutil.copytree(folder / "results" / "a", folder / "results" / "b", ignore=shutil.ignore_patterns("*.jsonl"))
    for command in ("train-head", "soft-labels", "evaluate"):
        capsys.readouterr()
        assert main([command, *words(folder, "b", *more)]) == 2
        said = capsys.readouterr().err
        assert "belongs to run 'a'" in said and "give this run run.public_files=…" in said
    assert {name: (folder / name).read_bytes() for name in PUBLIC} == before
    assert main(["soft-labels", *words(folder, "b", *more), f"run.public_files={folder}/b"]) == 0
    assert (folder / "b" / PUBLIC[0]).read_bytes() == before[PUBLIC[0]]
    assert main(["run", *words(folder, "a", *more)]) == 0
    assert main(["run", *words(folder, "b", *more), f"run.public_files={folder}/b"]) == 0  # one key is enough
    assert {name: (folder / name).read_bytes() for name in PUBLIC} == before


def test_verify_can_tell_which_public_files_are_not_what_the_run_wrote(finished):
    folder, more = finished
    run = Run(configured(folder, "a", more))
    assert public_problems(run) == [] and {f"{folder}/{name}" for name in PUBLIC} <= set(owned(run))
    path = folder / PUBLIC[0]
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    (folder / PUBLIC[3]).unlink()
    assert public_problems(run) == [
        f"{path}: changed since it was written; delete it and run the same command again",
        f"{folder / PUBLIC[3]}: missing; run the same command again",
    ]
    path.unlink()
    assert main(["run", *words(folder, "a", *more)]) == 0
    assert public_problems(run) == []
