"""Makes the report's tables besides performance: who is in the cohort and who is not, speed and cost, fingerprints.

Counts of few visits are not shown, nor anything that would give them away.
"""

import re
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from ckd.evaluation.baselines import BASELINES
from ckd.evaluation.report.cohortcard import RETURNERS, SIDES
from ckd.evaluation.report.content import Content
from ckd.evaluation.report.drawing import model_name
from ckd.evaluation.report.tables import NOTHING, Table, plain
from ckd.evaluation.small_cells import MIN_CELL, WITHHELD, count_text, parts_text, small, total_tells
from ckd.visits.visit import SPLITS

_SMALL_COUNT = re.compile(r"\b[1-9](?= (?:of \d+ )?(?:\w+ ){0,2}(?:visits|patients|subjects|distinct inputs)\b)")


def without_small_counts(line: str) -> str:
    """A warning of metrics.json without its counts of visits or patients under MIN_CELL."""
    while (found := _SMALL_COUNT.sub(f"<{MIN_CELL}", line)) != line:
        line = found
    return line


def splits(run: Content) -> Table:
    """Labelled visits and patients per split."""
    counts = run.metrics["counts"]
    visits, groups = (parts_text({split: counts[split][unit] for split in SPLITS}) for unit in ("visits", "groups"))
    uses = {
        "train": "fitting",
        "tuning": "early stopping, thresholds, choice of the baseline",
        "held_out": "every figure of this report",
    }
    unit = "Patients" if counts["group"] == "subject" else "Different inputs"
    rows = [(split, visits[split], groups[split], uses[split]) for split in SPLITS]
    return plain("splits", "Labelled visits", ("Split", "Visits", unit, "Used for"), rows)


def visits(run: Content) -> Table:
    """What became of the rows that were read."""
    facts = run.facts
    reasons = {reason: entry["rows"] for reason, entry in facts.get("quarantined_by_reason", {}).items()}
    kept_tells = _kept_tells(run)
    rows = []
    if "read" in facts:
        rows.append(("rows read", WITHHELD if kept_tells or total_tells(reasons) else count_text(facts["read"])))
        rows.append(("kept", WITHHELD if kept_tells else count_text(facts["kept"])))
    rows += [(f"cannot be used: {reason}", text) for reason, text in parts_text(reasons).items()]
    for name, text in (
        ("unlabeled", "without a next visit"),
        ("without_subject", "without a patient id"),
        ("moved", "moved to the split of their patient"),
    ):
        if facts.get(name):
            rows.append((text, count_text(facts[name])))
    if facts.get("echo_rate") is not None and facts.get("echoes", 0) >= MIN_CELL:
        rows.append((run.words.said("target equals the present visit's diseases"), f"{facts['echo_rate']:.1%}"))
    return plain("visits", "Rows of the input", ("What", "Visits"), rows)


def admissions(run: Content, card: Mapping[str, Any]) -> Table:
    """What became of every admission: pairs, last visits, excluded with the reason.

    The pairs and last visits are the input's rows, so a reader can compute the sum of what was excluded.
    """
    found = card["admissions"]
    excluded = {f"excluded: {reason}": entry["rows"] for reason, entry in found["excluded"].items()}
    rows = [
        ("admissions in", WITHHELD if _kept_tells(run) or total_tells(excluded) else count_text(found["in"])),
        ("index of a next-visit pair", count_text(found["pairs"])),
        ("last visit of a patient (no next visit)", count_text(found["last_visits"])),
        *parts_text(excluded).items(),
    ]
    share = card.get("unmapped_codes", {}).get("diagnosis", {}).get("share")
    if share is not None:
        rows.append(("share of their diagnosis codes without a CCS category", f"{share:.1%}"))
    return plain("admissions", "Every admission is exactly one of these", ("What", "Admissions"), rows)


def _kept_tells(run: Content) -> bool:
    """Whether the number of kept visits would give away a small count.

    Less the labelled visits it is the number without a next visit, and the other way round.
    """
    labelled = sum(run.metrics["counts"][split]["visits"] for split in SPLITS)
    return small(run.facts.get("unlabeled", 0)) or small(labelled)


