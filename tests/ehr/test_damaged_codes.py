"""Codes that a spreadsheet made numbers are refused, wherever that changed what they are."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.ehr.ccs import full_codes
from ckd.ehr.codes import PROCEDURE, ROWS_WITHOUT_ZERO, _known_icd9, refuse_damaged
from ckd.errors import DataError
from tests.ehr.mimic_rows import demo_codes

DX, SG = sorted(_known_icd9("diagnosis")), sorted(_known_icd9(PROCEDURE))


def _counts(codes, kind="diagnosis", rows=1, version="9"):
    schema = {"kind": pl.String, "code": pl.String, "version": pl.String, "rows": pl.UInt32, "place": pl.UInt64}
    return pl.DataFrame(
        [(kind, code, version, rows, place) for place, code in enumerate(codes, start=2)], schema=schema, orient="row"
    )


def _refused(counts):
    """The error's text, or None when the codes pass."""
    try:
        refuse_damaged(counts, lambda table, place: f"{table}.csv:{place}")
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["diagnosis", "procedure"])
@pytest.mark.parametrize("known", [DX, SG])
def test_whole_codes_pass(kind, known):
    if (known is DX) == (kind == "diagnosis"):
        assert _refused(_counts(known, kind, rows=10)) is None


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("diagnosis", ["389", "4019"]),  # 0389
        ("diagnosis", ["38.9", "401.9"]),  # 038.9
        ("diagnosis", ["4019.0", "V5867"]),
        ("diagnosis", ["486.0"]),
        ("diagnosis", ["389.0", "4019"]),
        ("diagnosis", ["93", "4019"]),
        ("diagnosis", ["4.28E+03"]),
        ("diagnosis", ["4.2e3", "V5867"]),
        ("procedure", ["66"]),  # 0066
        ("procedure", ["331x", "456", "3.31"]),
        ("procedure", ["0.66", "36.07"]),
        ("procedure", ["93.0"]),
        ("procedure", ["3607.0"]),
    ],
)
def test_codes_that_a_spreadsheet_made_numbers_are_refused(kind, codes):
    message = _refused(_counts(codes, kind))
    assert (
        message and "leading zeros lost in a spreadsheet" in message and "dtype=str" in message and "\n" not in message
    )


def test_the_refusal_counts_codes_and_rows_and_names_the_first_place_of_what_shows_the_loss():
    message = _refused(_counts(["4019", "389", "845", "V5867"], rows=7))
    assert message.startswith("diagnoses.csv:3: ") and "2 distinct ICD-9 diagnosis codes (14 rows)" in message


@pytest.mark.parametrize(
    "codes", [["4019", "V5867"], ["584.9", "486"], ["40190"], ["584.0"], ["E8859", "E000"], [], [None, " "]]
)
def test_few_codes_without_zeros_are_not_refused(codes):
    assert _refused(_counts(codes)) is None


def test_one_code_that_kept_its_zero_clears_its_kind():
    assert _refused(_counts(["0389", "389"])) is None
    assert _refused(_counts(["038.9", "38.9"])) is None
    assert _refused(pl.concat([_counts(["0389"]), _counts(["66"], "procedure")]))


def test_thousands_of_numeric_rows_without_one_leading_zero_are_refused():
    assert _refused(_counts(["4019", "4280"], rows=ROWS_WITHOUT_ZERO // 2))
    assert _refused(_counts(["4019", "4280"], rows=ROWS_WITHOUT_ZERO // 2 - 1)) is None
    assert _refused(_counts(["V5867", "E8859"], rows=ROWS_WITHOUT_ZERO)) is None


def test_icd10_codes_and_unknown_versions_are_none_of_its_business():
    assert _refused(_counts(["389", "93"], version="10")) is None
    assert _refused(_counts(["389"], version=None)) is None


def _number(code):
    return str(int(code)) if code.isdigit() else code


def _pointed(code):
    return code if len(code) < 4 or not code[0].isdigit() else f"{code[:3]}.{code[3:]}"


@given(st.sets(st.sampled_from(DX), min_size=1, max_size=40))
def test_a_table_made_numbers_is_refused_wherever_that_changed_what_its_codes_are(codes):
    numbers = [_number(code) for code in codes]
    # 01000 turns into 1000, a code as good: without another trace nobody can tell the two tables apart
    seen = any(code != number and number not in full_codes("9") for code, number in zip(codes, numbers, strict=True))
    assert (_refused(_counts(numbers)) is not None) == seen


@given(st.sets(st.sampled_from(DX), min_size=1, max_size=40))
def test_a_table_with_points_made_numbers_is_always_refused(codes):
    pointed = [_pointed(code) for code in codes]
    floats = [str(float(code)) if code[0].isdigit() else code for code in pointed]
    if any(code.startswith("0") for code in pointed):
        assert _refused(_counts(floats))


@given(st.sets(st.sampled_from(DX), min_size=1, max_size=40), st.booleans())
def test_a_table_of_whole_codes_is_never_refused(codes, points):
    assert _refused(_counts([_pointed(c) for c in codes] if points else codes)) is None


@given(
    st.sets(st.sampled_from(DX), min_size=1, max_size=40),
    st.sets(st.sampled_from([c for c in DX if c.startswith("0")]), min_size=1),
)
def test_a_large_table_made_numbers_is_always_refused_and_whole_never(codes, with_zero):
    codes = codes | with_zero
    assert _refused(_counts([_number(code) for code in codes], rows=ROWS_WITHOUT_ZERO))
    assert _refused(_counts(codes, rows=ROWS_WITHOUT_ZERO)) is None


@pytest.mark.parametrize(
    ("kind", "name", "column"),
    [
        ("diagnosis", "mimic3_demo/DIAGNOSES_ICD.csv.gz", "icd9_code"),
        ("procedure", "mimic3_demo/PROCEDURES_ICD.csv.gz", "icd9_code"),
        ("diagnosis", "mimic4_demo/hosp/diagnoses_icd.csv.gz", "icd_code"),
        ("procedure", "mimic4_demo/hosp/procedures_icd.csv.gz", "icd_code"),
    ],
)
def test_the_open_demos_pass_and_are_refused_once_made_numbers(kind, name, column):
    codes = [code for code, version in demo_codes(name, column) if version == "9"]
    assert _refused(_counts(codes, kind)) is None
    assert _refused(_counts([_number(code) for code in codes], kind))
