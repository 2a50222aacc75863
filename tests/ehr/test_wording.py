"""A visit of today is written with the words of the cohort: from its codes comes the text that the cohort has of it."""

import polars as pl
import pytest

from ckd.ehr.canonical import TITLES
from ckd.ehr.synthetic import tables as synthetic_tables
from ckd.ehr.wording import FILE, Code, Recorded, UnknownCodeError, Wording, Writer, used_titles
from ckd.errors import ArtifactError, ConfigError
from ckd.visits.grammar import TREATMENT
from tests.ehr.ingest_reference import ingest, read_tables


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder, out = tmp_path_factory.mktemp("tables"), tmp_path_factory.mktemp("cohort") / "out"
    synthetic_tables.write_tables(str(folder), 120, 3)
    return read_tables(folder), ingest(folder, out, "ingest.min_support=2"), out


def recorded(tables, visit):
    rows = {name: [row for row in table if row.get("hadm_id") == visit] for name, table in tables.items()}
    codes = {
        name: [Code(row["icd9_code"], "9") for row in sorted(rows[name], key=lambda row: int(row["seq_num"]))]
        for name in ("diagnoses_icd", "procedures_icd")
    }
    drugs = [row["drug"] for row in sorted(rows["prescriptions"], key=lambda row: row["startdate"])]
    return Recorded(codes["diagnoses_icd"], drugs, codes["procedures_icd"])


def test_a_visit_outside_train_is_written_as_in_the_cohort(cohort):
    tables, rows, out = cohort
    writer = Writer(Wording.of(str(out)))
    others = {visit: row for visit, row in rows.items() if row["split"] != "train"}
    assert len(others) > 20 and any(TREATMENT in row["input"] for row in others.values())
    assert {visit: writer(recorded(tables, visit)) for visit in others} == {v: r["input"] for v, r in others.items()}


def test_only_titles_that_the_codes_need_are_kept_and_they_come_back(tmp_path):
    titles = pl.DataFrame(
        [
            ("procedure", "9", "ZZ99", "a house procedure"),
            ("procedure", "10", "ZZ99", "another"),
            ("diagnosis", "9", "X", "none"),
        ],
        schema=TITLES,
        orient="row",
    )
    codes = pl.DataFrame({"kind": ["procedure"], "code": ["ZZ.99"], "version": ["ICD9"]})
    Wording({"Shock": ["b", "a"]}, used_titles(titles, codes)).save(str(tmp_path))
    found = Wording.of(str(tmp_path))
    assert found.clause == {"Shock": ["b", "a"]}
    assert found.titles.rows() == [("procedure", "9", "ZZ99", "a house procedure")]
    assert "a house procedure" in Writer(found)(Recorded(procedures=[Code("ZZ99", "9")]))


@pytest.mark.parametrize(
    ("code", "reason"), [(Code("ZZZ9", "10"), "no diagnosis code"), (Code("I10", "11"), "version")]
)
def test_a_code_that_nobody_can_write_down_is_named_by_its_place_alone(code, reason):
    with pytest.raises(UnknownCodeError, match=f"diagnosis 2: {reason}") as caught:
        Writer(Wording({}))(Recorded([Code("I10", "10"), code]))
    assert code.code not in str(caught.value)


def test_a_cohort_without_its_words_or_with_damaged_ones_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file; expected a cohort that 'ckd ingest' of this version has made"):
        Wording.of(str(tmp_path))
    Wording({"Shock": ["a"]}).save(str(tmp_path))
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(ArtifactError, match=FILE):
        Wording.of(str(tmp_path))
