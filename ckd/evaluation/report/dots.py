"""Figures of dots with intervals: models, labels, new onset and persistent, teacher against student, subgroups.

Every dot is a number of metrics.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ckd.evaluation.report.content import MOST_SHOWN, Content
from ckd.evaluation.report.drawing import Figure, model_name, short, without_labels
from ckd.evaluation.report.svg import ACCENT, GRID, INK, OTHER, STUDENT, TEACHER
from ckd.evaluation.small_cells import OTHER as POOLED


def _models(run: Content, canvas: Any) -> Any:
    rows = [(name, block["macro"]) for name, block in run.blocks.items()]
    rows = [(name, macro) for name, macro in rows if macro and macro["auroc"] is not None]
    rows.sort(key=lambda row: row[1]["auroc"])
    figure = canvas(figsize=(10, 0.32 * len(rows) + 0.7))
    axes = figure.subplots()
    for place, (name, macro) in enumerate(rows):
        _dot(axes, place, macro["auroc"], _interval(macro), {"student": STUDENT, "teacher": TEACHER}.get(name, OTHER))
        spot = {"xy": (1.01, place), "xycoords": ("axes fraction", "data")}
        axes.annotate(f"{macro['auroc']:.3f}", **spot, va="center", fontsize=8)
    _rows(axes, [model_name(run, name) for name, _ in rows], "macro AUROC")
    figure.subplots_adjust(left=0.2, right=0.94, top=0.98, bottom=0.5 / (0.32 * len(rows) + 0.7))
    return figure


def _labels(run: Content, canvas: Any) -> Any:
    student, teacher = (run.metrics["held_out"][name]["per_label"] for name in ("student", "teacher"))
    names = sorted((run.task.names[j] for j in run.shown), key=lambda name: student[name]["auroc"])
    figure = canvas(figsize=(10, 0.24 * len(names) + 0.9))
    axes = figure.subplots()
    for place, name in enumerate(names):
        _dot(axes, place + 0.12, student[name]["auroc"], _interval(student[name]), STUDENT, "o", "student")
        _dot(axes, place - 0.2, teacher[name]["auroc"], None, TEACHER, "s", "teacher")
    return _finished(figure, axes, names, "AUROC")


def _onset(run: Content, canvas: Any) -> Any:
    student = run.metrics["held_out"]["student"]
    chosen = {view: {row["disease"] for row in run.metrics[f"labels_in_macro_{view}"]} for view in run.views}
    listed = {name: sum(name in of_view for of_view in chosen.values()) for name in run.task.names}
    shown = sorted((name for name in listed if listed[name]), key=lambda name: -student["per_label"][name]["positives"])
    names = [name for name in reversed(run.task.names) if name in shown[:MOST_SHOWN]]
    figure = canvas(figsize=(10, 0.24 * len(names) + 0.9))
    axes = figure.subplots()
    for view, shift, colour, marker in zip(run.views, (0.15, -0.15), (STUDENT, ACCENT), "oD", strict=False):
        for place, name in enumerate(names):
            if name in chosen[view]:
                row = student[view]["per_label"][name]
                _dot(axes, place + shift, row["auroc"], _interval(row), colour, marker, view.replace("_", " "))
    return _finished(figure, axes, names, "AUROC of the student")


def _without_onset(run: Content) -> str | None:
    student = run.metrics["held_out"]["student"]
    known = any(student[view]["per_label"] for view in run.views)
    reason = "the current visit's diseases are unknown, so new onset and persistent cannot be told apart"
    return None if known else reason


def _teacher(run: Content, canvas: Any) -> Any:
    student, teacher = (run.metrics["held_out"][name]["per_label"] for name in ("student", "teacher"))
    points = [(teacher[name]["auroc"], student[name]["auroc"]) for name in (run.task.names[j] for j in run.chosen)]
    low = min(0.95, *(min(point) for point in points)) - 0.03
    figure = canvas(figsize=(5, 4.6))
    axes = figure.subplots()
    axes.plot([low, 1], [low, 1], color=OTHER, linestyle=":", linewidth=1)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=STUDENT, markersize=5)
    axes.set(xlim=(low, 1), ylim=(low, 1), xlabel="AUROC of the teacher", ylabel="AUROC of the student", aspect="equal")
    figure.subplots_adjust(left=0.13, right=0.97, top=0.98, bottom=0.11)
    return figure


def _subgroups(run: Content, canvas: Any) -> Any:
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for field, block in run.metrics["subgroups"]["fields"].items():
        if block["groups"]:
            rows.append((field.replace("_", " ").upper(), None))
            rows += [(_short(group["group"]), group) for group in block["groups"]]
    rows.reverse()
    height = 0.25 * len(rows) + 0.7
    figure = canvas(figsize=(10, height))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (_, group) in enumerate(rows):
        if group and group["predicted_minus_observed"] is not None:
            bounds = group["intervals"]["predicted_minus_observed"]
            gap = 100 * group["predicted_minus_observed"]
            _dot(left, place, gap, bounds and [100 * bound for bound in bounds], STUDENT)
            _dot(right, place, group["sensitivity"], group["intervals"]["sensitivity"], STUDENT)
    left.axvline(0, color=OTHER, linestyle=":", linewidth=1)
    _rows(left, [name for name, _ in rows], "predicted minus observed, per 100")
    right.set(xlabel="sensitivity at the threshold", xlim=(0, 1))
    right.grid(axis="y", visible=False)
    figure.subplots_adjust(left=0.24, right=0.98, top=0.99, bottom=0.5 / height, wspace=0.06)
    return figure


def _without_groups(run: Content) -> str | None:
    fields = run.metrics["subgroups"]["fields"]
    reasons = [f"{name.replace('_', ' ')}: {field['reason']}" for name, field in fields.items() if field["reason"]]
    return f"No subgroup can be shown ({'; '.join(reasons)})." if len(reasons) == len(fields) else None


def _short(name: str) -> str:
    return short("others, pooled" if name == POOLED else name, 30)


def _interval(row: Mapping[str, Any]) -> Sequence[float] | None:
    """The interval of a row's AUROC."""
    found: Sequence[float] | None = (row.get("intervals") or {}).get("auroc")
    return found


