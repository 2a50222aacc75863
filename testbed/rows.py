"""Input rows: hypothesis strategies for visits, rows of a small cohort, and a writer of public JSONL."""

import json
from pathlib import Path

from hypothesis import strategies as st

from ckd.visits.labels import DISEASES, NUM_LABELS, names, render_output
from ckd.visits.visit import SPLITS, Visit

MARKER = "ZZPATIENTMARKERZZ"

label_sets = st.lists(st.booleans(), min_size=NUM_LABELS, max_size=NUM_LABELS).map(tuple)
characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
visits = st.builds(
    Visit,
    visit_id=texts,
    instruction=texts,
    input=texts,
    labels=st.none() | label_sets,
    subject_id=st.none() | texts,
    split=st.none() | st.sampled_from(SPLITS),
    current_labels=st.none() | label_sets,
    prediction_time=st.none() | texts,
    subgroups=st.dictionaries(st.sampled_from(["age", "sex", "insurance"]), texts),
)


def as_json(visit: Visit) -> dict:
    """A visit as a public JSON object; what it does not know is left out."""
    known = {name: getattr(visit, name) for name in ("visit_id", "subject_id", "split", "prediction_time")}
    row = {"instruction": visit.instruction, "input": visit.input}
    row |= {name: value for name, value in known.items() if value} | visit.subgroups
    row["output"] = None if visit.labels is None else render_output(visit.labels)
    if visit.current_labels is not None:
        row["current_labels"] = names(visit.current_labels)
    return row


def row(number: int, diseases: tuple[str, ...] = (), **more) -> dict:
    """Row `number` of a small cohort; its text is unique unless `input` is given."""
    output = render_output([name in diseases for name in DISEASES])
    return {"instruction": "Say what comes next", "input": f"visit {number}", "output": output, **more}


def rows(start: int, stop: int, **more) -> list[dict]:
    """Rows whose subjects have two visits each and whose labels vary."""
    return [row(n, (DISEASES[n % 3],) if n % 2 else (), subject_id=f"s{n // 2}", **more) for n in range(start, stop)]


def write_jsonl(path: Path, found: list[dict]) -> str:
    """Write rows as public JSONL; returns the path as text."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found), encoding="utf-8")
    return str(path)
