import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.ehr.ccs import ccs, full_codes, normal, read_version
from ckd.ehr.codes import PROCEDURE, Codes, _known_icd9
from ckd.visits.labels import DISEASES
from tests.ehr.mimic_rows import demo_codes

DX, SG = sorted(_known_icd9("diagnosis")), sorted(_known_icd9(PROCEDURE))


def _frame(*pairs):
    return pl.DataFrame(pairs, schema={"code": pl.String, "version": pl.String}, orient="row")


def _label(code, version):
    label = Codes().diagnoses(_frame((code, version)))["label"].item()
    return None if label is None else DISEASES[label]


@pytest.mark.parametrize(
    ("code", "version", "label"),
    [
        ("5849", "9", "Acute and unspecified renal failure"),
        ("584.9", "9", "Acute and unspecified renal failure"),
        ("0389", "9", "Septicemia (except in labor)"),
        ("78552", "9", "Shock"),
        ("7851", "9", "Cardiac dysrhythmias"),
        ("7850", "9", "Cardiac dysrhythmias"),
        ("25000", "9", "Diabetes mellitus without complication"),
        ("25040", "9", "Diabetes mellitus with complications"),
        ("250", "9", None),
        ("V5867", "9", None),
        ("I10", "10", "Essential hypertension"),
        ("i48.0", "10", "Cardiac dysrhythmias"),
        ("N1831", "10", "Chronic kidney disease"),
        ("5849", "10", None),
        ("I10", "9", None),
        ("5849", "11", None),
        ("5849", None, None),
    ],
)
def test_a_code_gives_its_label_at_full_length_and_by_its_own_version(code, version, label):
    assert _label(code, version) == label


def test_diagnoses_keep_the_rows_and_say_what_is_unknown():
    found = Codes().diagnoses(
        _frame(("584.9", " 9"), (None, "9"), ("v58.67 ", "ICD9CM"), ("ZZZ", "10.0"), ("4019", "3"), ("", "9"))
    )
    assert found["code"].to_list() == ["584.9", None, "v58.67 ", "ZZZ", "4019", ""]
    assert found["normal"].to_list() == ["5849", None, "V5867", "ZZZ", "4019", None]
    assert found["mapped"].to_list() == [True, False, True, False, False, False]
    assert found["known_version"].to_list() == [True, True, True, True, False, True]
    assert found["label"].dtype == pl.UInt8
    assert Codes().diagnoses(_frame()).columns == found.columns


def test_a_later_icd10_code_takes_the_category_of_the_full_code_it_was_split_from_or_of_its_neighbours():
    table = full_codes("10")
    assert "N1831" not in table and table["N183"] == "158" == ccs("N1831", "10")
    assert "J1282" not in table and "J128" not in table and ccs("J1282", "10") == table["J1281"] == "122"


@pytest.mark.parametrize(
    ("code", "version", "group"),
    [
        *[
            (code, "10", group)
            for code, group in (("E11.2", "50"), ("I25.1", "101"), ("J96.0", "131"), ("I50.0", "108"))
        ],
        *[("428", "9", "108"), ("584", "9", "157"), ("N18", "10", "158"), ("E885", "9", "2603")],
        *[(code, "10", None) for code in ("E11", "I25", "", "N", "Z9Z", "U07.1", "73211009", "I10, E119", "I10 E119")],
        *[
            ("4019 5849", "9", None),
            ("40190001", "9", None),
            ("250", "9", None),
            ("E88", "9", None),
            ("42", "9", None),
            ("I10", "9", None),
        ],
        # ICD-10-GM and -WHO: fifth digits of their own, marks behind the code
        *[("E11.20", "10", "50"), ("I50.14", "10", "108"), ("R57.2", "10", "249"), ("I10.90", "10", "98")],
        *[("N18.3!", "10", "158"), ("I10.-", "10", "98"), ("E14.30*", "10", None), (" i50.1+ ", "10", "108")],
    ],
)
def test_category_and_foreign_codes_get_what_the_codes_around_them_agree_on(code, version, group):
    assert ccs(normal(code), version) == group


@given(
    st.sampled_from(sorted(full_codes("10"))) | st.sampled_from(DX),
    st.integers(0, 7),
    st.sampled_from(["", "0", "9", "X"]),
)
@example("E1122", 3, "9")
def test_the_category_is_what_plain_python_finds(code, length, more):
    for version in ("9", "10"):
        found = code[:length] + more
        assert ccs(found, version) == category_by_hand(found, version)


