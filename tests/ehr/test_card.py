import copy
import json
import statistics

import pytest

from ckd.ehr.card import CLAIM, cohort_card, counted, counted_lines, lines
from ckd.ehr.training_files import export
from ckd.errors import ArtifactError
from ckd.visits.datafolder import card_of
from ckd.visits.labels import DISEASES, NUM_LABELS
from ckd.visits.visit import SUBGROUP_FIELDS
from tests.ehr.ehr_tables import write_mimic3
from tests.ehr.ingest_reference import cohort_by_hand, ingest, random_tables, read_tables

STEP = 50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rows, card and the tables of a random folder with everything that is counted."""
    tmp_path = tmp_path_factory.mktemp("card")
    folder = write_mimic3(tmp_path / "tables", random_tables(5, subjects=40))
    rows = ingest(folder, tmp_path / "out", "ingest.min_support=2", "ingest.partitions=3")
    return rows, json.loads((tmp_path / "out" / "card.json").read_text()), read_tables(folder)


def test_a_card_that_does_not_hold_what_was_written_is_read_by_nobody(tmp_path):
    folder = write_mimic3(tmp_path / "tables", random_tables(5, subjects=20))
    ingest(folder, tmp_path / "out")
    cohort, card = str(tmp_path / "out"), tmp_path / "out/card.json"
    assert card_of(cohort)["data_license"] and card_of("") == card_of(str(folder)) == {}
    written = card.read_text()
    for text, why in (
        (written.replace('"data_license": "', '"data_license": "X'), "does not hold what was written"),
        ("[]", "not a JSON object"),
        (written[:99], "broken JSON"),
    ):
        card.write_text(text)
        for read in (card_of, lambda folder: export(folder, str(tmp_path / "data"))):
            with pytest.raises(ArtifactError, match=f"card.json: {why}; run 'ckd ingest' again"):
                read(cohort)


def test_admissions_and_rows_add_up(made):
    rows, card, tables = made
    admissions = card["admissions"]
    assert admissions["in"] == len(tables["admissions"])
    assert admissions["in"] == admissions["pairs"] + admissions["last_visits"] + sum(
        e["rows"] for e in admissions["excluded"].values()
    )
    assert len(admissions["excluded"]) >= 6
    assert admissions["pairs"] == sum(row["labels"] is not None for row in rows.values())
    assert admissions["pairs"] + admissions["last_visits"] == len(rows)
    for table, source in (
        ("diagnoses", "diagnoses_icd"),
        ("medications", "prescriptions"),
        ("procedures", "procedures_icd"),
    ):
        counted = card["rows"][table]
        assert (
            counted["read"]
            == len(tables[source])
            == counted["used"] + sum(e["rows"] for e in counted["rejected"].values())
        )


def test_the_line_of_the_first_of_a_kind_is_the_first_such_line(made):
    _, card, tables = made
    numbers = [n for n, row in enumerate(tables["prescriptions"], 2) if not (row["drug"] or "").split()]
    assert card["rows"]["medications"]["rejected"]["empty drug"]["rows"] == len(numbers)
    assert card["rows"]["medications"]["rejected"]["empty drug"]["first"].endswith(f"PRESCRIPTIONS.csv:{numbers[0]}")


def test_prevalences_echoes_splits_and_lengths_are_those_of_the_rows(made):
    rows, card, _ = made
    for split, sizes in card["splits"].items():
        mine = [row for row in rows.values() if row["split"] == split]
        labeled = [row["labels"] for row in mine if row["labels"] is not None]
        assert sizes == {
            "labeled": len(labeled),
            "unlabeled": len(mine) - len(labeled),
            "subjects": len({row["subject_id"] for row in mine}),
        }
        for k, disease in enumerate(DISEASES):
            assert card["prevalence"][disease][split] == pytest.approx(
                sum(flags[k] for flags in labeled) / len(labeled)
            )
    pairs = [row for row in rows.values() if row["labels"] is not None]
    assert card["echo_rate"] == pytest.approx(sum(row["labels"] == row["current_labels"] for row in pairs) / len(pairs))
    lengths = sorted(len(row["input"]) for row in rows.values())
    assert card["text_length"]["max"] == lengths[-1] // STEP * STEP
    assert card["text_length"]["median"] == lengths[(len(lengths) - 1) // 2] // STEP * STEP


def test_patients_who_return_are_compared_with_those_who_do_not(made):
    rows, card, tables = made
    assert cohort_by_hand(tables, m=2).keys() == rows.keys()
    for group, returns in (("return", True), ("do_not_return", False)):
        mine = [row for row in rows.values() if (row["labels"] is not None) == returns]
        found = card["returners"][group]
        assert found["visits"] == len(mine)
        assert found["mean_age"] == pytest.approx(statistics.mean(int(row["age"]) for row in mine if row["age"]))
        sexes = [row["sex"] for row in mine if row["sex"]]
        assert found["women"] == pytest.approx(sexes.count("F") / len(sexes))
        for k, disease in enumerate(DISEASES):
            assert found["current_prevalence"][disease] == pytest.approx(
                sum(row["current_labels"][k] for row in mine) / len(mine)
            )
        for name, first, after in (
            ("procedures", "by the patient: ", ". "),
            ("diagnoses", "disease is ", ". The patient had"),
        ):
            listed = [row["input"].partition(first)[2].partition(after)[0] for row in mine]
            if name == "procedures":  # no title of these tables holds a comma
                wanted = statistics.mean(0 if names == "None" else names.count(", ") + 1 for names in listed)
                assert found[f"{name}_per_visit"] == pytest.approx(wanted)


def test_what_a_person_is_told_names_the_claim_every_reason_and_every_loss(made):
    _, card, _ = made
    said = "\n".join(lines(card))
    assert CLAIM in said and card["claim"].endswith(f"{CLAIM}.")
    for reasons in (card["admissions"]["excluded"], *(rows["rejected"] for rows in card["rows"].values())):
        for reason, found in reasons.items():
            assert f"{reason} (first: {found['first']})" in said
    assert "have no CCS category: Q9999" in said


def facts():
    group = {
        "visits": 2,
        **dict.fromkeys((f"{name}_known" for name in SUBGROUP_FIELDS), 0),
        "age_sum": 0,
        "women": 0,
        "labels": dict.fromkeys(DISEASES, 1),
    }
    group |= {"diagnoses": 4, "medications": 0, "procedures": 0}
    return {
        "admissions": {"in": 5, "pair": 2, "last": 2, "excluded": {"ended in death": {"rows": 1, "place": 7}}},
        "rows": {},
        "visits": {"pair": group, "last": group},
        "echoes": 1,
        "subjects": {"all": 3, "with_two": 2, "consecutive_pairs": 2},
        "patients": {"read": 3, "met": 2, "missing": {"rows": 2, "place": 4}},
        "sex": {"visits": {"words": {}}, "patients": {"words": {"f": 1}, "other": {"rows": 1, "place": 9}}},
    }


def summed():
    return {
        "splits": {"train": {"labeled": 2, "unlabeled": 2, "subjects": 2, "positives": [1] * NUM_LABELS}},
        "lengths": {"100": 3, "50": 1},
    }


CELL = {"table": "visits", "name": "death", "kind": "unread", "rows": 2, "first": "a.csv:3", "column": "deathtime"}
CELLS = [{**CELL, "written": "9999-99-99aa"}]
SOURCE = {"data_license": "none", "credentialed": False}


def card_from(facts, summary):
    known = counted(facts, CELLS, [], lambda table, place: f"{table}:{place}")
    return cohort_card(SOURCE, {}, known, facts, summary)


def test_the_smallest_card_adds_up_and_leaves_unknown_what_has_no_visit():
    card = card_from(facts(), summed())
    assert card["admissions"]["excluded"] == {"ended in death": {"rows": 1, "first": "visits:7"}}
    assert card["prevalence"][DISEASES[0]] == {"train": 0.5, "tuning": None, "held_out": None}
    assert card["returners"]["return"]["mean_age"] is None and card["echo_rate"] == 0.5
    assert card["text_length"] == {"median": 100, "p95": 100, "max": 100}
    assert card["without_patient"] == {"rows": 2, "first": "visits:4"} and card["cells"] == CELLS
    assert card["unknown"] == {"visits": 4, **dict.fromkeys(SUBGROUP_FIELDS, 4)}
    said = "\n".join(counted_lines(card))
    assert "visits: the patient of 2 of 5 has no row (first: visits:4)" in said
    assert "patients: 1 words for the sex are neither F nor M and stay (first: patients:9)" in said
    assert (
        "2 cells of column 'deathtime' cannot be read and count as empty (first: a.csv:3, written 9999-99-99aa" in said
    )
    assert "unknown in 4 pairs and last visits: age of 4, sex of 4, ethnicity of 4" in said


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("admissions", "in"), 6),
        (("admissions", "pair"), 3),
        (("admissions", "last"), 1),
        (("admissions", "excluded"), {}),
    ],
)
def test_a_card_whose_admissions_do_not_add_up_is_never_written(where, value):
    wrong = copy.deepcopy(facts())
    wrong[where[0]][where[1]] = value
    with pytest.raises(RuntimeError, match="are not pairs"):
        card_from(wrong, summed())


@pytest.mark.parametrize(("name", "value"), [("labeled", 1), ("labeled", 3), ("unlabeled", 1)])
def test_a_card_whose_parts_lack_a_visit_or_hold_one_twice_is_never_written(name, value):
    wrong = summed()
    wrong["splits"]["train"][name] = value
    with pytest.raises(RuntimeError, match="every pair and every last visit once"):
        card_from(facts(), wrong)
