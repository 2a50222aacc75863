"""The figures that compare: models, labels, new onset and persistent, teacher and student, subgroups; and the training curves. Panels per label
are panels' business. Every point is a number of metrics.json or of the run's events."""

from collections.abc import Mapping, Sequence
from typing import Any

from ckd.evaluation.report.content import Run
from ckd.evaluation.report.drawing import Drawing, drawing, model_name
from ckd.evaluation.report.panels import label_panels
from ckd.evaluation.report.svg import ACCENT, GRID, INK, OTHER, STUDENT, TEACHER, style
from ckd.evaluation.small_cells import OTHER as POOLED
from ckd.visits.labels import DISEASES

NO_LABEL = "no label has enough positive and negative held-out visits"
NO_CURRENT = "the current visit's diseases are unknown, so new onset and persistent cannot be told apart"


def draw_all(run: Run) -> dict[str, Drawing]:
    """Every figure by name. Where the sample is too small for a claim about performance, its figures are that reason."""
    small = run.headline.too_small
    reason = f"This figure is left out: {small}." if small else None
    with style() as figure:
        made = [
            drawing(
                figure, "models", "Macro AUROC of every model", MODELS_READING, reason, lambda made: _models(made, run)
            ),
            drawing(
                figure,
                "labels",
                "AUROC per disease",
                LABELS_READING,
                reason or _without_labels(run),
                lambda made: _labels(made, run),
            ),
            drawing(
                figure,
                "onset",
                "New onset and persistent",
                ONSET_READING,
                reason or _without_onset(run),
                lambda made: _onset(made, run),
            ),
            *label_panels(run, figure, reason),
            drawing(
                figure,
                "teacher",
                "Teacher against student",
                TEACHER_READING,
                reason or _without_labels(run),
                lambda made: _teacher(made, run),
            ),
            drawing(
                figure,
                "subgroups",
                "Calibration and sensitivity by group",
                SUBGROUPS_READING,
                reason or _without_groups(run),
                lambda made: _subgroups(made, run),
            ),
            drawing(
                figure,
                "training",
                "Training curves",
                TRAINING_READING,
                _without_steps(run),
                lambda made: _training(made, run),
            ),
        ]
    return {one.name: one for one in made}


MODELS_READING = (
    "Macro AUROC on the held-out visits: 0.5 is a coin, 1 is perfect. Lines are 95 % intervals over patients; where two overlap, read their "
    "difference under Baselines."
)
LABELS_READING = "Each row is a disease: how well the student (dot, 95 % interval) and the teacher (square) rank who has it at the next visit."
ONSET_READING = (
    "The same student, asked separately of visits without the disease now (new onset, the harder question) and of visits with it (persistent). "
    "Diseases with too few such visits have no mark."
)
TEACHER_READING = (
    "Each dot is a disease. On the diagonal the student ranks as well as its teacher; below it, it lost something."
)
SUBGROUPS_READING = (
    "Left: predicted minus observed per 100 (visit, disease) pairs; 0 is calibrated, above 0 risks are predicted too high. Right: share of events "
    "found at the thresholds from tuning. Lines are 95 % intervals; groups under 30 patients have none."
)
TRAINING_READING = "Left: the student's loss at each step. Middle: its score on tuning visits after each epoch. Right: the teacher head's loss on tuning."


def _without_labels(run: Run) -> str | None:
    return None if run.chosen else NO_LABEL


def _without_onset(run: Run) -> str | None:
    views = (run.metrics["held_out"]["student"][view]["per_label"] for view in ("new_onset", "persistent"))
    return None if any(views) else NO_CURRENT


def _without_groups(run: Run) -> str | None:
    found = [
        f"{name.replace('_', ' ')}: {field['reason']}"
        for name, field in run.metrics["subgroups"]["fields"].items()
        if field["reason"]
    ]
    return (
        None
        if len(found) < len(run.metrics["subgroups"]["fields"])
        else f"No subgroup can be shown ({'; '.join(found)})."
    )


