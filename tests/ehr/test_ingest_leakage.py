"""No outcome reaches an input: other patients' held_out outcomes no text, a patient's next labels none of its own."""

import csv
import gzip
import random
import re
import shutil

import pytest

from ckd.ehr.synthetic.tables import write_tables
from ckd.visits.grammar import TREATMENT, diseases_in_treatment_clause
from ckd.visits.labels import DISEASES
from tests.ehr.ehr_reference import chain_by_hand
from tests.ehr.ingest_reference import fold_of, ingest, judgeable, read_tables

METHODS = ("lift", "count", "placebo")
OPTIONS = ("ingest.min_support=2", "ingest.folds=3", "ingest.partitions=3")
CODES = (
    "5849",
    "4280",
    "42731",
    "4019",
    "25000",
    "41401",
    "486",
    "51881",
    "2724",
    "2762",
    "0389",
    "78552",
    "5789",
    "49121",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_tables(str(folder), 60, 3)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def made(request, tables, tmp_path_factory):
    """The treatment method, the rows, the cohort's folder."""
    out = tmp_path_factory.mktemp(f"cohort-{request.param}") / "out"
    return request.param, ingest(tables, out, *OPTIONS, f"ingest.treatment={request.param}"), out


def with_other_codes(tables, target, visits, seed=0):
    """A copy of the tables in which each of these visits has other diagnosis codes (at least one, of labels)."""
    shutil.copytree(tables, target)
    rng = random.Random(seed)
    path = target / "DIAGNOSES_ICD.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    subject_of = {row[2]: row[1] for row in rows}
    kept = [row for row in rows if row[2] not in visits]
    new = [
        ["1", subject_of[v], v, str(n), code]
        for v in sorted(visits)
        for n, code in enumerate(rng.sample(CODES, rng.randint(1, 9)), 1)
    ]
    with gzip.open(path, "wt", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept, *new])
    return target


def last_stays(tables):
    """{subject: admissions of the stay that its last pair predicts}: their codes are labels, and that stay's input."""
    found, rows = {}, read_tables(tables)
    judged = chain_by_hand([judgeable(row, rows["diagnoses_icd"]) for row in rows["admissions"]], 3, False)
    subject_of = {row["hadm_id"]: row["subject_id"] for row in rows["admissions"]}
    for visit in sorted((v for v in judged if judged[v]["role"] == "pair"), key=lambda v: judged[v]["start"]):
        found[subject_of[visit]] = {
            v for v, verdict in judged.items() if verdict["stay_id"] == judged[visit]["next_id"]
        }
    return found


def test_the_tests_below_look_at_cohorts_whose_clauses_name_drugs(made):
    method, rows, _ = made
    named = {
        split: sum(TREATMENT in row["input"] for row in rows.values() if row["split"] == split)
        for split in ("train", "tuning", "held_out")
    }
    assert min(named.values()) >= 3, (method, named)


def test_other_outcomes_in_held_out_change_no_train_or_tuning_row_and_no_table(made, tables, tmp_path):
    method, rows, out = made
    targets = last_stays(tables)
    held_out = {row["subject_id"] for row in rows.values() if row["split"] == "held_out"}
    changed = {visit for subject, visits in targets.items() if subject in held_out for visit in visits}
    assert len(changed) >= 5
    folder = with_other_codes(tables, tmp_path / "tables", changed)
    after = ingest(folder, tmp_path / "out", *OPTIONS, f"ingest.treatment={method}")
    assert set(after) == set(rows)
    for visit, row in rows.items():
        if row["split"] != "held_out":
            assert after[visit] == row
        elif visit not in changed:  # the changed visits' own text names their own codes
            assert after[visit]["input"] == row["input"]
    assert sum(after[visit]["labels"] != row["labels"] for visit, row in rows.items()) >= 5
    assert (tmp_path / "out" / "association.csv").read_bytes() == (out / "association.csv").read_bytes()


def test_a_subject_s_next_labels_reach_no_input_of_that_subject(made, tables, tmp_path):
    method, rows, _ = made
    targets = last_stays(tables)
    for split in ("train", "tuning", "held_out"):
        named = {row["subject_id"] for row in rows.values() if row["split"] == split and TREATMENT in row["input"]}
        for subject in sorted(named & set(targets))[:1]:
            folder = with_other_codes(tables, tmp_path / subject, targets[subject])
            after = ingest(folder, tmp_path / f"out{subject}", *OPTIONS, f"ingest.treatment={method}")
            earlier = [
                visit for visit, row in rows.items() if row["subject_id"] == subject and visit not in targets[subject]
            ]
            assert [after[visit]["input"] for visit in earlier] == [rows[visit]["input"] for visit in earlier]
            assert [after[visit]["labels"] for visit in earlier] != [rows[visit]["labels"] for visit in earlier]


