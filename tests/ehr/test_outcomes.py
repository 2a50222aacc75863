"""Cohorts of any task: every cell against plain Python, the texts those of ccs25, no outcome in any input."""

import random
from datetime import datetime, timedelta

import pyarrow.parquet as pq
import pytest

from ckd.config import TaskConfig
from ckd.errors import ConfigError
from ckd.visits.labels import CCS25
from ckd.visits.parquetrows import TASK_MARK
from ckd.visits.taskfile import load_task
from jobs.cli import main
from tests.ehr.ehr_tables import write_mimic3, write_mimic4, write_tables
from tests.ehr.ingest_reference import ingest, random_tables, read_tables, returning, rows_of, time
from tests.ehr.mimic_rows import open_data
from tests.ehr.task_reference import labels_by_hand, latest_discharge

OPTIONS = ("ingest.min_support=2", "ingest.folds=3", "ingest.partitions=2")
MIXTURE = """
name: mixture
instruction: "Which of these: {labels}"
labels:
  - {name: Renal failure, ccs: [157]}
  - {name: Sepsis, icd9: ["038", 995.9]}
  - {name: Circulatory, icd9: [390-459], except: {icd9: [401-405, 4280]}}
  - {name: Heart failure, icd9: [428], icd10: [I50]}
  - {name: Listed, codes: codes.csv}
  - {name: One of them, any_of: [Renal failure, Listed]}
  - {name: Own and others, icd9: [486], any_of: [One of them, Sepsis]}
  - {name: Sepsis in 20 days, icd9: ["038"], within_days: 20}
  - {name: Heart in a year, ccs: [108, 106], within_days: 365}
  - {name: Rhythm in a week, ccs: [106], within_days: 7.5}
  - {name: Soon or next, any_of: [Heart in a year, Heart failure]}
  - {name: Back in 30, readmission_days: 30}
  - {name: Back in 4, readmission_days: 4}
  - {name: Death in a year, death_days: 365}
  - {name: Death in 30, death_days: 30}
  - {name: Death or back, any_of: [Death in 30, Back in 30]}
  - {name: Bad, any_of: [Death or back, Sepsis in 20 days]}
  - {name: Diabetes, ccs: [49, 50]}
"""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "codes.csv").write_text("code,version\n414.01,9\n51881,9\nA41,10\n")
    (folder / "labels.yaml").write_text(MIXTURE)
    return str(folder / "labels.yaml")


def mortal_tables(seed, subjects=30):
    """Random tables in which half of the patients have a date of death, before, in or after their stays."""
    rng, tables = random.Random(seed), random_tables(seed, subjects)
    ends = {}
    for row in tables["admissions"]:
        if isinstance(row["dischtime"], datetime):
            ends.setdefault(row["subject_id"], []).append(row["dischtime"])
    for row in tables["patients"]:
        if row["subject_id"] in ends and rng.random() < 0.5:
            died = rng.choice(ends[row["subject_id"]]) + timedelta(days=rng.choice([-40, 0, 1, 2, 5, 29, 31, 300, 900]))
            row["dod"] = died.replace(hour=0, minute=0, second=0)
    return tables


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("until", ["", "2141-06-01"])
def test_every_cell_of_a_mixture_is_what_plain_python_finds(tmp_path, mixture, seed, until):
    folder = write_mimic3(tmp_path / "tables", mortal_tables(seed))
    rows = ingest(folder, tmp_path / "out", *OPTIONS, f"task.labels={mixture}", f"ingest.follow_up_end={until}")
    tables = read_tables(folder)
    end = datetime.fromisoformat(until) if until else latest_discharge(tables)
    expected = labels_by_hand(load_task(TaskConfig(labels=mixture)), tables, end)
    assert set(rows) == set(expected)
    for visit, (now, after) in expected.items():
        assert rows[visit]["current_labels"] == now
        assert rows[visit]["labels"] == (None if set(after) == {None} else after)
    cells = [cell for _, after in expected.values() for cell in after]
    assert min(cells.count(value) for value in (True, False, None)) > 20
    whole = [names for names in zip(*(after for _, after in expected.values()), strict=True) if True in names]
    assert len(whole) >= 12, "the labels that are never true test nothing"


