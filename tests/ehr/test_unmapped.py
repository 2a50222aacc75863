"""Codes that nobody can read: never a cohort of healthy patients; a site's own map of its codes."""

import pytest

from ckd.ehr.unmapped import look
from ckd.visits.labels import DISEASES
from jobs.cli import main
from tests.ehr.ehr_tables import as_mimic4, write_mimic4
from tests.ehr.ingest_reference import ingest, returning
from tests.ehr.test_ingest_counted import card_of

SEPSIS, RENAL = DISEASES.index("Septicemia (except in labor)"), 0


def with_codes(replace, version=9, subjects=8):
    """MIMIC-IV tables of patients who return, each visit with sepsis and renal failure, under other codes."""
    tables = as_mimic4(returning(subjects))
    for row in tables["diagnoses_icd"]:
        row |= {"icd_code": replace.get(row["icd_code"], row["icd_code"]), "icd_version": version}
    return tables


def refused(capsys, tables, tmp_path, *settings):
    folder = write_mimic4(tmp_path / "in", tables)
    assert main(["ingest", "mimic4", str(folder), "--out", str(tmp_path / "out"), *settings]) == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1 and "diagnoses_icd.csv.gz:2: " in line
    return line


@pytest.mark.parametrize(
    ("codes", "version", "said"),
    [
        ({"0389": "91302008", "5849": "14669001"}, 10, "100.0% of the diagnosis rows have no CCS category"),
        ({"0389": "91302008", "5849": "14669001"}, 10, "91302008 (16); 100% of them look like SNOMED CT numbers"),
        ({"0389": "A41.9", "5849": "N17.9"}, 9, "look like ICD-10 codes marked 9"),
        ({}, 10, "look like ICD-9 codes marked 10"),
        ({"0389": "0389, 5849"}, 9, "50.0% of the diagnosis rows have no CCS category, more than ingest.max_unmapped"),
        ({"0389": "0389, 5849"}, 9, "(not like a code) (16); 100% of them look like two codes in a cell"),
        ({"0389": "E11", "5849": "I25"}, 10, "E11 (16), I25 (16); 100% of them look like codes cut to their category"),
        ({"0389": "A41.9 G", "5849": "N17.9 V"}, 10, "look like codes with more in the cell"),
        ({"0389": "A41.9+ H36.0*"}, 10, "look like two codes in a cell"),
        ({"0389": "ICD10:A41.9"}, 10, "look like codes behind a word"),
        ({}, "LOCAL", "look like codes of a version that is neither 9 nor 10"),
        (
            {"0389": "sepsis", "5849": "renal failure"},
            10,
            "ingest.max_unmapped (0.05): (not like a code) (32); 100% of them",
        ),
    ],
)
def test_codes_without_a_category_stop_the_ingest_and_are_told_by_what_they_look_like(
    tmp_path, capsys, codes, version, said
):
    line = refused(capsys, with_codes(codes, version), tmp_path)
    assert said in line and "ingest.code_map=FILE" in line and "sepsis" not in line


def test_what_a_code_looks_like():
    assert look("38.9", "9") == "ICD-9 codes that lost their leading zeros"
    assert look("E11.9 I10", "10") == look("I10|E11.9", "10") == "two codes in a cell"
    assert look("U07.1", "10") is None and look("E11", "ICD-10-GM") == "codes cut to their category"


def test_a_visit_without_one_mapped_code_has_no_diagnosis_codes_and_no_negatives(tmp_path):
    tables = with_codes({})
    mine = [row for row in tables["diagnoses_icd"] if row["subject_id"] == 3]
    for row in mine[2:]:
        row["icd_code"] = "Q9999"  # of the next visit: its labels are unknown
    rows = ingest(write_mimic4(tmp_path / "in", tables), tmp_path / "out", "ingest.max_unmapped=.1", kind="mimic4")
    assert "30" not in rows and "31" not in rows and rows["40"]["labels"][SEPSIS]
    card = card_of(tmp_path / "out")
    reasons = {reason: found["rows"] for reason, found in card["admissions"]["excluded"].items()}
    assert reasons == {"no diagnosis codes": 1, "next admission has no diagnosis codes": 1}
    found = card["unmapped_codes"]["diagnosis"]
    assert (found["rows"], found["share"]) == (2, 2 / 32)
    assert found["visits"] == {"coded": 16, "some_unmapped": 1, "none_mapped": 1, "share": 1 / 16}


