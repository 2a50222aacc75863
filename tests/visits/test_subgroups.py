"""Subgroups that a user names: of rows of JSONL and Parquet, kept in the stored cohort, refused where they are none."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.config import Config
from ckd.errors import ConfigError, DataError, MismatchError
from ckd.ingest_config import IngestConfig
from ckd.run import Run
from ckd.visits.audit import audit_stage, audit_values
from ckd.visits.cohort import Cohort
from ckd.visits.subgroups import LONGEST, MOST_VALUES, NOTHING, group_of, require_groups
from ckd.visits.visit import Visit, from_table, to_table
from jobs.cli import main
from testbed.rows import rows, write_jsonl

MARKER = "Zebra"


def inputs(folder, **of):
    """name_train.json and name_test.json; the rows have the fields `of`: name -> value of the row's number."""

    def made(start, stop):
        cells = ({name: value(n) for name, value in of.items()} for n in range(stop - start))
        return [{**row, **more} for row, more in zip(rows(start, stop), cells, strict=True)]

    train = write_jsonl(folder / "name_train.json", made(0, 40))
    return {"train": train, "held_out": write_jsonl(folder / "name_test.json", made(40, 60))}


def run_of(folder, data, *subgroups):
    where = {"artifacts": str(folder / "artifacts"), "results": str(folder / "results")}
    return Run(Config.model_validate({"data": data, "run": where, "ingest": {"subgroups": subgroups}}))


def stored(cohort):
    return {v.visit_id: v.subgroups for shard in cohort.shards for v in from_table(cohort.read(shard))}


def test_a_field_of_the_rows_is_a_subgroup_of_the_stored_visits(tmp_path):
    cells = ["A", " B ", 3.0, None, "", True]
    data = inputs(tmp_path, Clinic=lambda n: cells[n % 6], sex=lambda n: "F")
    said = []
    cohort = run_of(tmp_path, data, "Clinic").prepare(said.append)
    assert cohort.subgroups == ("Clinic",) and Cohort.open(cohort.root) == cohort
    found = [groups.get("Clinic") for groups in stored(cohort).values()]
    assert {value: found.count(value) for value in found} == {"A": 11, "B": 11, "3": 10, "true": 9, None: 19}
    assert "visits: subgroup 'Clinic': 4 values, unknown in 19 visits" in said
    audit = audit_stage(cohort.root, "visits", list(cohort.shards), lambda shard: shard.content_hash)
    assert len(audit.done) == len(cohort.shards) and not list(audit_values(cohort, audit, {}))


def test_without_the_key_the_stored_bytes_are_those_of_rows_without_the_field(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = run_of(tmp_path / "a", inputs(tmp_path / "a")).prepare(lambda line: None)
    other = run_of(tmp_path / "b", inputs(tmp_path / "b", clinic=lambda n: "A")).prepare(lambda line: None)
    assert [s.content_hash for s in plain.shards] == [s.content_hash for s in other.shards]


def test_other_subgroups_are_other_visits(tmp_path):
    data = inputs(tmp_path, clinic=lambda n: "AB"[n % 2], ward=lambda n: "CD"[n % 2])
    run_of(tmp_path, data, "clinic").prepare(lambda line: None)
    with pytest.raises(MismatchError, match=r"ingest\.subgroups"):
        run_of(tmp_path, data, "ward").prepare(lambda line: None)


def test_a_column_of_parquet_is_one_and_one_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    visits = [
        Visit(f"v{n}", "?", f"text {n}", (n % 2 == 0,) * 25, f"s{n}", "train" if n < 30 else "held_out")
        for n in range(40)
    ]
    table = to_table(visits, 25).append_column("Clinic", pa.array([["x", "y"][n % 2] for n in range(40)]))
    pq.write_table(table, tmp_path / "in.parquet")
    data = {"train": str(tmp_path / "in.parquet")}
    cohort = run_of(tmp_path, data, "Clinic").prepare(lambda line: None)
    assert stored(cohort)["v1"] == {"Clinic": "y"}
    with pytest.raises(ConfigError, match=r"'ward' is no column of .*in\.parquet; there are visit_id, .*, Clinic"):
        run_of(tmp_path / "other", data, "ward").prepare(lambda line: None)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"ward": lambda n: "A"}, "no row of .* has a value of 'clinic'; its rows have .*, ward"),
        ({"clinic": lambda n: None}, "has a value of 'clinic'"),
        ({"clinic": lambda n: f"{MARKER}{n}"}, "column 'clinic' has 40 values for 30 patients"),
        ({"clinic": lambda n: MARKER * 20}, "column 'clinic' holds text"),
    ],
)
def test_a_field_that_is_no_group_is_refused_without_its_values(tmp_path, of, said, capsys):
    data = inputs(tmp_path, **of)
    with pytest.raises((ConfigError, DataError), match=said):
        run_of(tmp_path, data, "clinic").prepare(lambda line: None)
    assert main(["validate", data["train"], "ingest.subgroups=clinic"]) == 2
    assert MARKER not in capsys.readouterr().err


@pytest.mark.parametrize("every", [False, True])
def test_a_row_whose_field_is_a_list_is_a_bad_row(tmp_path, every, capsys):
    data = inputs(tmp_path, clinic=lambda n: [MARKER] if n == 3 or every else "AB"[n % 2])
    assert main(["validate", data["train"], "ingest.subgroups=clinic"]) == 2
    out, err = capsys.readouterr()
    assert "name_train.json:4: a field of ingest.subgroups (clinic) is neither text nor a number" in out
    assert MARKER not in out + err


@pytest.mark.parametrize("key", ["[sex]", "visit_id", "split", "output", "clinic,Clinic", "a,,b"])
def test_names_that_are_taken_or_none_are_refused(tmp_path, key, capsys):
    assert main(["validate", inputs(tmp_path)["train"], f"ingest.subgroups={key}"]) == 2
    assert "ingest.subgroups" in capsys.readouterr().err


@given(value=st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans()))
def test_a_cell_is_a_group_or_nothing(value):
    found = group_of(value) if not isinstance(value, str) or value.isascii() else "x"
    assert found is None or (found == found.strip() and found not in ("", *NOTHING))


@pytest.mark.parametrize(("key", "names"), [("", ()), (1, ("1",)), ("a, b/", ("a", "b")), (["a,b"], ("a,b",))])
def test_names_are_a_list_or_text_with_commas(key, names):
    assert IngestConfig.model_validate({"subgroups": key}).subgroups == names


def test_what_a_column_of_groups_may_hold():
    def fault(values, patients):
        try:
            require_groups("c", values, patients, "x")
        except DataError as error:
            return str(error)
        return ""

    many = [str(n) for n in range(MOST_VALUES + 1)]
    assert not fault(many[1:], 100) and "more than 50 values" in fault(many, 1000)
    assert not fault(["a", "b"], 2) and "3 values for 5 patients" in fault(["a", "b", "c"], 5)
    assert not fault(["a" * LONGEST], 9) and "text" in fault(["a" * (LONGEST + 1)], 9) and "text" in fault(["a\nb"], 9)
    assert "dates" in fault(["2019-03-16", "16.3.2019 10:00"], 9) and not fault(["2008 - 2010", "2019-03-16"], 9)


def test_a_visit_keeps_its_groups_in_their_order(tmp_path):
    visit = Visit("v", "?", "t", None, split="train", subgroups={"sex": "F", "b": "1", "a": "2"})
    (back,) = from_table(to_table([visit], 25, ("b", "a")))
    assert list(back.subgroups) == ["sex", "b", "a"] and back == replace(visit, source=back.source)