def test_the_same_visits_texts_and_splits_whatever_the_task(tmp_path, mixture):
    folder = write_mimic3(tmp_path / "tables", mortal_tables(4))
    plain = ingest(folder, tmp_path / "plain", *OPTIONS)
    rows = ingest(folder, tmp_path / "out", *OPTIONS, f"task.labels={mixture}")
    assert set(rows) == set(plain)
    for visit, row in rows.items():
        same = {"labels", "current_labels", "instruction"}
        assert {k: v for k, v in row.items() if k not in same} == {
            k: v for k, v in plain[visit].items() if k not in same
        }
    assert {row["instruction"] for row in rows.values()} == {load_task(TaskConfig(labels=mixture)).question}
    generic = ingest(folder, tmp_path / "generic", *OPTIONS, "task.instruction=generic")
    assert {**row_of(generic), "instruction": CCS25.question} == row_of(plain)


def row_of(rows):
    return rows[min(rows)]


def test_the_built_in_readmission_has_one_label_and_knows_the_last_stay_of_a_long_follow_up(tmp_path):
    rows = ingest(write_mimic3(tmp_path / "tables", returning()), tmp_path / "out", "task.labels=readmission")
    assert [row["labels"] for _, row in sorted(rows.items())] == [[False], None] * 8  # back after a year, then the end
    rows = ingest(
        tmp_path / "tables", tmp_path / "later", "task.labels=readmission", "ingest.follow_up_end=2151-02-04 12:00:00"
    )
    assert {tuple(row["labels"]) for row in rows.values()} == {(False,)}
    assert {row["current_labels"] for row in rows.values()} == {None}


def test_a_part_carries_its_task_and_the_card_counts_each_label(tmp_path, mixture, capsys):
    folder = write_mimic3(tmp_path / "tables", mortal_tables(5))
    rows = ingest(folder, tmp_path / "out", *OPTIONS, f"task.labels={mixture}", "ingest.follow_up_end=2141-06-01")
    task = load_task(TaskConfig(labels=mixture))
    marks = {pq.read_schema(path).metadata.get(TASK_MARK) for path in (tmp_path / "out").glob("*.parquet")}
    assert marks == {f"mixture {task.identity}".encode()}
    import json

    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["task"] == "mixture" and card["follow_up_end"].startswith("2141-06-01")
    for place, name in enumerate(task.names):
        for split, counts in card["labels"][name].items():
            cells = [row["labels"][place] for row in rows.values() if row["split"] == split and row["labels"]]
            assert counts == {"known": sum(cell is not None for cell in cells), "true": cells.count(True)}
            share = counts["true"] / counts["known"] if counts["known"] else None
            assert card["prevalence"][name][split] == share
    said = capsys.readouterr().out
    assert "true of the train visits for which a label is known" in said and "follow-up ends 2141-06-01" in said
    assert f"task.labels={mixture}" in said


def test_a_cohort_of_every_ccs_category_is_read_by_its_own_task_only(tmp_path):
    folder = write_mimic3(tmp_path / "tables", random_tables(6, subjects=25))
    rows = ingest(folder, tmp_path / "out", *OPTIONS, "task.labels=ccs-all")
    tables = read_tables(folder)
    expected = labels_by_hand(load_task(TaskConfig(labels="ccs-all")), tables, time("2141-01-01 00:00:00"))
    for visit, (now, after) in expected.items():
        assert (rows[visit]["current_labels"], rows[visit]["labels"]) == (now, after if None not in after else None)
    assert main(["validate", f"data.train={tmp_path / 'out'}", "task.labels=ccs-all"]) == 0
    assert main(["validate", f"data.train={tmp_path / 'out'}"]) == 2


def test_every_ccs_category_of_the_open_demo_holds_the_25_as_ccs25_finds_them(tmp_path):
    folder = open_data() / "mimic4_demo"
    plain = ingest(folder, tmp_path / "plain", kind="mimic4")
    rows = ingest(folder, tmp_path / "out", "task.labels=ccs-all", kind="mimic4")
    task = load_task(TaskConfig(labels="ccs-all"))
    places = [next(n for n, each in enumerate(task.labels) if each.ccs == label.ccs) for label in CCS25.labels]
    for visit, row in rows.items():
        for column in ("labels", "current_labels"):
            found = row[column] and [row[column][place] for place in places]
            assert found == plain[visit][column] and row["input"] == plain[visit]["input"]


