"""`ckd predict`: every visit of the input once in the output, whatever the input, whatever kills it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ckd.calibration import FILE
from ckd.predict.scorer import Scorer
from ckd.visits.labels import DISEASES, NUM_LABELS, names
from testbed.rows import MARKER, write_jsonl
from tests.predict.predicting import predict, predicted, rows
from tests.predict.scored_student import make_student


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("model"))


def expected(model: str, given: list[dict]) -> dict[str, dict]:
    """The slow way: each text alone."""
    scorer = Scorer.load(model)
    found = {}
    for row in given:
        scores = scorer([row["input"]])
        found[row["visit_id"]] = {
            "probabilities": scores.probabilities[0],
            "calibrated": scores.calibrated[0],
            "names": names(scores.flags[0]),
        }
    return found


def test_jsonl_gzip_parquet_and_a_folder_of_parts_give_the_figures_of_each_text_alone(model, tmp_path, capsys):
    given = rows(60)
    plain = write_jsonl(tmp_path / "plain.json", given)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    (tmp_path / "parts").mkdir()
    import pyarrow as pa

    columns = [
        {k: v for k, v in row.items() if k in ("input", "visit_id")} | {"subject_id": str(row["subject_id"])}
        for row in given
    ]
    pq.write_table(pa.Table.from_pylist(columns[:25]), tmp_path / "parts" / "a.parquet")
    pq.write_table(pa.Table.from_pylist(columns[25:]), tmp_path / "parts" / "b.parquet")
    wanted = expected(model, given)
    for source in (plain, packed, tmp_path / "parts", tmp_path / "parts" / "b.parquet"):
        out = tmp_path / f"out-{Path(source).name}"
        assert predict(source, "--model", model, "--out", out, "data.shard_rows=16") == 0
        found = predicted(out)
        assert len(found) == (35 if str(source).endswith("b.parquet") else 60)
        for visit_id, row in found.items():
            np.testing.assert_allclose(row["probabilities"], wanted[visit_id]["probabilities"], atol=1e-5)
            np.testing.assert_allclose(row["calibrated"], wanted[visit_id]["calibrated"], atol=1e-5)
            assert row["names"] == wanted[visit_id]["names"]
    printed = capsys.readouterr().out
    assert "read 60 = predicted 60 + quarantined 0" in printed
    lost = sum(len(row["input"].split()) > 30 for row in given)
    assert (
        f"{lost} of 60 visits are longer than the 32 tokens that this student reads and lost text from their end"
        in printed
    )


def test_what_is_known_of_a_visit_stays_beside_its_prediction(model, tmp_path):
    given = rows(9)
    assert predict(write_jsonl(tmp_path / "in.json", given), "--model", model, "--out", tmp_path / "out") == 0
    for row in given:
        found = predicted(tmp_path / "out")[row["visit_id"]]
        assert found["subject_id"] == str(row["subject_id"])
        assert found["prediction_time"] == row["prediction_time"]
        labels = None if "output" not in row else [name in row["output"] for name in DISEASES]
        assert (found["labels"] is None) == (labels is None)
    assert not list((tmp_path / "out" / "visits").glob("*.parquet"))  # the copy of the texts is gone


def test_a_finished_one_says_so_and_computes_nothing(model, tmp_path, capsys):
    words = (
        write_jsonl(tmp_path / "in.json", rows(20)),
        "--model",
        model,
        "--out",
        tmp_path / "out",
        "data.shard_rows=8",
    )
    assert predict(*words) == 0
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out" / "predictions").iterdir()}
    capsys.readouterr()
    assert predict(*words) == 0
    assert "predictions is done" in capsys.readouterr().out
    assert {
        p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out" / "predictions").iterdir()
    } == before


def test_a_missing_part_alone_is_made_again(model, tmp_path, capsys):
    words = (
        write_jsonl(tmp_path / "in.json", rows(20)),
        "--model",
        model,
        "--out",
        tmp_path / "out",
        "data.shard_rows=8",
    )
    assert predict(*words) == 0
    parts = {p.name: p.read_bytes() for p in (tmp_path / "out" / "predictions").iterdir()}
    (tmp_path / "out" / "predictions" / "part-00001.parquet").unlink()
    capsys.readouterr()
    assert predict(*words) == 0
    assert "1 to do" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "predictions").iterdir()} == parts


def test_another_model_another_input_and_others_files_are_refused(model, tmp_path, capsys):
    first, second = write_jsonl(tmp_path / "a.json", rows(8)), write_jsonl(tmp_path / "b.json", rows(8, seed=1))
    assert predict(first, "--model", model, "--out", tmp_path / "out") == 0
    kept = predicted(tmp_path / "out")
    other = make_student(tmp_path / "other", calibrated=False)
    for words in ((second, "--model", model), (first, "--model", other)):
        capsys.readouterr()
        assert predict(*words, "--out", tmp_path / "out") == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "give another --out" in told
    assert predicted(tmp_path / "out") == kept
    (tmp_path / "mine" / "visits").mkdir(parents=True)
    pq.write_table(pq.read_table(tmp_path / "out" / "predictions"), tmp_path / "mine" / "visits" / "part-00000.parquet")
    before = (tmp_path / "mine" / "visits" / "part-00000.parquet").read_bytes()
    assert predict(first, "--model", model, "--out", tmp_path / "mine") == 2
    assert (tmp_path / "mine" / "visits" / "part-00000.parquet").read_bytes() == before


BAD = [
    ("not json " + MARKER, "broken JSON"),
    (json.dumps({"instruction": MARKER}), "field 'input' is missing"),
    (json.dumps({"input": 7, "subject_id": MARKER}), "field 'input' is not a string"),
    (json.dumps({"input": ["a", MARKER]}), "field 'input' is not a string"),
    (json.dumps({"input": "  "}), "field 'input' is empty"),
    ('{"input": "' + MARKER + '", "age": NaN}', "JSON with NaN"),
    (
        json.dumps({"input": MARKER, "output": "Disease that the patient may acquire: " + MARKER}),
        "names a disease that is none of the 25",
    ),
    (json.dumps({"input": MARKER + "\ud800"}), "not valid Unicode"),
]


def test_bad_rows_are_quarantined_with_their_line_and_the_others_predicted(model, tmp_path, capsys):
    good = [*rows(5), {"input": "w01 " * 250_000 + MARKER, "visit_id": "long"}]
    path = tmp_path / "in.json"
    path.write_text("\n".join([*map(json.dumps, good), *[line for line, _ in BAD]]) + "\n")
    words = (path, "--model", model, "--out", tmp_path / "out")
    assert predict(*words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "data.max_bad_rows" in told and f"{path}:7" in told
    assert predict(*words, f"data.max_bad_rows={len(BAD)}") == 0
    printed = capsys.readouterr()
    assert f"read {6 + len(BAD)} = predicted 6 + quarantined {len(BAD)}" in printed.out
    long = sum(len(row["input"].split()) > 30 for row in good)
    assert f"{long} of 6 visits are longer than the 32 tokens" in printed.out
    listed = [
        json.loads(line)
        for line in (tmp_path / "out" / "visits" / "_cohort" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert [row["location"] for row in listed] == [f"{path}:{7 + n}" for n in range(len(BAD))]
    assert all(reason in row["reason"] for row, (_, reason) in zip(listed, BAD, strict=True))
    assert MARKER not in printed.out + printed.err
    for file in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        assert MARKER.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.json", b"", "holds no rows"),
        ("in.parquet", b"PAR1 no", "cannot be read"),
        ("in.csv", b"a,b", "unsupported kind"),
        ("", None, "no such file"),
    ],
)
def test_input_that_cannot_be_read_is_one_line(model, tmp_path, capsys, name, content, message):
    path = tmp_path / (name or "nowhere.json")
    if content is not None:
        path.write_bytes(content)
    assert predict(path, "--model", model, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_without_a_calibration_the_calibrated_columns_are_null_and_that_is_said(tmp_path, capsys):
    model = make_student(tmp_path / "m", calibrated=False)
    assert predict(write_jsonl(tmp_path / "in.json", rows(4)), "--model", model, "--out", tmp_path / "out") == 0
    assert "calibration.json is missing" in capsys.readouterr().out
    found = predicted(tmp_path / "out")
    assert all(
        row["calibrated"] is None and row["names"] is None and len(row["probabilities"]) == NUM_LABELS
        for row in found.values()
    )


def test_a_damaged_model_file_costs_one_line_and_leaves_no_part(model, tmp_path, capsys):
    import shutil

    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"damaged")
    assert predict(write_jsonl(tmp_path / "in.json", rows(4)), "--model", copy, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "model.safetensors: missing or changed" in told and told.count("\n") == 1
    assert not (tmp_path / "out" / "predictions").exists()


def test_ray_workers_give_the_same_parts(local_ray, model, tmp_path):
    words = (write_jsonl(tmp_path / "in.json", rows(40)), "--model", model, "data.shard_rows=8")
    assert predict(*words, "--out", tmp_path / "here") == 0
    assert predict(*words, "--out", tmp_path / "there", "student.workers=2") == 0
    here, there = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "predictions").glob("*.parquet")}
        for name in ("here", "there")
    )
    assert here == there and len(here) == 6


def test_killed_half_way_it_continues_to_the_same_parts(model, tmp_path):
    source = write_jsonl(tmp_path / "in.json", rows(400))
    words = [source, "--model", model, "data.shard_rows=4"]
    assert predict(*words, "--out", tmp_path / "whole") == 0
    command = [sys.executable, "-m", "jobs.cli", "predict", *words, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    parts = tmp_path / "killed" / "predictions"
    while process.poll() is None and not (parts.exists() and len(list(parts.glob("part-*"))) >= 3):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = len(list(parts.glob("part-*")))
    assert 3 <= there < 100
    assert predict(*words, "--out", tmp_path / "killed") == 0
    whole, killed = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "predictions").glob("*.parquet")}
        for name in ("whole", "killed")
    )
    assert whole == killed
    assert (Path(model) / FILE).exists()
