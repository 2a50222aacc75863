"""Makes the report's tables of performance from metrics.json: cells of text and of what they sort by.

Computes nothing; counts of few visits are not shown.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from ckd.evaluation.claims import MIN_EVENTS
from ckd.evaluation.comparisons import decided
from ckd.evaluation.metrics import METRICS, MIN_COUNT, SHOWN
from ckd.evaluation.report.content import Content
from ckd.evaluation.report.drawing import model_name
from ckd.evaluation.small_cells import MIN_CELL, part_text, small

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """The text, a smaller text behind it, and the value that the column sorts by ("": always last)."""

    text: str
    small: str = ""
    sort: str = ""
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table with its id in the page, its columns and rows; the first cell of a row names it."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    headings: Sequence[str] = ()  # of each row, equal ones together; none: no headings

    @property
    def parts(self) -> list[tuple[str, list[Sequence[Cell]]]]:
        """Each heading with its rows; "" with all of them where there is none."""
        pairs = zip(self.headings or [""] * len(self.rows), self.rows, strict=True)
        return [(heading, [row for _, row in found]) for heading, found in groupby(pairs, key=itemgetter(0))]


def word(text: str) -> Cell:
    """A cell of words."""
    return Cell(text, sort=text.lower(), number=False)


def figure(value: float | None, bounds: Sequence[float] | None = None, digits: int = 3, *, sign: bool = False) -> Cell:
    """A figure with its interval; NOTHING where it is undefined."""
    if value is None:
        return Cell(NOTHING)
    form = f"{'+' if sign else ''}.{digits}f"
    small = f"({bounds[0]:{form}} to {bounds[1]:{form}})" if bounds else ""
    return Cell(format(round(value, digits) + 0.0, form), small, repr(value))


def models(run: Content) -> Table:
    """Macro figures of every model; after AUROC the same inside new onset and persistent."""
    rows = []
    for name, block in run.blocks.items():
        figures = [_macro(block, metric) for metric in SHOWN]
        figures[1:1] = [_macro(block.get(view), "auroc") for view in run.views]
        rows.append([word(model_name(run, name)), *figures])
    headings = [metric.heading[0].upper() + metric.heading[1:] for metric in SHOWN.values()]
    headings[1:1] = run.views.values()
    caption = "All models on the same held-out visits. In brackets: 95 % interval over patients."
    return Table("models-table", caption, ("Model", *headings), rows, sortable=True)


def labels(run: Content) -> Table:
    """The student per disease. A label outside the macro average has too few visits for any figure."""
    student, teacher = (run.metrics["held_out"][name] for name in ("student", "teacher"))
    shown = {name: metric.title for name, metric in SHOWN.items() if name != "f1"}  # F1 is in the table of alerts
    counts, names = run.metrics["counts"], by_heading(run, run.task.names)
    known = ["Known visits"] if "known" in counts else []
    columns = (
        *("Disease", *known, "Positive visits", *shown.values()),
        *(f"AUROC, {name.lower()}" for name in run.views.values()),
        "AUROC of the teacher",
    )
    counted = set() if run.headline.too_small else {run.task.names[j] for j in run.chosen}
    enough = counts["held_out"]["groups"] >= MIN_CELL
    rows = []
    for disease in names:
        row = student["per_label"][disease]
        figures = [Cell(NOTHING)] * (len(columns) - 2 - len(known))
        if disease in counted:
            figures = [_with_interval(row, metric) for metric in shown]
            figures += [_view(student[view], run.metrics[f"labels_in_macro_{view}"], disease) for view in run.views]
            figures.append(figure(teacher["per_label"][disease]["auroc"]))
        told = [_count(row["n"], counts["held_out"]["visits"])] * len(known) + [_positives(row)]
        rows.append([word(disease), *(told if enough else [Cell(NOTHING)] * len(told)), *figures])
    caption = (
        f"The student per disease. {NOTHING}: fewer than {MIN_COUNT} positive or negative visits, or too small a "
        f"sample. †: fewer than {MIN_EVENTS} positive visits, read with care."
    )
    return _of_labels(run, "labels-table", caption, columns, rows)


def by_heading(run: Content, names: Iterable[str]) -> list[str]:
    """Labels under their headings, each where its first label stands; those without one last."""
    names, place = list(names), {"": len(run.task)}
    for j, label in enumerate(run.task.labels):
        place.setdefault(label.group, j)
    return sorted(names, key=lambda name: place[_heading(run, name)])


def _heading(run: Content, name: str) -> str:
    return run.task.labels[run.task.index[name]].group


def _of_labels(run: Content, name: str, caption: str, columns: Sequence[str], rows: list[list[Cell]]) -> Table:
    """A table whose rows are labels, in the order of `by_heading`."""
    headings = [_heading(run, row[0].text) for row in rows]
    say, told = run.words.said, headings if any(headings) else ()
    return Table(name, say(caption), [say(columns[0]), *columns[1:]], rows, sortable=True, headings=told)


def _count(part: int, whole: int) -> Cell:
    return Cell(part_text(part, whole), sort=str(part if not small(part) else MIN_CELL - 1))


def _positives(row: Mapping[str, Any]) -> Cell:
    """Positive visits of those that know the label; 0 is not told from a few."""
    count = row["positives"]
    text = f"<{MIN_CELL}" if count < MIN_CELL else part_text(count, row["n"])
    return Cell(text + (" †" if count < MIN_EVENTS else ""), sort=str(max(count, MIN_CELL - 1)))


def alerts(run: Content) -> Table:
    """The student's alerts at the thresholds from tuning."""
    student = run.metrics["held_out"]["student"]["per_label"]
    per_label, rows = run.metrics["alerts"]["per_label"], []
    for disease in [] if run.headline.too_small else by_heading(run, per_label):
        row = per_label[disease]
        shares = [figure(row[name], digits=2) for name in ("threshold", "sensitivity", "specificity", "ppv")]
        rate = figure(row["alerts_per_100"], digits=1)
        rows.append([word(disease), *shares, rate, _with_interval(student[disease], "f1", 2)])
    columns = (
        *("Disease", "Threshold", "Sensitivity", "Specificity", "Alerts that are right", "Alerts per 100 visits"),
        METRICS["f1"].title,
    )
    caption = "The student's alerts at the thresholds that tuning chose."
    return _of_labels(run, "alerts-table", caption, columns, rows)