def test_a_share_below_max_unmapped_passes_and_above_it_does_not(tmp_path, capsys):
    tables = with_codes({})
    tables["diagnoses_icd"][0]["icd_code"] = "Q9999"
    folder = write_mimic4(tmp_path / "in", tables)
    assert main(["ingest", "mimic4", str(folder), "--out", str(tmp_path / "a"), "ingest.max_unmapped=0.03"]) == 2
    assert "3.1% of the diagnosis rows" in capsys.readouterr().err
    ingest(folder, tmp_path / "a", kind="mimic4")


def test_a_site_s_own_codes_take_the_category_or_the_label_that_it_names(tmp_path):
    tables = with_codes({"0389": "SEPS1", "5849": "NIER.2"}, version="Local")
    (tmp_path / "map.csv").write_text(
        "code,version,ccs,label\nseps1,LOCAL,2,\nNIER2,local,,Acute and unspecified renal failure\n"
    )
    folder, settings = write_mimic4(tmp_path / "in", tables), f"ingest.code_map={tmp_path / 'map.csv'}"
    rows = ingest(folder, tmp_path / "out", settings, kind="mimic4")
    plain = ingest(write_mimic4(tmp_path / "plain", with_codes({})), tmp_path / "as", kind="mimic4")
    for visit, row in rows.items():
        assert (row["labels"], row["current_labels"]) == (plain[visit]["labels"], plain[visit]["current_labels"])
        assert row["current_labels"][SEPSIS] and row["current_labels"][RENAL]


def test_a_map_wins_over_hcup_s_table_and_its_content_is_what_counts(tmp_path, capsys):
    folder, path = write_mimic4(tmp_path / "in", with_codes({})), tmp_path / "map.csv"
    path.write_text("code,version,ccs\n038.9,9,157\n")
    rows = ingest(folder, tmp_path / "out", f"ingest.code_map={path}", kind="mimic4")
    assert not any(row["current_labels"][SEPSIS] for row in rows.values())
    path.write_text("code,version,ccs\n038.9,9,2\n")
    arguments = ["ingest", "mimic4", str(folder), "--out", str(tmp_path / "out"), f"ingest.code_map={path}"]
    assert main(arguments) == 2 and "code_map" in capsys.readouterr().err


def test_a_map_names_a_label_of_any_task(tmp_path):
    (tmp_path / "labels.yaml").write_text(
        "name: t\nlabels:\n  - {name: Own, icd10: [Z99]}\n  - {name: R, ccs: [157]}\n"
    )
    (tmp_path / "map.csv").write_text("code,version,label\n0389,9,Own\n")
    settings = (f"ingest.code_map={tmp_path / 'map.csv'}", f"task.labels={tmp_path / 'labels.yaml'}")
    rows = ingest(write_mimic4(tmp_path / "in", with_codes({})), tmp_path / "out", *settings, kind="mimic4")
    assert {tuple(row["current_labels"]) for row in rows.values()} == {(True, True)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("code,ccs\nA,1\n", ":1: expected a CSV with the columns code, version and ccs or label"),
        ("code,version,ccs\nA,10,9999\n", ":2: '9999' is no single-level CCS category"),
        ("code,version,ccs\n,10,1\n", ":2: no code or no version"),
        ("code,version,ccs,label\nA,10,1,Shock\n", ":2: expected a CCS category or a label, one of them"),
        ("code,version,label\nA,10,Flu\n", ":2: 'Flu' is no label of task 'ccs25'"),
        ("code,version,ccs\nA,10,1\nA.,ICD10,2\n", ":3: that code is there twice"),
    ],
)
def test_a_mistake_in_the_map_is_named_with_its_line(tmp_path, capsys, text, said):
    (tmp_path / "map.csv").write_text(text)
    folder = write_mimic4(tmp_path / "in", with_codes({}))
    settings = ["--out", str(tmp_path / "out"), f"ingest.code_map={tmp_path / 'map.csv'}"]
    assert main(["ingest", "mimic4", str(folder), *settings]) == 2
    assert f"{tmp_path / 'map.csv'}{said}" in capsys.readouterr().err
