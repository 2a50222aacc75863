"""A task is data: any labels in any number, some of them unknown, read from a file whose mistakes have a line."""

import json
import pickle
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import Config, TaskConfig
from ckd.errors import ConfigError, DataError, MismatchError
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.visits.inputs import Input
from ckd.visits.labels import CCS25, INSTRUCTION
from ckd.visits.parquetrows import TASK_MARK
from ckd.visits.public_files import visit_line
from ckd.visits.rows import RowError, parse_line
from ckd.visits.task import GENERIC, Task
from ckd.visits.taskfile import built_in, load_task
from ckd.visits.visit import Visit, to_table
from testbed.rows import write_jsonl

KIDNEY = """\
name: kidney
instruction: "Which of these will the patient have: {labels}"
output: "The patient may have: "
labels:
  - name: Chronic kidney disease
    ccs: [158]
    group: Kidney
  - name: Renal failure
    icd9: [042, 250.10, 584-586]
    icd10: [N17]
    except: {icd10: [N17.1]}
    threshold: {for: sensitivity, target: 0.9}
  - name: Either
    any_of: [Chronic kidney disease, Renal failure]
  - name: Back within 30 days
    readmission_days: 30
"""


def task_of(folder, text, name="labels.yaml"):
    (folder / name).write_text(text)
    return load_task(TaskConfig(labels=str(folder / name)))


@pytest.fixture
def kidney(tmp_path):
    return task_of(tmp_path, KIDNEY)


def test_a_file_gives_labels_sentences_and_codes_as_they_were_typed(kidney):
    assert kidney.names == ("Chronic kidney disease", "Renal failure", "Either", "Back within 30 days")
    assert kidney.question == f"Which of these will the patient have: {', '.join(kidney.names)}"
    assert kidney.labels[1].icd9 == ("042", "250.10", "584-586"), "YAML alone reads 34 and 250.1"
    assert kidney.labels[1].excluding.icd10 == ("N17.1",)
    assert kidney.labels[1].threshold.target == 0.9
    assert (
        kidney.render_output((True, None, False, True))
        == "The patient may have: Chronic kidney disease, Back within 30 days"
    )
    assert Task.model_validate(json.loads(json.dumps(kidney.stored))) == kidney == pickle.loads(pickle.dumps(kidney))


def test_a_code_list_stands_beside_the_file_and_its_codes_are_in_the_identity(tmp_path):
    text = "name: t\nlabels:\n  - {name: One, codes: codes.csv}\n"
    (tmp_path / "codes.csv").write_text("version,code,note\n9,038.9,x\nICD-10,A41.9,\n10,A41.9,again\n")
    one = task_of(tmp_path, text)
    assert one.labels[0].codes == (("038.9", "9"), ("A41.9", "10"))
    (tmp_path / "codes.csv").write_text("version,code\n9,038.9\n")
    assert task_of(tmp_path, text).identity != one.identity


def test_the_identity_is_that_of_meanings_and_places_not_of_sentences_and_thresholds(kidney, tmp_path):
    other = task_of(tmp_path, KIDNEY.replace("target: 0.9", "target: 0.8").replace("group: Kidney", "group: Other"))
    assert (other.identity, other.fingerprint) == (kidney.identity, kidney.fingerprint)
    generic = kidney.generic()
    assert generic.question == GENERIC and generic.identity == kidney.identity
    assert generic.fingerprint != kidney.fingerprint
    assert task_of(tmp_path, KIDNEY.replace("N17.1", "N17.2")).identity != kidney.identity


def test_the_built_in_tasks_are_read_and_ccs25_is_the_public_one():
    assert built_in()[0] == "ccs25" and "readmission" in built_in()
    for name in built_in():
        assert load_task(TaskConfig(labels=name)).name == name
    assert load_task(TaskConfig()) is CCS25 and CCS25.question == INSTRUCTION and len(CCS25) == 25


BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{m}, *{m}, *{m}, *{m}]\n" for m, n in pairwise("abcdefghijklmnop"))


