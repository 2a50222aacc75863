"""Fields that LLaMA-Factory puts into its prompts and this project does not: said, never ignored in silence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckd.configfile import load
from ckd.run import Run
from ckd.visits.inputs import BadRow, Input
from ckd.visits.intake import Intake
from ckd.visits.labels import CCS25
from testbed.rows import rows, write_jsonl

SYSTEM = "SYSTEMMARKER be brief"


def said(path, system=""):
    intake = Intake([Input(str(path), "train", CCS25)])
    list(intake)
    return [line for line in intake.counts.lines(system) if "not read" in line]


def written(path, count, **fields):
    return write_jsonl(path, [{**row, **fields} for row in rows(0, count, split="train")])


def test_a_system_text_names_the_key(tmp_path):
    path = written(tmp_path / "a.json", 3, system=SYSTEM)
    (line,) = said(path)
    assert "3 of 3 visits have a field 'system'" in line and "given as teacher.system, one text for all visits" in line
    assert "MARKER" not in line and "same" not in line
    assert said(path, SYSTEM) == []
    assert said(path, "another") == [line]


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_empty_field_is_not_said(tmp_path, empty):
    assert said(written(tmp_path / "a.json", 3, system=empty, history=empty, tools=empty)) == []


def test_several_texts_are_said(tmp_path):
    given = [{**row, "system": f"text {n % 2}"} for n, row in enumerate(rows(0, 4, split="train"))]
    (line,) = said(write_jsonl(tmp_path / "a.json", given), "text 0")
    assert line.endswith("not all the same")


def test_a_text_that_only_some_rows_have_is_said_even_where_it_is_given(tmp_path):
    given = [{**row, "system": SYSTEM if n else ""} for n, row in enumerate(rows(0, 4, split="train"))]
    (line,) = said(write_jsonl(tmp_path / "a.json", given), SYSTEM)
    assert "3 of 4 visits" in line


def test_history_and_tools_are_said(tmp_path):
    lines = said(written(tmp_path / "a.json", 2, history=[["HISTORYMARKER", "b"]], tools="[]"))
    assert ["'history'" in lines[0], "'tools'" in lines[1], len(lines)] == [True, True, 2]
    assert "MARKER" not in " ".join(lines)


def test_a_parquet_column_is_said_too(tmp_path):
    table = {
        "instruction": ["Name."] * 3,
        "input": ["a", "b", "c"],
        "labels": [[False] * 25] * 3,
        "system": [SYSTEM] * 3,
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert len(said(tmp_path / "a.parquet")) == 1 and said(tmp_path / "a.parquet", SYSTEM) == []


@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_a_conversation_is_refused_by_its_name(tmp_path, name):
    (tmp_path / "a.json").write_text(json.dumps({name: [{"role": "user", "content": "MARKERPATIENT"}]}) + "\n")
    (bad,) = Input(str(tmp_path / "a.json"), "train", CCS25).rows()
    assert isinstance(bad, BadRow)
    assert bad.reason == f"field 'output' is missing; '{name}' is not read"


def test_a_run_that_continues_says_it_again(tmp_path):
    files = [f"data.{s}={written(tmp_path / f'{s}.json', 20, system=SYSTEM)}" for s in ("train",)]
    given = [{**row, "system": SYSTEM} for row in rows(20, 60, split="held_out")]
    files.append(f"data.held_out={write_jsonl(tmp_path / 'h.json', given)}")
    for _ in range(2):
        lines = []
        Run(load(None, [*files, f"run.results={tmp_path}"])).prepare(lines.append)
        assert sum("60 of 60 visits have a field 'system'" in line for line in lines) == 1
    lines = []
    Run(load(None, [*files, f"run.results={tmp_path}", f"teacher.system={SYSTEM}"])).prepare(lines.append)
    assert not any("system" in line for line in lines)