def calibration(run: Content) -> Table:
    """Calibration of each model as it is and calibrated on tuning; means over the labels of the macro average."""
    rows = []
    for name, block in run.metrics["calibration"].items():
        for kind in ("raw", "calibrated"):
            if block[kind] is not None:
                macro = block[kind]["macro"]
                cells = [figure(macro[key], digits=2) for key in ("slope", "intercept")]
                cells += [figure(macro[key]) for key in ("in_the_large", "ece", "brier_skill")]
                rows.append([word(f"{model_name(run, name)}, {kind}"), *cells])
    columns = ("Probabilities", "Slope", "Intercept", "Predicted minus observed", "Calibration error", "Brier skill")
    caption = (
        "Calibrated: slope 1, intercept 0, nothing predicted too high or low, error 0. Raw: as the model gives them; "
        "calibrated: with the map that tuning visits chose, which also the alerts use."
    )
    return Table("calibration-table", caption, columns, rows)


def comparisons(run: Content) -> Table:
    """Student minus every other model, paired over the same draws of patients."""
    rows = []
    for name, pair in run.metrics["comparisons"]["student"].items():
        entry, (better, worse) = pair["macro"]["auroc"], decided(pair)
        known, tiny = entry["p"] is not None, entry["p"] is not None and entry["p"] < 0.001
        difference = figure(entry["difference"], entry["interval"], sign=True)
        p = Cell("<0.001", sort="0") if tiny else figure(entry["p"])
        verdict = Cell(f"{better} / {worse}", sort=str(better)) if known else Cell(NOTHING)
        rows.append([word(model_name(run, name)), difference, p, verdict])
    columns = ("Student minus", "Macro AUROC", "p", "Diseases better / worse")
    caption = (
        "Paired differences. The last column counts diseases whose difference holds after Holm's correction (p < .05)."
    )
    say = run.words.said
    return Table("comparisons-table", say(caption), list(map(say, columns)), rows, sortable=True)


def subgroups(run: Content) -> list[Table]:
    """One table per field that has groups."""
    columns = (
        *("Group", "Visits", "Observed per 100", "Predicted per 100", "Predicted minus observed"),
        *("Sensitivity", "Alerts per 100"),
    )
    tables = []
    for field, block in run.metrics["subgroups"]["fields"].items():
        rows = []
        for group in block["groups"]:
            visits = Cell(f"{group['visits']:,}", sort=str(group["visits"]))
            rates = [figure(_times_100(group[name]), digits=1) for name in ("observed", "predicted")]
            bounds = group["intervals"]["predicted_minus_observed"]
            bounds = bounds and [100 * bound for bound in bounds]
            gap = figure(_times_100(group["predicted_minus_observed"]), bounds, 1, sign=True)
            found = figure(group["sensitivity"], group["intervals"]["sensitivity"], 2)
            rows.append([word(group["group"]), visits, *rates, gap, found, figure(group["alerts_per_100"], digits=1)])
        if rows:
            tables.append(Table(f"subgroups-{_slug(field)}", field_title(field), columns, rows))
    return tables


def subgroups_by_label(run: Content) -> list[Table]:
    """Per field a table of disease × group: predicted minus observed per 100 visits, and sensitivity."""
    tables = []
    for field, block in run.metrics["subgroups"]["fields"].items():
        if block["groups"]:
            rows = [
                [word(disease), *(_gap(group["per_label"][disease]) for group in block["groups"])]
                for disease in by_heading(run, run.metrics["subgroups"]["labels"])
            ]
            title = f"{field_title(field)}: predicted minus observed per 100 visits, in brackets the sensitivity"
            columns = ("Disease", *(group["group"] for group in block["groups"]))
            tables.append(replace(_of_labels(run, f"by-label-{_slug(field)}", title, columns, rows), sortable=False))
    return tables


def _slug(field: str) -> str:
    """A field as part of an id in the page, which holds no blank."""
    return re.sub(r"\W+", "-", field)


def field_title(name: str) -> str:
    """A reader's name of a subgroup field."""
    return name.replace("_", " ").capitalize()


def plain(name: str, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of words that does not sort."""
    return Table(name, caption, columns, [[Cell(text, number=False) for text in row] for row in rows])


def _macro(block: Mapping[str, Any] | None, metric: str) -> Cell:
    macro = (block or {}).get("macro")
    return _with_interval(macro, metric) if macro else Cell(NOTHING)


def _with_interval(row: Mapping[str, Any], metric: str, digits: int = 3) -> Cell:
    return figure(row[metric], (row.get("intervals") or {}).get(metric), digits)


def _view(block: Mapping[str, Any], counted: Sequence[Mapping[str, Any]], disease: str) -> Cell:
    known = block["per_label"] and disease in {row["disease"] for row in counted}
    return figure(block["per_label"][disease]["auroc"]) if known else Cell(NOTHING)


def _gap(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell(f"<{MIN_CELL}")
    found = figure(100 * row["predicted_minus_observed"], digits=1, sign=True)
    return Cell(found.text, "" if row["sensitivity"] is None else f"({row['sensitivity']:.2f})", found.sort)


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value