@pytest.mark.parametrize(("write", "kind"), [(write_tables, "tables"), (write_mimic4, "mimic4")])
def test_deaths_that_a_source_does_not_hold_are_refused(tmp_path, capsys, write, kind):
    (tmp_path / "labels.yaml").write_text("name: t\nlabels:\n  - {name: Dead, death_days: 366}\n")
    tables = {"visits": [], "admissions": []}
    settings = [f"task.labels={tmp_path / 'labels.yaml'}", "--out", str(tmp_path / "out")]
    assert main(["ingest", kind, str(write(tmp_path / "in", tables)), *settings]) == 2
    said = capsys.readouterr().err
    holds = "no date of death" if kind == "tables" else "deaths up to 365 days after discharge"
    assert f"label 'Dead' needs deaths within 366 days, {tmp_path / 'in'} holds {holds}" in said


def test_other_outcomes_of_held_out_patients_change_no_byte_of_a_text_or_of_a_train_row(tmp_path, mixture):
    tables = mortal_tables(7, subjects=60)
    options = (*OPTIONS, f"task.labels={mixture}", "ingest.follow_up_end=2146-01-01")
    before = ingest(write_mimic3(tmp_path / "tables", tables), tmp_path / "before", *options)
    held_out = {row["subject_id"] for row in before.values() if row["split"] == "held_out"}
    for row in tables["patients"]:
        if str(row["subject_id"]) in held_out:
            row["dod"] = "" if row.get("dod") else "2141-01-01 00:00:00"
    after = ingest(write_mimic3(tmp_path / "other", tables), tmp_path / "after", *options)
    assert {visit: row["input"] for visit, row in after.items()} == {v: row["input"] for v, row in before.items()}
    for visit, row in before.items():
        assert row["split"] == "held_out" or after[visit] == row
    assert sum(after[visit]["labels"] != row["labels"] for visit, row in before.items()) >= 5
    files = [(tmp_path / name / "association.csv").read_bytes() for name in ("before", "after")]
    assert files[0] == files[1]


def test_the_same_command_continues_and_another_task_is_refused(tmp_path, mixture, capsys):
    folder = write_mimic3(tmp_path / "tables", mortal_tables(8))
    rows = ingest(folder, tmp_path / "out", *OPTIONS, f"task.labels={mixture}")
    assert ingest(folder, tmp_path / "out", *OPTIONS, f"task.labels={mixture}") == rows == rows_of(tmp_path / "out")
    assert "nothing to do" in capsys.readouterr().out
    assert main(["ingest", "mimic3", str(folder), "--out", str(tmp_path / "out"), *OPTIONS]) == 2


def test_a_follow_up_end_that_is_no_date_is_refused():
    from ckd.config import Config

    with pytest.raises(ValueError, match="expected a date such as 2019-12-31"):
        Config.model_validate({"ingest": {"follow_up_end": "soon"}})
    assert ConfigError


def single_stays():
    """Eight patients with one stay each, of whom four die a week after it."""
    tables = returning()
    for name in ("admissions", "diagnoses_icd", "prescriptions"):
        tables[name] = [row for row in tables[name] if row["hadm_id"] % 10 == 0]
    for row in tables["patients"][::2]:
        row["dod"] = "2150-01-12 00:00:00"
    return tables


def test_patients_who_never_return_have_labels_that_need_no_next_stay(tmp_path):
    (tmp_path / "labels.yaml").write_text("name: t\nlabels:\n  - {name: Dead, death_days: 30}\n")
    settings = (f"task.labels={tmp_path / 'labels.yaml'}", "ingest.follow_up_end=2151-01-01")
    rows = ingest(write_mimic3(tmp_path / "in", single_stays()), tmp_path / "out", *settings)
    assert {int(visit): row["labels"] for visit, row in rows.items()} == {10 * n: [n % 2 == 1] for n in range(1, 9)}
    assert {row["input"].rpartition(". ")[2] for row in rows.values()} == {"None."}


def test_a_cohort_of_which_no_label_is_known_is_refused_with_the_reason(tmp_path, capsys):
    folder = write_mimic3(tmp_path / "in", returning())
    arguments = ["ingest", "mimic3", str(folder), "--out", str(tmp_path / "out"), "ingest.follow_up_end=2149-01-01"]
    (tmp_path / "labels.yaml").write_text("name: t\nlabels:\n  - {name: Dead, death_days: 30}\n")
    assert main([*arguments, f"task.labels={tmp_path / 'labels.yaml'}"]) == 0  # seen again a year later
    (tmp_path / "labels.yaml").write_text("name: t\nlabels:\n  - {name: Dead, death_days: 3000}\n")
    arguments[4] = str(tmp_path / "other")
    assert main([*arguments, f"task.labels={tmp_path / 'labels.yaml'}"]) == 2
    said = capsys.readouterr().err
    assert "no visit has a known label of task 't': no window ends before the end of follow-up" in said
