"""`ckd ingest` as a whole: against plain Python, on known labels, killed and continued, on Ray, into `ckd run`."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from ckd.configfile import load
from ckd.ehr.synthetic import tables as synthetic_tables
from ckd.ehr.synthetic.patients import generate
from ckd.run import Run
from ckd.visits.grammar import TREATMENT
from ckd.visits.inputs import Input
from ckd.visits.labels import CCS25, INSTRUCTION, NUM_LABELS
from ckd.visits.visit import from_table
from jobs.cli import main
from tests.ehr.ehr_reference import chain_by_hand
from tests.ehr.ehr_tables import as_generic, as_meds, as_mimic4, write_meds, write_mimic3, write_mimic4, write_tables
from tests.ehr.ingest_reference import cohort_by_hand, cohort_files, ingest, judgeable, random_tables, read_tables
from tests.ehr.mimic_rows import open_data
from tests.student.student_cohort import OTHERS, make_base

SMALL = ("ingest.min_support=1", "ingest.folds=2", "ingest.tuning_share=0.2", "ingest.held_out_share=0.3")
BY_HAND = {"m": 1, "folds": 2, "tuning": 0.2, "held_out": 0.3}
PARTS = ("ingest.partitions=12", "ingest.min_support=2")


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_the_one_that_plain_python_makes(tmp_path, seed):
    folder = write_mimic3(tmp_path / "tables", random_tables(seed), gz=seed % 2 == 0, upper=seed % 3 == 0)
    method, delay, newborns = ("lift", "count")[seed % 2], (3, 0, 1.5)[seed % 3], seed % 4 == 0
    options = (
        f"ingest.treatment={method}",
        f"ingest.coding_delay_days={delay}",
        f"ingest.newborns={newborns}",
        f"seed={seed}",
    )
    wanted = cohort_by_hand(read_tables(folder), method=method, delay=delay, newborns=newborns, seed=seed, **BY_HAND)
    found = {
        count: ingest(folder, tmp_path / f"out{count}", *SMALL, *options, f"ingest.partitions={count}")
        for count in (1, 2, 5)
    }
    assert set(found[1]) == set(wanted)
    for visit, row in wanted.items():
        assert found[1][visit] == {**row, "instruction": INSTRUCTION}
    assert found[2] == found[1] and found[5] == found[1]
    assert any(TREATMENT in row["input"] for row in wanted.values())
    cards = [json.loads((tmp_path / f"out{count}" / "card.json").read_text()) for count in (1, 2, 5)]
    for card in cards:
        card["settings"].pop("ingest.partitions")
        card.pop("check")
    assert cards[0] == cards[1] == cards[2]
    assert len({(tmp_path / f"out{count}" / "association.csv").read_bytes() for count in (1, 2, 5)}) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_patients_in_other_tables_give_the_same_rows(tmp_path, seed):
    tables = random_tables(seed)
    for row in tables["prescriptions"]:  # the generic tables read dates too, and never a slash
        row["startdate"] = "" if "/" in str(row.get("startdate", "")) else row.get("startdate", "")
    wanted = ingest(write_mimic3(tmp_path / "3", tables), tmp_path / "out3", *SMALL)
    known = {
        row["hadm_id"]
        for row in tables["admissions"]
        if not row.get("deathtime") and row["admission_type"] != "NEWBORN"
    }
    assert len(known) >= len(tables["admissions"]) - 6
    other = {
        "4": ingest(write_mimic4(tmp_path / "4", as_mimic4(tables)), tmp_path / "out4", *SMALL, kind="mimic4"),
        "tables": ingest(
            write_tables(tmp_path / "t", as_generic(tables), suffix=".csv.gz"), tmp_path / "out", *SMALL, kind="tables"
        ),
    }
    for rows in other.values():
        assert {visit: {**row, "age": None} for visit, row in rows.items()} == {
            visit: {**row, "age": None} for visit, row in wanted.items()
        }


def test_the_same_patients_as_meds_events_give_the_same_rows(tmp_path, synthetic, undisturbed):
    folder = write_meds(tmp_path / "meds", as_meds(read_tables(synthetic)), shards=3)
    assert ingest(folder, tmp_path / "out", *PARTS, kind="meds") == undisturbed[0]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic_tables.write_tables(str(folder), 60, 3)
    return folder


@pytest.fixture(scope="module")
def undisturbed(synthetic, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return ingest(synthetic, out, *PARTS), out


def test_labels_are_the_generator_s_recorded_ones_of_the_next_and_of_the_current_visit(synthetic, undisturbed):
    rows, _ = undisturbed
    tables, encounters = read_tables(synthetic), generate(60, 3)
    judged = chain_by_hand([judgeable(row, tables["diagnoses_icd"]) for row in tables["admissions"]], 3, False)
    recorded = {}
    for row, flags in zip(tables["admissions"], encounters.recorded[:, :NUM_LABELS], strict=True):
        stay = judged[row["hadm_id"]]["stay_id"]
        recorded[stay] = recorded.get(stay, np.zeros(NUM_LABELS, bool)) | flags
    roles = Counter(verdict["role"] for verdict in judged.values())
    assert roles["pair"] > 150 and roles["pair"] + roles["last"] == len(rows)
    for visit, row in rows.items():
        assert row["current_labels"] == recorded[visit].tolist()
        assert row["labels"] == (
            recorded[judged[visit]["next_id"]].tolist() if judged[visit]["role"] == "pair" else None
        )


def command(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def killed_at(process, out, pattern):
    """SIGKILL as soon as something in `out` fits `pattern`; False when the command ended first."""
    deadline = time.monotonic() + 60
    while not any(out.glob(pattern)):
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


MOMENTS = (
    ".ckd-ingest-*/tables.*.tmp/visits",
    ".ckd-ingest-*/tables/artifact.json",
    ".ckd-ingest-*/assembled-00000",
    ".ckd-ingest-*/assembled-00006/artifact.json",
    "part-00000.parquet",
)


def test_an_ingest_killed_again_and_again_ends_with_the_same_bytes(tmp_path, synthetic, undisturbed):
    out = tmp_path / "out"
    words = ("ingest", "mimic3", synthetic, "--out", out, *PARTS)
    kept = {}
    for moment in MOMENTS:
        assert killed_at(command(*words, cwd=tmp_path), out, moment), moment
        assert not (out / "artifact.json").exists()
        assert all((out / name).stat().st_mtime_ns == time for name, time in kept.items()), (
            "a finished step was done again"
        )
        done = out.glob(".ckd-ingest-*/assembled-?????/artifact.json")
        kept = {path.relative_to(out): path.stat().st_mtime_ns for path in done}
    parts = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    ingest(synthetic, out, *PARTS)
    again = [name for name, time in parts.items() if (out / name).stat().st_mtime_ns != time]
    assert len(again) <= 1, "only the part at which the command was killed may be written once more"
    assert cohort_files(out) == cohort_files(undisturbed[1])
    assert not list(out.glob(".*"))


def test_what_kills_left_is_removed_at_the_end_and_nothing_else(tmp_path, synthetic, undisturbed):
    out = tmp_path / "out"
    ingest(synthetic, out, *PARTS)
    left = (".ckd-ingest-0123456789abcdef/tables", f".part-00000.parquet.{'0' * 32}.tmp", f".card.json.{'f' * 32}.tmp")
    others = ("_work/tables", ".ckd-ingest-mine/x", ".notes.tmp", ".card.json.tmp")
    for name in (*left, *others):
        (out / name).parent.mkdir(exist_ok=True, parents=True)
        (out / name).write_text("patients")
    ingest(synthetic, out, *PARTS)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(
        [*others, *(path.name for path in undisturbed[1].iterdir())]
    )


def test_ray_actors_make_the_same_bytes(tmp_path, synthetic, undisturbed, local_ray):
    ingest(synthetic, tmp_path / "out", *PARTS, "ingest.workers=2")
    assert cohort_files(tmp_path / "out") == cohort_files(undisturbed[1])


def test_a_damaged_part_is_named_and_nothing_of_it_is_used(tmp_path, synthetic, undisturbed, capsys):
    out = tmp_path / "out"
    assert killed_at(
        command("ingest", "mimic3", synthetic, "--out", out, *PARTS, cwd=tmp_path), out, "part-00000.parquet"
    )
    (out / "part-00000.parquet").write_bytes((out / "part-00000.parquet").read_bytes()[:-100])
    assert main(["ingest", "mimic3", str(synthetic), "--out", str(out), *PARTS]) == 2
    assert "part-00000.parquet: damaged, or not one of" in capsys.readouterr().err
    (out / "part-00000.parquet").unlink()
    ingest(synthetic, out, *PARTS)
    assert cohort_files(out) == cohort_files(undisturbed[1])


def test_a_flipped_bit_in_what_an_ingest_continues_from_is_found(tmp_path, synthetic, undisturbed, capsys):
    out, rng = tmp_path / "out", random.Random(1)
    words = ("ingest", "mimic3", synthetic, "--out", out, *PARTS)
    assert killed_at(command(*words, cwd=tmp_path), out, ".ckd-ingest-*/assembled-00011/artifact.json")
    found = out.glob(".ckd-ingest-*/assembled-?????/*")
    files = [path.relative_to(out) for path in found if path.name != "artifact.json"]
    for number, name in enumerate(rng.sample(sorted(files), 8)):
        trial = tmp_path / str(number)
        shutil.copytree(out, trial)
        data = bytearray((trial / name).read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (trial / name).write_bytes(data)
        assert main(["ingest", "mimic3", str(synthetic), "--out", str(trial), *PARTS]) in (2, 3), name
        assert f"{name.name}: changed since it was written" in capsys.readouterr().err
    ingest(synthetic, out, *PARTS)
    assert cohort_files(out) == cohort_files(undisturbed[1])


def test_export_writes_every_labelled_visit_once_with_its_text_and_labels(tmp_path, undisturbed, capsys):
    rows, out = undisturbed
    assert main(["export", "jsonl", str(out), "--out", str(tmp_path / "data")]) == 0
    assert "WARNING" not in capsys.readouterr().out, "synthetic tables are nobody's"
    for split, name in (("train", "name_train"), ("tuning", "name_val"), ("held_out", "name_test")):
        exported = {
            visit.visit_id: visit for visit in Input(str(tmp_path / "data" / f"{name}.json"), split, CCS25).rows()
        }
        wanted = {visit: row for visit, row in rows.items() if row["split"] == split and row["labels"] is not None}
        assert set(exported) == set(wanted)
        for visit, row in wanted.items():
            found = exported[visit]
            assert (found.input, found.instruction, list(found.labels)) == (
                row["input"],
                row["instruction"],
                row["labels"],
            )
            assert (found.subject_id, found.split, found.prediction_time) == (
                row["subject_id"],
                row["split"],
                row["prediction_time"],
            )
            assert list(found.current_labels) == row["current_labels"]
    assert set(json.loads((tmp_path / "data" / "dataset_info.json").read_text())) == {"name_train", "name_val"}


def test_a_run_keeps_the_cohort_s_splits_labels_and_texts(tmp_path, undisturbed):
    rows, out = undisturbed
    said = []
    config = load(None, [f"data.train={out}", "data.tuning=", f"run.results={tmp_path}", "run.name=t"])
    cohort = Run(config).prepare(said.append)
    found = {visit.visit_id: visit for shard in cohort.shards for visit in from_table(cohort.read(shard))}
    assert set(found) == set(rows)
    for visit, row in rows.items():
        assert (found[visit].split, found[visit].input, found[visit].subject_id) == (
            row["split"],
            row["input"],
            row["subject_id"],
        )
        assert found[visit].labels == (None if row["labels"] is None else tuple(row["labels"]))
        assert found[visit].prediction_time == row["prediction_time"]
    assert cohort.facts["moved"] == 0 and cohort.facts["quarantined"] == 0


DEMOS = {
    "mimic3": ("mimic3_demo", (129, 28, 60), {"ended in death": 40, "next admission before the codes are complete": 1}),
    "mimic4": (
        "mimic4_demo",
        (275, 165, 85),
        {"ended in death": 15, "next admission before the codes are complete": 7, "merged into an earlier stay": 3},
    ),
}


@pytest.mark.parametrize("kind", DEMOS)
def test_the_open_demo_runs_from_its_tables_to_metrics(tmp_path, teacher_folder, capsys, kind):
    """It runs on real codes and dates; 100 patients show nothing about performance."""
    name, (admissions, pairs, last), excluded = DEMOS[kind]
    out, data = tmp_path / "cohort", tmp_path / "data"
    rows = ingest(open_data() / name, out, kind=kind)
    card = json.loads((out / "card.json").read_text())
    assert (card["admissions"]["in"], card["admissions"]["pairs"], card["admissions"]["last_visits"]) == (
        admissions,
        pairs,
        last,
    )
    assert {reason: found["rows"] for reason, found in card["admissions"]["excluded"].items()} == excluded
    assert Counter(row["labels"] is not None for row in rows.values()) == {True: pairs, False: last}
    assert main(["export", "jsonl", str(out), "--out", str(data)]) == 0
    assert "WARNING: credentialed data" in capsys.readouterr().out
    words = [
        *f"data.train={out} data.tuning= run.name=t run.results={tmp_path}/results".split(),
        *f"run.public_files={tmp_path}/public teacher.base_model={teacher_folder}/base".split(),
        *f"teacher.adapter={teacher_folder}/adapter teacher.dtype=float32 teacher.max_length=512 seed=7".split(),
        f"student.base_model={make_base(tmp_path / 'bert', others=OTHERS)}",
        *("student.max_length=64", "student.epochs=1", "head.epochs=2", "head.folds=2"),
    ]
    assert main(["run", *words]) == 0
    metrics = json.loads((tmp_path / "results/t/metrics.json").read_text())
    assert metrics["held_out"]["student"]["micro"]["brier"] is not None
    assert f"visits: read {len(rows)} = kept {len(rows)} + quarantined 0" in capsys.readouterr().out