@pytest.mark.parametrize(
    ("wrong", "where", "why"),
    [
        ("name: t\nlabels:\n  - name: A\n", ":3", "says not what it means"),
        ("name: t\nlabels:\n  - name: A\n    ccs: [1]\n  - name: A\n    ccs: [2]\n", ":5", "two labels are named 'A'"),
        ("name: t\nlabels:\n  - name: A, B\n    ccs: [1]\n", ":3", "no comma"),
        ("name: t\nlabels:\n  - name: None\n    ccs: [1]\n", ":3", "stands for no label"),
        ("name: t\nlabels:\n  - name: A\n    ccs: [x]\n", ":4", "integer"),
        ("name: t\nlabels:\n  - name: A\n    icd11: [1]\n", ":4", "unknown key 'icd11'"),
        ("name: t\nlabels:\n  - name: A\n    icd10: ['E1*']\n", ":4", "prefix such as N17.1, or a range"),
        ("name: t\nlabels:\n  - name: A\n    readmission_days: 30\n    ccs: [1]\n", ":3", "two things at once"),
        ("name: t\nlabels:\n  - name: A\n    any_of: [B]\n", ":3", "'B', which is no label above it"),
        ("name: t\nlabels:\n  - name: A\n    icd10: [I25-I20]\n", ":3", "the range I25-I20 ends before it begins"),
        ("name: t\nlabels:\n  - name: A\n    icd10: [N17.x]\n", ":3", "N17.x begins no code of icd10"),
        ("name: t\nlabels:\n  - name: A\n    icd10: ['584']\n", ":3", "584 begins no code of icd10"),
        ("name: t\nlabels:\n  - name: A\n    icd9: [N17]\n", ":3", "such as 584.9"),
        ("name: t\nlabels:\n  - {name: A, ccs: [1], except: {icd9: [250.xx]}}\n", ":3", "250.xx begins no code"),
        ("name: t\nlabels:\n  - name: A\n    icd10: [I20-I9]\n", ":3", "the range I20-I9: write its end out"),
        ("name: t\nlabels:\n  - name: A\n    icd9: [584-6]\n", ":3", "the range 584-6: write its end out"),
        (
            "name: t\nlabels:\n  - {name: A, ccs: [1]}\n  - {name: B, any_of: [A], within_days: 9}\n",
            ":4",
            "not with any_of",
        ),
        ("name: t\nlabels:\n  - {name: A, death_days: 9, except: {icd9: [1]}}\n", ":3", "which death_days has not"),
        ("name: t\nlabels:\n  - name: A\n    codes: nowhere.csv\n", ":4", "nowhere.csv cannot be read"),
        ("name: t\nname: u\nlabels: []\n", ":2", "stands twice"),
        ("name: t\nlabels: []\n", ":2", "at least 1"),
        ("- a\n", ":1", "no mapping"),
        ("name: t\nlabels: {a: b}\n", ":2", "labels: expected a list"),
        ("name: t\nlabels: [a]\n", ":2", "labels.1: expected keys and values (found 'a')"),
        ("name: t\nlabels:\n" + "  - {name: A, ccs: [1]}\n" * 1001, ":2", "labels: expected at most 1,000 labels"),
        ("name: t\nlabels:\n  - {name: A, ccs: 158}\n", ":3", "labels.1.ccs: expected a list"),
        ("name: t\nlabels:\n  - {name: A, codes: [N17]}\n", ":3", "codes names a CSV file"),
        ('name: t\nlabels:\n  - {name: A, codes: "a\\0"}\n', ":3", "cannot be read"),
        ('name: t\nlabels:\n  - {name: "A\\LB", ccs: [1]}\n', ":3", "no invisible character"),
        ('name: t\nlabels:\n  - {name: "\\uFEFFA", ccs: [1]}\n', ":3", "no invisible character"),
        ("name: t\nlabels:\n  - &a {name: A, any_of: [B]}\n  - {name: B, any_of: [A]}\n", ":3", "no label above it"),
        ("name: t\nlabels: &a\n  - *a\n", ":1", "an alias (*) stands inside of what it names"),
        ("&a {name: t, labels: *a}", ":1", "an alias (*) stands inside of what it names"),
        ("a: " + "[" * 2000 + "]" * 2000, ":", ""),
        (BOMB, ":1", "values with its aliases (*) written out"),
        ("name: [\n", ":2", "not YAML"),
    ],
    ids=lambda text: text[:40],
)
def test_a_mistake_is_named_with_its_line(tmp_path, wrong, where, why):
    with pytest.raises(ConfigError, match=f"labels.yaml{where}") as caught:
        task_of(tmp_path, wrong)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_code_list_without_a_version_is_named_with_its_line(tmp_path):
    (tmp_path / "c.csv").write_text("code,version\nA41,10\nB20,\n")
    with pytest.raises(ConfigError, match=r"c\.csv:3: expected a code and a version"):
        task_of(tmp_path, "name: t\nlabels:\n  - {name: One, codes: c.csv}\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"code;version\nN17;10\n", ":1: no columns code and version; expected both, once, separated by commas"),
        (b"code,version,code\nN17,10,N18\n", ":1: no columns code and version"),
        (b"code,version\nN17,10\nN17-N19,10\n", ":3: not a whole code"),
        (b"code,version\nN17*,10\n", ":2: not a whole code"),
        (b"code,version\nN 17,10\n", ":2: not a whole code"),
        (b"code,version\nN17\n", ":2: expected a code and a version"),
        (b"code,version\n" + b"x" * 200_000 + b",10\n", ":1: not CSV (field larger"),
        ("code,version,title\nN17,10,Sj\u00f6gren\n".encode("latin-1"), " cannot be read (UnicodeDecodeError)"),
        (b"code,version\n", ":1: lists no code"),
    ],
)
def test_a_code_list_of_other_people_is_refused_with_its_line(tmp_path, content, says):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        task_of(tmp_path, "name: t\nlabels:\n  - {name: One, codes: c.csv}\n")
    assert f"c.csv{says}" in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_other_people_that_can_be_read_are(tmp_path):
    (tmp_path / "c.csv").write_bytes(
        b"\xef\xbb\xbftitle,code,version\r\nx,N17.9,ICD-10\r\nx,N17.9,10\r\n\r\ny,5849,icd9,z\r\n"
    )
    labels = "  - &a {name: 123, codes: c.csv}\n  - {<<: *a, name: heart}\n  - {name: Heart, codes: c.csv}\n"
    text = f"\ufeffname: t\nlabels:\n{labels}"
    task = task_of(tmp_path, text.replace("\n", "\r\n"))
    assert task.names == ("123", "heart", "Heart")
    assert {label.codes for label in task.labels} == {(("5849", "9"), ("N17.9", "10"))}