def returners(card: Mapping[str, Any]) -> Table:
    """Patients who return beside those who do not, whom "given that the patient returns" leaves out."""
    groups = [_group(card["returners"][side]) for side in SIDES]
    rows = [
        (text, *(_number(group.get(key), 100 if key == "women" else 1) for group in groups))
        for key, text in RETURNERS.items()
    ]
    columns = ("", "Patient returns", "Patient does not return")
    return plain("returners", "Visits with and without a next one", columns, rows)


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shown of a group: nothing of a few visits, and no share that gives away few women or few men."""
    if group["visits"] < MIN_CELL:
        return {}
    women = round((group.get("women") or 0) * group["visits"])
    few = small(women) or small(group["visits"] - women)
    return {key: value for key, value in group.items() if key != "women" or not few}


def baseline_notes(run: Content) -> Table:
    """What each baseline says, and why one was not computed."""
    rows = []
    for name, block in run.metrics["held_out"]["baselines"].items():
        meaning = BASELINES[name].meaning if name in BASELINES else ""
        missing = f" Not computed: {without_small_counts(block['reason'])}." if block.get("reason") else ""
        rows.append((model_name(run, name), run.words.said(meaning) + missing))
    return plain("baseline-notes", "What the baselines are", ("Baseline", "What it says"), rows)


def speed(run: Content) -> Table:
    """Visits, seconds and rate per stage, summed over the commands that continued this run.

    A stage's visits are sums of splits: where a split is small, they and the rates are withheld.
    """
    few = _kept_tells(run) or any(small(run.metrics["counts"][split]["visits"]) for split in SPLITS)
    rows = []
    for kind, text in ((step.label, step.title) for step in run.steps if step.title):
        done = [event for event in run.events if event["event"] == kind and event.get("visits")]
        seconds, read = sum(event["seconds"] for event in done), sum(event["visits"] for event in done)
        if done:
            rate = f"{read / seconds:,.1f}" if seconds else NOTHING
            rows.append((text, WITHHELD if few else f"{read:,}", f"{seconds:,.1f}", WITHHELD if few else rate))
    steps = run.last_events("student_step", "step")
    if steps:
        spent, middle = sum(step["step_seconds"] for step in steps), median(step["visits_per_s"] for step in steps)
        count = f"{len(steps):,} step{'s' if len(steps) > 1 else ''}"
        rows.append(("Student trains (steps told)", count, f"{spent:,.1f}", f"{middle:,.1f}"))
    return plain("speed", "Speed", ("Stage", "Visits", "Seconds", "Visits per second"), rows)


def cost(run: Content) -> list[tuple[str, str]]:
    """Name and value of what the teacher's pass cost."""
    accounts = [event for event in run.events if event["event"] == "embed_accounting"]
    if not accounts:
        return []
    last = accounts[-1]
    prices = [account["cost"] for account in accounts if account.get("cost") is not None]
    rows = [
        ("teacher's engine and device", f"{last.get('engine')} on {last.get('device')}"),
        ("tokens read", f"{sum(account['tokens'] for account in accounts):,}"),
        ("share of the device's measured matrix rate", _percent(last.get("flop_utilisation"))),
        ("peak device memory", NOTHING if not last.get("peak_bytes") else f"{last['peak_bytes'] / 2**30:,.1f} GiB"),
        ("cost of the teacher's pass", f"{sum(prices):,.2f}" if prices else "no price given (teacher.price_per_hour)"),
    ]
    if prices and last.get("cost_per_million") is not None:
        rows.append(("cost per million visits", f"{last['cost_per_million']:,.2f}"))
    return rows


def fingerprints(run: Content) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Stage -> what decides its values."""
    for stage, fields in run.fingerprints.items():
        yield stage, [(name, str(value)) for name, value in sorted(fields.items())]


def _number(value: float | None, times: int = 1) -> str:
    return NOTHING if value is None else f"{times * value:,.1f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"
