"""`ckd predict` on public rows of made-up visits, and what it wrote."""

from pathlib import Path

import pyarrow.parquet as pq

from ckd.visits.labels import render_output
from jobs.cli import main
from tests.student.student_cohort import make_visits


def rows(count: int, *, labeled: bool = True, seed: int = 0) -> list[dict]:
    """Public rows; every third has no output at all, as a visit whose future is unknown."""
    found = []
    for n, visit in enumerate(make_visits("held_out", count, seed=seed)):
        row = {
            "input": visit.input,
            "visit_id": f"v{n}",
            "subject_id": n // 2,
            "prediction_time": f"2150-03-{n % 28 + 1:02d}T12:00:00",
        }
        if labeled and n % 3:
            row |= {"instruction": visit.instruction, "output": render_output(visit.labels)}
        found.append(row)
    return found


def predicted(out: Path) -> dict[str, dict]:
    table = pq.read_table(out / "predictions")
    assert len(set(table["visit_id"].to_pylist())) == len(table)
    return {row["visit_id"]: row for row in table.to_pylist()}


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])