def test_no_such_task_is_told_which_there_are():
    with pytest.raises(ConfigError, match=r"task.labels=ccs26: no such file.* ccs25"):
        load_task(TaskConfig(labels="ccs26"))


def made(count):
    return Task.model_validate({"name": "t", "labels": [{"name": f"L{k}", "ccs": [k + 1]} for k in range(count)]})


cells = st.integers(1, 500).flatmap(
    lambda n: st.lists(st.sampled_from([True, False, None]), min_size=n, max_size=n).filter(lambda c: set(c) != {None})
)


@given(cells)
def test_any_number_of_labels_survives_json_and_parquet_with_what_is_unknown(tmp_path_factory, labels):
    task, current = made(len(labels)), tuple(bool(label) for label in reversed(labels))
    visit = Visit("v", "i", "text", tuple(labels), split="train", current_labels=current, line=1)
    fields = ["visit_id", "split", "current_labels"]
    assert parse_line(visit_line(visit, fields, task), "train", 1, task) == visit
    path = tmp_path_factory.mktemp("parquet") / "visits.parquet"
    pq.write_table(to_table([visit], len(task)), path)
    assert list(Input(str(path), "train", task).rows()) == [visit]


def test_a_visit_of_which_no_label_is_known_is_unlabeled(tmp_path):
    line = {"instruction": "i", "input": "x", "output": "None", "unknown_labels": ["L0", "L1"]}
    assert parse_line(json.dumps(line).encode(), "train", 1, made(2)).labels is None
    with pytest.raises(RowError, match="unknown_labels' names a label that 'output' names too"):
        parse_line(json.dumps({**line, "output": "L1"}).encode(), "train", 1, made(2))