def _without_steps(run: Run) -> str | None:
    known = (
        run.last_events("student_step", "step")
        or run.last_events("student_epoch", "epoch")
        or run.extras["head"].get("tuning_loss_by_epoch")
    )
    return None if known else "events.jsonl and the head's record hold no training step."


def _models(figure_class: Any, run: Run) -> Any:
    held_out = run.metrics["held_out"]
    blocks = {name: block for name, block in held_out.items() if name != "baselines"} | held_out["baselines"]
    rows = [
        (name, block["macro"])
        for name, block in blocks.items()
        if block["macro"] and block["macro"]["auroc"] is not None
    ]
    rows.sort(key=lambda row: row[1]["auroc"])
    figure = figure_class(figsize=(10, 0.32 * len(rows) + 0.7))
    axes = figure.subplots()
    for place, (name, macro) in enumerate(rows):
        _dot(
            axes,
            macro["auroc"],
            place,
            (macro.get("intervals") or {}).get("auroc"),
            {"student": STUDENT, "teacher": TEACHER}.get(name, OTHER),
            "o",
        )
        axes.annotate(
            f"{macro['auroc']:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    _rows(axes, [model_name(name) for name, _ in rows], "macro AUROC")
    figure.subplots_adjust(left=0.2, right=0.94, top=0.98, bottom=0.5 / (0.32 * len(rows) + 0.7))
    return figure


def _labels(figure_class: Any, run: Run) -> Any:
    student, teacher = (run.metrics["held_out"][name]["per_label"] for name in ("student", "teacher"))
    names = sorted((DISEASES[j] for j in run.chosen), key=lambda name: student[name]["auroc"])
    figure = figure_class(figsize=(10, 0.24 * len(names) + 0.9))
    axes = figure.subplots()
    for place, name in enumerate(names):
        _dot(
            axes,
            student[name]["auroc"],
            place + 0.12,
            (student[name].get("intervals") or {}).get("auroc"),
            STUDENT,
            "o",
            "student" if not place else None,
        )
        _dot(axes, teacher[name]["auroc"], place - 0.2, None, TEACHER, "s", "teacher" if not place else None)
    return _finished(figure, axes, names, "AUROC")


def _onset(figure_class: Any, run: Run) -> Any:
    student = run.metrics["held_out"]["student"]
    chosen = {
        view: {row["disease"] for row in run.metrics[f"labels_in_macro_{view}"]} for view in ("new_onset", "persistent")
    }
    names = [disease for disease in reversed(DISEASES) if disease in chosen["new_onset"] | chosen["persistent"]]
    figure = figure_class(figsize=(10, 0.24 * len(names) + 0.9))
    axes = figure.subplots()
    for view, shift, colour, marker in (("new_onset", 0.15, STUDENT, "o"), ("persistent", -0.15, ACCENT, "D")):
        first = True
        for place, name in enumerate(names):
            if name in chosen[view]:
                row = student[view]["per_label"][name]
                _dot(
                    axes,
                    row["auroc"],
                    place + shift,
                    (row.get("intervals") or {}).get("auroc"),
                    colour,
                    marker,
                    view.replace("_", " ") if first else None,
                )
                first = False
    return _finished(figure, axes, names, "AUROC of the student")


def _teacher(figure_class: Any, run: Run) -> Any:
    student, teacher = (run.metrics["held_out"][name]["per_label"] for name in ("student", "teacher"))
    points = [(teacher[DISEASES[j]]["auroc"], student[DISEASES[j]]["auroc"]) for j in run.chosen]
    low = min(0.95, *(min(point) for point in points)) - 0.03
    figure = figure_class(figsize=(5, 4.6))
    axes = figure.subplots()
    axes.plot([low, 1], [low, 1], color=OTHER, linestyle=":", linewidth=1)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o", color=STUDENT, markersize=5)
    axes.set(xlim=(low, 1), ylim=(low, 1), xlabel="AUROC of the teacher", ylabel="AUROC of the student", aspect="equal")
    figure.subplots_adjust(left=0.13, right=0.97, top=0.98, bottom=0.11)
    return figure


def _subgroups(figure_class: Any, run: Run) -> Any:
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for field, block in run.metrics["subgroups"]["fields"].items():
        if block["groups"]:
            rows += [
                (field.replace("_", " ").upper(), None),
                *((_short(group["group"]), group) for group in block["groups"]),
            ]
    rows.reverse()
    height = 0.25 * len(rows) + 0.7
    figure = figure_class(figsize=(10, height))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (_, group) in enumerate(rows):
        if group and group["predicted_minus_observed"] is not None:
            bounds = group["intervals"]["predicted_minus_observed"]
            _dot(
                left,
                100 * group["predicted_minus_observed"],
                place,
                bounds and [100 * bound for bound in bounds],
                STUDENT,
                "o",
            )
            _dot(right, group["sensitivity"], place, group["intervals"]["sensitivity"], STUDENT, "o")
    left.axvline(0, color=OTHER, linestyle=":", linewidth=1)
    _rows(left, [name for name, _ in rows], "predicted minus observed, per 100")
    right.set(xlabel="sensitivity at the threshold", xlim=(0, 1))
    right.grid(axis="y", visible=False)
    figure.subplots_adjust(left=0.24, right=0.98, top=0.99, bottom=0.5 / height, wspace=0.06)
    return figure


def _short(name: str) -> str:
    name = "others, pooled" if name == POOLED else name
    return name if len(name) <= 30 else name[:29] + "…"


def _training(figure_class: Any, run: Run) -> Any:
    steps, epochs = run.last_events("student_step", "step"), run.last_events("student_epoch", "epoch")
    losses = run.extras["head"].get("tuning_loss_by_epoch") or []
    figure = figure_class(figsize=(10, 2.7))
    first, second, third = figure.subplots(1, 3)
    marker = "" if len(steps) > 1 else "o"  # a line of one point cannot be seen
    _line(
        first,
        [e["step"] for e in steps],
        [e["loss"] for e in steps],
        STUDENT,
        ("step", "student's loss"),
        marker=marker,
    )
    scored = [e for e in epochs if e["metric"] != "last_epoch"]  # that is no score: nothing chose among the epochs
    metric = str(scored[-1]["metric"]).replace("_", " ") if scored else "score"
    _line(
        second,
        [e["epoch"] for e in scored],
        [e["tuning_score"] for e in scored],
        STUDENT,
        ("epoch", f"tuning: {metric}"),
    )
    if scored:
        second.axvline(scored[-1]["best_epoch"], color=OTHER, linestyle=":", linewidth=1)
    _line(third, range(1, len(losses) + 1), losses, TEACHER, ("epoch", "teacher head's tuning loss"))
    figure.subplots_adjust(left=0.065, right=0.99, top=0.95, bottom=0.19, wspace=0.3)
    return figure


def _line(
    axes: Any, x: Sequence[float], y: Sequence[float], colour: str, names: tuple[str, str], marker: str = "o"
) -> None:
    axes.plot(x, y, color=colour, marker=marker, markersize=3)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.locator_params(axis="x", nbins=5, integer=True)
    if not len(x):
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)


def _dot(
    axes: Any,
    x: float | None,
    y: float,
    bounds: Sequence[float] | None,
    colour: str,
    marker: str,
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
    height = float(figure.get_figheight())
    _rows(axes, names, x)
    figure.legend(loc="upper right", ncols=2, fontsize=8, bbox_to_anchor=(0.98, 1.0), borderaxespad=0.1)
    figure.subplots_adjust(left=0.31, right=0.98, top=1 - 0.28 / height, bottom=0.45 / height)
    return figure