def _dot(
    axes: Any,
    y: float,
    x: float | None,
    bounds: Sequence[float] | None,
    colour: str,
    marker: str = "o",
    label: str | None = None,
) -> None:
    if bounds:
        axes.plot(bounds, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    if x is not None:
        axes.plot([x], [y], marker, color=colour, markersize=5, label=label, markeredgewidth=0)


def _rows(axes: Any, names: Sequence[str], x: str) -> None:
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.6, len(names) - 0.4), xlabel=x)
    axes.tick_params(axis="y", labelsize=8, labelcolor=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.4)
    axes.spines["left"].set_visible(False)


def _finished(figure: Any, axes: Any, names: Sequence[str], x: str) -> Any:
    """With a row per name, and a legend of the first dot of each label."""
    height = float(figure.get_figheight())
    _rows(axes, [short(name) for name in names], x)
    first: dict[str, Any] = {}
    for line in axes.get_lines():
        first.setdefault(line.get_label(), line)
    lines = [line for label, line in first.items() if not label.startswith("_")]
    figure.legend(handles=lines, loc="upper right", ncols=2, fontsize=8, bbox_to_anchor=(0.98, 1.0), borderaxespad=0.1)
    figure.subplots_adjust(left=0.31, right=0.98, top=1 - 0.28 / height, bottom=0.45 / height)
    return figure


FIGURES = (
    Figure(
        "models",
        "Macro AUROC of every model",
        "Macro AUROC on the held-out visits: 0.5 is a coin, 1 is perfect. Lines are 95 % intervals over patients; "
        "where two overlap, read their difference under Baselines.",
        _models,
    ),
    Figure(
        "labels",
        "AUROC per disease",
        "Each row is a disease: how well the student (dot, 95 % interval) and the teacher (square) rank who has it at "
        "the next visit.",
        _labels,
        without_labels,
        of_labels=True,
    ),
    Figure(
        "onset",
        "New onset and persistent",
        "The same student, asked separately of visits without the disease now (new onset, the harder question) and of "
        "visits with it (persistent). Diseases with too few such visits have no mark.",
        _onset,
        _without_onset,
        of_labels=True,
    ),
    Figure(
        "teacher",
        "Teacher against student",
        "Each dot is a disease. On the diagonal the student ranks as well as its teacher; below it, it lost something.",
        _teacher,
        without_labels,
    ),
    Figure(
        "subgroups",
        "Calibration and sensitivity by group",
        "Left: predicted minus observed per 100 (visit, disease) pairs; 0 is calibrated, above 0 risks are predicted "
        "too high. Right: share of events found at the thresholds from tuning. Lines are 95 % intervals; groups under "
        "30 patients have none.",
        _subgroups,
        _without_groups,
    ),
)
