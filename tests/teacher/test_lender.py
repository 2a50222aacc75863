"""One pass of the teacher serves many tasks: embeddings are taken by visit_id and text, never by place."""

import io
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ckd.configfile import load
from ckd.errors import ArtifactError, ConfigError, IncompleteError, MismatchError
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker
from ckd.teacher.lender import together
from ckd.visits.columns import matrix
from jobs import embed, status, verify
from jobs.console import Console
from testbed.rows import write_jsonl
from tests.faults.fake_embed import FakeEngine, FakeMeter

LABELS = "name: other\nlabels:\n" + "".join(f"  - {{name: Label {n}, given: c{n}}}\n" for n in range(3))
ASKED = []  # texts that engines were asked for


class CountingEngine(FakeEngine):
    def __init__(self):
        super().__init__(0)

    def encode(self, *texts):
        if len(texts) == 2:
            ASKED.extend(texts[1])
        return super().encode(*texts)


class NoEngine(FakeEngine):
    def __init__(self):
        raise AssertionError("an engine was loaded")


class Case:
    """Runs of `ckd embed` on small cohorts with a real teacher's fingerprint and another engine."""

    def __init__(self, folder, teacher, monkeypatch):
        self.folder, self.teacher, self.monkeypatch = folder, teacher, monkeypatch
        (folder / "labels.yaml").write_text(LABELS)
        self.other_task = f"task.labels={folder}/labels.yaml"
        visits = rows(range(40), "Disease that the patient may acquire: None", unlabeled=lambda n: n % 5 == 0)
        self.first, asked, _ = self.embed("first", visits, CountingEngine)
        assert len(asked) == 40

    def embed(self, name, visits, engine, *overrides):
        """The run, the texts that its engine was asked for, its lines."""

        def worker(run, lent=None):
            return EmbedWorker(run, engine(), FakeMeter(FakeEngine.load), pickle.loads(pickle.dumps(lent)))

        ASKED.clear()
        self.monkeypatch.setattr(embed, "EMBEDDINGS", replace(EMBEDDINGS, worker=worker))
        given = [f"run.results={self.folder}/results", f"run.name={name}", f"teacher.base_model={self.teacher}/base"]
        file = self.folder / f"{len(list(self.folder.iterdir()))}.json"
        given += [f"data.train={write_jsonl(file, visits)}", "data.shard_rows=8"]
        given += ["student.use_unlabeled=true", "task.instruction=generic"]
        run, out = Run(load(None, [*given, *overrides])), io.StringIO()
        embed.work(run, Console(out))
        return run, list(ASKED), out.getvalue()

    def second(self, visits, engine, *overrides, name="second"):
        """The same of a task of 3 labels that takes the first one's embeddings."""
        return self.embed(name, visits, engine, self.other_task, f"run.embeddings={self.first.root}", *overrides)


@pytest.fixture
def case(tmp_path, teacher_folder, monkeypatch):
    return Case(tmp_path, teacher_folder, monkeypatch)


def rows(numbers, output="Outcome that the patient may have: Label 1", unlabeled=lambda n: False):
    """Visits of which every fourth is held out; unlabeled ones are in train."""
    return [
        {
            "visit_id": f"v{n}",
            "subject_id": f"s{n}",
            "instruction": "own words",
            "input": f"visit {n}",
            "output": None if unlabeled(n) and n % 4 < 3 else output,
            "split": "held_out" if n % 4 == 3 else "train",
        }
        for n in numbers
    ]


def vectors(run):
    """visit_id -> its embedding, of every part."""
    stage = EMBEDDINGS.stage(run)
    parts = [stage.read(index) for index in stage.indices()]
    ids = [i for part in parts for i in part["visit_id"].to_pylist()]
    return dict(zip(ids, (row.tobytes() for part in parts for row in matrix(part["embedding"], None)), strict=True))


def files(run):
    """Each part's bytes."""
    stage = EMBEDDINGS.stage(run)
    return {index: Path(stage.path(index)).read_bytes() for index in stage.indices()}


def test_a_second_task_with_other_unlabeled_visits_computes_nothing(case):
    visits = rows(range(40), unlabeled=lambda n: n % 7 == 0)
    run, _, said = case.second(visits, NoEngine)
    assert len(run.cohort.task) == 3
    cut = [{s.text_hash for s in each.cohort.select("train", labeled=None)} for each in (run, case.first)]
    assert cut[0].isdisjoint(cut[1])
    assert f"embed: run.embeddings={case.first.root}: 40 visits taken from {case.first.root}, 0 to compute" in said
    fresh, asked, _ = case.embed("fresh", visits, CountingEngine, case.other_task)
    assert len(asked) == 40 and vectors(run) == vectors(fresh) == vectors(case.first)
    assert files(run) == files(fresh), "byte for byte, footers too"


def test_whole_shards_are_taken_as_they_are_and_a_run_that_is_done_asks_nobody(case, monkeypatch):
    visits = rows(range(40), unlabeled=lambda n: n % 5 == 0)
    monkeypatch.setattr("ckd.teacher.lender._keys", lambda _: pytest.fail("texts were read"))
    run, _, said = case.second(visits, NoEngine)
    assert "40 visits taken" in said and files(run) == files(case.first)
    shutil.rmtree(case.first.root)
    _, _, said = case.second(visits, NoEngine)
    assert "visits taken" not in said