def test_the_outcomes_of_a_whole_fold_reach_no_text_of_that_fold(made, tables, tmp_path):
    method, rows, _ = made
    folds = {row["subject_id"]: fold_of(row["subject_id"], 3) for row in rows.values() if row["split"] == "train"}
    targets = last_stays(tables)
    changed = {visit for subject, visits in targets.items() if folds.get(subject) == 1 for visit in visits}
    after = ingest(
        with_other_codes(tables, tmp_path / "tables", changed), tmp_path / "out", *OPTIONS, f"ingest.treatment={method}"
    )
    same = [visit for visit, row in rows.items() if folds.get(row["subject_id"]) == 1 and visit not in changed]
    assert len(same) >= 10 and any(TREATMENT in rows[visit]["input"] for visit in same)
    assert [after[visit]["input"] for visit in same] == [rows[visit]["input"] for visit in same]
    if method != "placebo":
        others = [visit for visit in rows if folds.get(rows[visit]["subject_id"]) in (0, 2)]
        assert [after[visit]["input"] for visit in others] != [rows[visit]["input"] for visit in others]


def test_train_outcomes_do_reach_the_texts_of_others(tables, tmp_path):
    """The tests above would pass on clauses that depend on nothing."""
    options = (*OPTIONS, "ingest.treatment=lift")
    rows = ingest(tables, tmp_path / "out", *options)
    train = {row["subject_id"] for row in rows.values() if row["split"] == "train"}
    changed = {visit for subject, visits in last_stays(tables).items() if subject in train for visit in visits}
    after = ingest(with_other_codes(tables, tmp_path / "tables", changed), tmp_path / "after", *options)
    assert any(after[visit]["input"] != row["input"] for visit, row in rows.items() if row["split"] == "held_out")
    assert any(
        after[visit]["input"] != row["input"]
        for visit, row in rows.items()
        if row["split"] == "train" and visit not in changed
    )


# "D are a, b" of a clause; drugs may hold commas, semicolons and points.
_NAMES = "|".join(map(re.escape, DISEASES))
_CLAUSE = f"{TREATMENT}({_NAMES}) are (.+?)(?=; {TREATMENT}|$)"
_PUBLIC = re.compile(
    rf"The patient-acquired disease is (.+?)\. The patient had used the following medication: (.+?)\. "
    rf"The surgical operation performed by the patient: (.+?)\. ({TREATMENT}.+|None)\."
)


def clause_of(row):
    """{disease: drugs as they are} of a row's text, which must be the public sentence."""
    return dict(re.findall(_CLAUSE, _PUBLIC.fullmatch(row["input"])[4]))


def test_every_text_is_the_public_sentence_and_its_clause_names_present_diseases_only(made):
    _, rows, _ = made
    for row in rows.values():
        named = diseases_in_treatment_clause(row["input"])
        assert all(present or not name for name, present in zip(named, row["current_labels"], strict=True))
        assert set(clause_of(row)) == {disease for disease, name in zip(DISEASES, named, strict=True) if name}


def test_placebo_names_the_diseases_of_lift_with_as_many_other_drugs(tables, tmp_path):
    lift, placebo, none = (
        ingest(tables, tmp_path / m, *OPTIONS, f"ingest.treatment={m}") for m in ("lift", "placebo", "none")
    )
    clauses = [
        {(visit, disease): names for visit, row in rows.items() for disease, names in clause_of(row).items()}
        for rows in (lift, placebo)
    ]
    assert clauses[0].keys() == clauses[1].keys()
    assert [names.count(", ") for names in clauses[0].values()] == [names.count(", ") for names in clauses[1].values()]
    assert sum(names != clauses[1][key] for key, names in clauses[0].items()) > 0.9 * len(clauses[0])
    assert all(row["input"].endswith(". None.") for row in none.values())
    for rows in (placebo, none):
        for visit, row in rows.items():
            assert row["input"].partition("patient: ")[0] == lift[visit]["input"].partition("patient: ")[0]
            assert {**row, "input": ""} == {**lift[visit], "input": ""}