def category_by_hand(code, version):
    """One look at the whole table per beginning."""
    table = full_codes(version)
    if len(code) > {"9": 5, "10": 7}[version]:
        return None
    while len(code) >= (4 if version == "9" and code[:1] == "E" else 3):
        below = {group for known, group in table.items() if known.startswith(code)}
        if code in table or len(below) == 1:
            return table.get(code) or below.pop()
        if below:
            return None
        code = code[:-1]
    return None


@pytest.mark.parametrize(
    "word", ["10", "10.0", "ICD-10-GM", "ICD10CM", "icd10", "ICD 10", "ICD-10-GM-2019", "ICD_10_WHO"]
)
def test_version_words_of_all_editions_are_read(word):
    assert read_version(word) == "10" and read_version(word.replace("10", "9").replace(".0", "")) == "9"


@pytest.mark.parametrize("word", ["", None, "11", "ICD-11", "100", "1", "90", "SNOMED", "ICD-O-3"])
def test_other_version_words_are_not(word):
    assert read_version(word) is None


@pytest.mark.parametrize(
    ("code", "version", "title"),
    [
        ("5849", "9", "Acute kidney failure"),
        ("E8859", "9", "Accidental fall on same level from slipping tripping or stumbling"),
        ("V5867", "9", "Encounter for other and unspecified procedures and aftercare"),
        ("N1831", "10", "Chronic kidney disease (CKD)"),
    ],
)
def test_a_diagnosis_is_titled_by_its_category(code, version, title):
    assert Codes().diagnoses(_frame((code, version)))["title"].item() == title


def test_titles_of_the_data_set_serve_only_where_the_public_lists_have_none_full_code_first():
    schema = ["kind", "version", "code", "title"]
    own = [
        ("diagnosis", "9", "04300", "of the  code "),
        ("diagnosis", "9", "044", "of the category"),
        ("diagnosis", "9", "5849", "not this one"),
    ]
    own += [
        ("procedure", "9", "36.05", "old angioplasty"),
        ("procedure", "10", "5A1D00Z", "old dialysis"),
        ("procedure", "9", "0066", "not this one"),
    ]
    codes = Codes(pl.DataFrame(own, schema=schema, orient="row"))
    found = codes.diagnoses(_frame(("04300", "9"), ("0449", "9"), ("5849", "9"), ("04300", "10")))["title"].to_list()
    assert found == ["of the code", "of the category", "Acute kidney failure", None]
    found = codes.procedures(
        _frame(("3605", "9"), ("5A1D00Z", "10"), ("00.66", "9"), ("0016070", "10"), ("3605", None))
    )
    assert found["title"].to_list()[:3] == ["old angioplasty", "old dialysis", "PTCA"]
    assert found["title"][3].startswith("Bypass Cerebral Ventricle to Nasopharynx")
    assert found["title"][4] is None and found["known_version"].to_list() == [True] * 4 + [False]


def test_every_icd9_code_with_a_category_has_its_title_but_two_categories_that_were_withdrawn():
    found = Codes().diagnoses(pl.DataFrame({"code": DX, "version": ["9"] * len(DX)}))
    assert set(found.filter(pl.col("title").is_null())["normal"].str.slice(0, 3)) == {"043", "044"}
    assert sorted(found["label"].drop_nulls().unique()) == list(range(25))
    assert found["mapped"].all()


def test_every_icd10_code_with_a_category_has_its_title():
    codes = sorted(full_codes("10"))
    found = Codes().diagnoses(pl.DataFrame({"code": codes, "version": ["10"] * len(codes)}))
    assert found["title"].null_count() == 0
    assert sorted(found["label"].drop_nulls().unique()) == list(range(25))


@pytest.mark.parametrize(
    ("name", "column"),
    [("mimic3_demo/DIAGNOSES_ICD.csv.gz", "icd9_code"), ("mimic4_demo/hosp/diagnoses_icd.csv.gz", "icd_code")],
)
def test_every_diagnosis_of_the_open_demos_has_a_category_and_a_title(name, column):
    found = Codes().diagnoses(_frame(*set(demo_codes(name, column))))
    assert found["mapped"].all() and found["title"].null_count() == 0