def test_changed_texts_and_new_visits_are_computed_and_nothing_else(case, monkeypatch):
    visits = rows([*range(10, 40), *range(50, 55)])[::-1]
    visits[8]["input"] += " changed"
    run, asked, said = case.second(visits, CountingEngine)
    assert sorted(asked) == sorted([*(f"visit {n}" for n in range(50, 55)), visits[8]["input"]])
    assert "29 visits taken" in said and "6 to compute" in said and "embed: 6 visits in " in said
    fresh, *_ = case.embed("fresh", visits, CountingEngine, case.other_task)
    assert vectors(run) == vectors(fresh) and files(run) == files(fresh)
    monkeypatch.undo()
    out = io.StringIO()
    with pytest.raises(IncompleteError, match="still missing"):
        verify.run(run.config, Console(out))
    assert "embeddings   35 visits in" in out.getvalue() and "problem:" not in out.getvalue()


def test_the_same_text_under_another_visit_id_or_instruction_is_computed(case):
    visits = [row | {"visit_id": row["visit_id"] + "x"} for row in rows(range(40))]
    _, asked, said = case.second(visits, CountingEngine)
    assert len(asked) == 40 and " 0 visits taken" in said
    _, asked, said = case.second(rows(range(40)), CountingEngine, "task.instruction=own", name="own")
    assert len(asked) == 40 and "task.instruction=generic, given to both" in said


def test_another_teacher_the_own_folder_and_an_empty_one_are_refused(case):
    wrong = r"^run.embeddings=.*: .* was made with teacher.max_length=1536, this run has teacher.max_length=700; give"
    with pytest.raises(MismatchError, match=wrong) as caught:
        case.second(rows(range(40)), NoEngine, "teacher.max_length=700")
    assert "delete" not in str(caught.value), "what lies there is another run's"
    for name, place, error, says in (
        ("mine", "results/mine/artifacts", ConfigError, "this run's own artifacts"),
        ("third", "nowhere", ArtifactError, r"^run.embeddings=.*: .*no visits have been prepared there"),
    ):
        with pytest.raises(error, match=says):
            case.second(rows(range(40)), NoEngine, f"run.embeddings={case.folder}/{place}", name=name)


def test_a_part_of_the_lender_that_holds_other_visits_is_refused_by_its_path(case):
    stage = EMBEDDINGS.stage(case.first)
    part, footer = stage.read(0), stage.footer(0)
    turned = part.set_column(0, "visit_id", part["visit_id"].take(list(range(len(part)))[::-1]))
    stage.write(0, turned, rows=len(part), input_hash=footer.input_hash)
    with pytest.raises(ArtifactError, match="part-00000.parquet: its rows are not those of its visits"):
        case.second(rows(range(40), unlabeled=lambda n: n % 7 == 0), NoEngine)


def content(folder):
    """Every file below a folder, and its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_task_below_a_run_computes_nothing_and_has_the_bytes_of_a_run_of_its_own(case):
    visits, before = rows(range(40), unlabeled=lambda n: n % 7 == 0), content(case.first.folder)
    run, _, said = case.embed("first", visits, NoEngine, case.other_task, "run.task=other")
    assert f"embed: run.task=other: 40 visits taken from {case.first.root}, 0 to compute" in said
    assert run.root == f"{case.first.root}/tasks/other" and run.student_folder == f"{run.folder}/student"
    after = content(case.first.folder)
    assert {path: after[path] for path in before} == before
    assert {path.parts[:3] for path in after.keys() - before.keys()} == {("artifacts", "tasks", "other")}
    fresh, asked, _ = case.embed("fresh", visits, CountingEngine, case.other_task)
    assert len(asked) == 40 and content(run.root) == content(fresh.root)
    out = io.StringIO()
    with pytest.raises(IncompleteError, match="still missing"):
        verify.run(run.config, Console(out))
    assert "embeddings   40 visits in" in out.getvalue() and "problem:" not in out.getvalue()
    said = "\n".join(status.plan(run.config))
    assert f"artifacts    {run.root}" in said and re.search(r"embeddings +(\d)/\1 shards, done", said)
    assert "refused" not in said
    assert not [line for line in status.plan(case.first.config) if line.startswith("refused")]


def test_what_a_run_does_not_have_its_task_computes_and_a_task_needs_its_run(case):
    visits = rows(range(45))
    _, asked, said = case.embed("first", visits, CountingEngine, case.other_task, "run.task=more")
    assert sorted(asked) == [f"visit {n}" for n in range(40, 45)] and "40 visits taken" in said
    assert "5 to compute" in said
    with pytest.raises(
        ArtifactError, match=r"^run.task=more: .*/none/artifacts/visits/_cohort: no visits have been prepared"
    ):
        case.embed("none", visits, NoEngine, case.other_task, "run.task=more")
    with pytest.raises(MismatchError, match=r"^run.task=700: .*/first/artifacts was made with teacher.max_length=1536"):
        case.embed("first", visits, NoEngine, case.other_task, "run.task=700", "teacher.max_length=700")


def test_a_task_folder_takes_no_other_task(case):
    visits = rows(range(40))
    case.embed("first", visits, NoEngine, case.other_task, "run.task=one")
    says = r"tasks/one/visits/_cohort: holds .* 'other' \(3 labels\), .* 'ccs25' \(25 labels\); .* another run.task$"
    for instruction in ("own", "generic"):
        with pytest.raises(MismatchError, match=says):
            case.embed("first", visits, NoEngine, "run.task=one", f"task.instruction={instruction}")
    run = Run(load(None, [f"run.results={case.folder}/results", "run.name=first", "run.task=one"]))
    assert len(run.cohort.task) == 3, "without data.* and task.* keys the task is that of the stored visits"


def test_versions_of_several_parts_are_all_named():
    assert together([{"torch": "2.1", "peft": None}, {"torch": "2.2"}]) == {"peft": "unknown", "torch": "2.1 and 2.2"}
    assert together([{"torch": "2.1"}] * 3) == {"torch": "2.1"}