def test_the_labels_of_another_task_are_refused_by_name(tmp_path):
    path = str(tmp_path / "visits.parquet")
    visit = Visit("v", "i", "text", (True, False), split="train")
    table = to_table([visit], 2)
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"another task \(2 labels\), the configured one is 'ccs25' with 25"):
        list(Input(path, "train", CCS25).rows())
    pq.write_table(table.replace_schema_metadata({TASK_MARK: f"other {made(3).identity}"}), path)
    with pytest.raises(DataError, match=r"another task \('other', 2 labels\), the configured one is 't' with 2"):
        list(Input(path, "train", made(2)).rows())
    with pytest.raises(DataError, match="another task"):
        Input(path, "train", made(2)).sample(1, 1)
    arrived = Input(path, "train", CCS25, to_learn=False)
    assert [replace(v, line=0) for v in arrived.rows()] == [replace(visit, labels=None)]
    assert arrived.lines() == [f"{path}: labels of another task ('other', 2 labels) are not read"]


def test_a_part_of_ours_without_a_mark_is_of_the_25_diseases_whatever_the_number_of_labels(tmp_path):
    visit = Visit("v", "i", "text", (True,) + (False,) * 24, split="train")
    Stage(str(tmp_path), "cohort", {}).write(0, to_table([visit], 25), rows=1, input_hash="")
    path = Stage(str(tmp_path), "cohort", {}).path(0)
    assert [v.labels for v in Input(path, "train", CCS25).rows()] == [visit.labels]
    with pytest.raises(DataError, match=r"another task \('ccs25', 25 labels\), the configured one is 't' with 25"):
        list(Input(path, "train", made(25)).rows())


def test_stored_visits_of_another_task_are_no_input_of_a_task_with_as_many_labels(tmp_path):
    cohort = run_of(tmp_path).prepare(lambda _: None)
    parts = f"{cohort.root}/visits"
    assert len(list(Input(parts, "train", cohort.task).rows())) == 20
    with pytest.raises(DataError, match=r"another task \('kidney', 4 labels\)"):
        list(Input(parts, "train", made(4)).rows())


def run_of(folder, **sections):
    rows = [
        {
            "instruction": "own words",
            "input": f"visit {n}",
            "output": "The patient may have: " + ("Either" if n % 2 else "None"),
        }
        for n in range(20)
    ]
    (folder / "labels.yaml").write_text(KIDNEY)
    data = {
        "train": write_jsonl(folder / "train.json", rows[:10]),
        "tuning": write_jsonl(folder / "tuning.json", rows[10:]),
    }
    values = {
        "run": {"artifacts": str(folder / "artifacts")},
        "data": data,
        "task": {"labels": str(folder / "labels.yaml")},
    }
    return Run(Config.model_validate({**values, **sections}))


def test_the_stored_visits_know_their_task_and_another_one_is_refused(tmp_path, kidney):
    run = run_of(tmp_path)
    cohort = run.prepare(lambda _: None)
    assert cohort.task == kidney == Run(Config.model_validate({"run": {"artifacts": run.root}})).cohort.task
    assert cohort.read(cohort.shards[0]).schema.field("labels").type == pa.list_(pa.bool_(), 4)
    with pytest.raises(MismatchError, match=r"holds visits of task 'kidney' \(4 labels\), task.labels=readmission is"):
        _ = run_of(tmp_path, data={}, task={"labels": "readmission"}).cohort
    (tmp_path / "labels.yaml").write_text(KIDNEY.replace("[158]", "[157]"))
    with pytest.raises(MismatchError, match="task.labels"):
        Run(run.config).prepare(lambda _: None)


def test_a_generic_instruction_replaces_the_rows_own(tmp_path):
    run = run_of(tmp_path)
    task = {"labels": run.config.task.labels, "instruction": "generic"}
    cohort = run_of(tmp_path, task=task).prepare(lambda _: None)
    assert {v for shard in cohort.shards for v in cohort.read(shard)["instruction"].to_pylist()} == {GENERIC}
    assert cohort.task.question == GENERIC
