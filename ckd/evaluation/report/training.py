"""The training curves: points of the run's events and of the head's record."""

from collections.abc import Sequence
from typing import Any

from ckd.evaluation.report.content import Content
from ckd.evaluation.report.drawing import Figure
from ckd.evaluation.report.svg import OTHER, STUDENT, TEACHER


def _training(run: Content, canvas: Any) -> Any:
    steps, epochs, losses = _steps(run), _epochs(run), _losses(run)
    figure = canvas(figsize=(10, 2.7))
    first, second, third = figure.subplots(1, 3)
    marker = "" if len(steps) > 1 else "o"  # a line of one point cannot be seen
    loss = [e["loss"] for e in steps]
    _line(first, [e["step"] for e in steps], loss, STUDENT, ("step", "student's loss"), marker)
    scored = [e for e in epochs if e["metric"] != "last_epoch"]  # that is no score: nothing chose among the epochs
    metric = str(scored[-1]["metric"]).replace("_", " ") if scored else "score"
    scores = [e["tuning_score"] for e in scored]
    _line(second, [e["epoch"] for e in scored], scores, STUDENT, ("epoch", f"tuning: {metric}"))
    if scored:
        second.axvline(scored[-1]["best_epoch"], color=OTHER, linestyle=":", linewidth=1)
    _line(third, range(1, len(losses) + 1), losses, TEACHER, ("epoch", "teacher head's tuning loss"))
    figure.subplots_adjust(left=0.065, right=0.99, top=0.95, bottom=0.19, wspace=0.3)
    return figure


def _steps(run: Content) -> list[dict[str, Any]]:
    return run.last_events("student_step", "step")


def _epochs(run: Content) -> list[dict[str, Any]]:
    return run.last_events("student_epoch", "epoch")


def _losses(run: Content) -> Sequence[float]:
    return run.extras["head"].get("tuning_loss_by_epoch") or []


def _without_steps(run: Content) -> str | None:
    known = _steps(run) or _epochs(run) or _losses(run)
    return None if known else "events.jsonl and the head's record hold no training step."


def _line(
    axes: Any, x: Sequence[float], y: Sequence[float], colour: str, names: tuple[str, str], marker: str = "o"
) -> None:
    axes.plot(x, y, color=colour, marker=marker, markersize=3)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.locator_params(axis="x", nbins=5, integer=True)
    if not len(x):
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)


FIGURES = (
    Figure(
        "training",
        "Training curves",
        "Left: the student's loss at each step. Middle: its score on tuning visits after each epoch. Right: the "
        "teacher head's loss on tuning.",
        _training,
        _without_steps,
        performance=False,
    ),
)
