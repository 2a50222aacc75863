"""`ckd validate`: counts, places, echo rate, exit code; quick, and without patient text."""

import io
import subprocess
import sys
from argparse import Namespace

import pytest

from ckd.config import Config
from ckd.errors import DataError
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES
from jobs.console import Console
from jobs.validate import run
from testbed.rows import MARKER, row, write_jsonl


def validate(*files, **data):
    stream = io.StringIO()
    try:
        run(Config.model_validate({"data": data}), Console(stream), Namespace(words=files))
    except DataError as error:
        return stream.getvalue(), str(error)
    return stream.getvalue(), ""


def test_bad_rows_are_counted_by_reason_with_their_first_place(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.json", [row(1), {"input": MARKER}, row(2, output=MARKER), row(3, output=MARKER)]
    )
    printed, error = validate(path)
    assert "read 4 = kept 1 + quarantined 3" in printed
    assert f"quarantined 2: field 'output' names a disease that is none of the 25 labels (first: {path}:3)" in printed
    assert "3 of 4 rows cannot be used, data.max_bad_rows allows 0" in error
    assert MARKER not in printed + error
    assert validate(path, max_bad_rows=3)[1] == ""


def test_every_bad_row_is_named_up_to_a_hundred(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(0), *({"input": f"{MARKER} {n}"} for n in range(103))])
    printed, _ = validate(path)
    named = [line for line in printed.splitlines() if line.startswith(f"validate: {path}:")]
    assert named == [f"validate: {path}:{n}: field 'output' is missing" for n in range(2, 102)]
    assert "validate: … and 3 more such rows" in printed and MARKER not in printed


def now_and_next(now, following, by_clause):
    if by_clause:
        return row(0, following, input=render_input(now, [], [], {name: ["A"] for name in now}))
    return row(0, following, input="free text", current_labels=list(now))


@pytest.mark.parametrize("by_clause", [True, False])
@pytest.mark.parametrize(("echoes", "warns"), [(2, False), (3, True)])
def test_the_echo_rate_comes_from_current_labels_or_the_treatment_clause(tmp_path, by_clause, echoes, warns):
    a, b = (DISEASES[3],), (DISEASES[7], DISEASES[8])
    found = [now_and_next(a if n % 2 else (), a if n % 2 else (), by_clause) for n in range(echoes)]
    found += [now_and_next(a, b, by_clause) for _ in range(4 - echoes)]
    printed, _ = validate(write_jsonl(tmp_path / "rows.json", found))
    assert f"the target equals the current visit's labels in {echoes / 4:.1%} of 4 visits" in printed
    assert ("not next-visit prediction" in printed) == warns


def test_an_unknown_present_is_said_and_never_counted_as_an_echo(tmp_path):
    printed, _ = validate(write_jsonl(tmp_path / "rows.json", [row(1)]))
    assert "echo rate: unknown" in printed and "splitting by visit: patients may leak" in printed


def test_without_files_the_configured_inputs_are_validated_and_ids_compared_across_them(tmp_path):
    train = write_jsonl(tmp_path / "train.json", [row(1, visit_id="a")])
    held_out = write_jsonl(tmp_path / "held_out.json", [row(2, visit_id="a")])
    printed, error = validate(train=train, held_out=held_out)
    assert "read 2 = kept 1 + quarantined 1" in printed and f"{held_out}:1" in error
    assert "nothing to validate" in validate()[1]


def test_the_same_file_twice_and_equal_lines_of_two_files_are_no_duplicates(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(1), row(1)])
    printed, error = validate(path, path)
    assert "read 4 = kept 4 + quarantined 0" in printed and not error


def test_validating_loads_no_model_library(tmp_path):
    path = write_jsonl(tmp_path / "rows.json", [row(1)])
    code = (
        "import sys; from jobs.cli import main; assert main(['validate', sys.argv[1]]) == 0; "
        "assert main(['validate', sys.argv[1] + 'x']) == 2; "
        "assert not {'torch', 'transformers', 'sklearn', 'ray', 'peft', 'deepspeed'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "read 1 = kept 1 + quarantined 0" in done.stdout and "no such file" in done.stderr
