"""Figures of one small panel per label: ROC, precision-recall, reliability, decision curves, alerts by sensitivity."""

import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckd.evaluation.report import curves
from ckd.evaluation.report.content import CALIBRATED, Content
from ckd.evaluation.report.drawing import Figure, without_labels
from ckd.evaluation.report.svg import ACCENT, MUTED, OTHER, STUDENT, TEACHER
from ckd.evaluation.thresholds import Ranked

ACROSS = 5
MARKERS = {"student": "o", "teacher": "s", CALIBRATED: "^"}
STYLES: dict[str, dict[str, Any]] = {  # different without colour too
    "student": {"color": STUDENT},
    "teacher": {"color": TEACHER, "linestyle": (0, (4, 1.5))},
    CALIBRATED: {"color": ACCENT, "linestyle": (0, (1.5, 1))},
}
THRESHOLDS = np.linspace(0.01, 0.6, 60)  # beyond it few would act
_TICKS: dict[str, Any] = {"xlim": (0, 1), "xticks": (0, 0.5, 1), "xticklabels": ("0", ".5", "1")}
_SQUARE = {**_TICKS, "ylim": (0, 1), "yticks": (0, 0.5, 1), "yticklabels": ("0", ".5", "1")}


@dataclass(frozen=True)
class _Panels:
    """Draws a panel per label of the macro average, of the most frequent ones where there are many."""

    panel: Callable[[Any, Content, int], None]  # axes, run, label
    x: str  # names of the axes
    y: str
    axes: Mapping[str, Any]

    def __call__(self, run: Content, canvas: Any) -> Any:
        rows = math.ceil(len(run.shown) / ACROSS)
        height, square = 1.75 * rows + 0.9, "ylim" in self.axes
        figure = canvas(figsize=(10, height))
        grid = figure.subplots(rows, ACROSS, sharex=True, sharey=square, squeeze=False, subplot_kw=dict(self.axes))
        for place, spot in enumerate(grid.flat):
            if place >= len(run.shown):
                spot.set_visible(False)
                continue
            j = run.shown[place]
            self.panel(spot, run, j)
            title = "\n".join(textwrap.wrap(run.task.names[j], 28, max_lines=2, placeholder=" …"))
            spot.set_title(title, loc="left", fontsize=7, linespacing=1.15, y=1.0, pad=3)
            if place + ACROSS >= len(run.shown):
                spot.tick_params(labelbottom=True)
        space = {"hspace": 0.42, "wspace": 0.12 if square else 0.32}
        figure.subplots_adjust(left=0.065, right=0.99, top=1 - 0.55 / height, bottom=0.5 / height, **space)
        figure.supxlabel(self.x, fontsize=8, y=0.06 / height)
        figure.supylabel(self.y, fontsize=8, x=0.005)
        lines = [spot for spot in grid.flat[0].get_lines() if not spot.get_label().startswith("_")]
        corner = {"loc": "upper right", "bbox_to_anchor": (0.99, 1.0), "borderaxespad": 0.1}
        figure.legend(handles=lines, ncols=len(lines), fontsize=8, **corner)
        return figure


def _roc(axes: Any, run: Content, j: int) -> None:
    axes.plot([0, 1], [0, 1], color=OTHER, linestyle=":", linewidth=1)
    _lines(axes, run, j, curves.roc)


def _precision(axes: Any, run: Content, j: int) -> None:
    student = run.ranked[j]["student"]
    rate = student.events / student.visits
    axes.plot([0, 1], [rate, rate], color=OTHER, linestyle=":", linewidth=1)
    _lines(axes, run, j, curves.precision_recall)


def _alerts(axes: Any, run: Content, j: int) -> None:
    axes.plot([0, 1], [0, 100], color=OTHER, linestyle=":", linewidth=1)
    _lines(axes, run, j, curves.alerts_for_sensitivity)
    point = run.metrics["alerts"]["per_label"][run.task.names[j]]
    if point["sensitivity"] is not None:
        axes.plot(point["sensitivity"], point["alerts_per_100"], "o", color=STUDENT, markersize=4)


def _lines(axes: Any, run: Content, j: int, curve: Callable[[Ranked], curves.Points]) -> None:
    """A curve per model but the calibrated student, who ranks as the student does."""
    for model, ranked in run.ranked[j].items():
        if model != CALIBRATED:
            axes.plot(*curve(ranked), label=model, **STYLES[model])


def _reliability(axes: Any, run: Content, j: int) -> None:
    axes.plot([0, 1], [0, 1], color=OTHER, linestyle=":", linewidth=1)
    for model, p in run.columns.items():
        points = curves.reliability(*run.known(j, run.held_out.labels, p))
        axes.plot(*points, label=model, marker=MARKERS[model], markersize=2.5, linewidth=1, **STYLES[model])


def _decision(axes: Any, run: Content, j: int) -> None:
    ranks = run.ranked[j]
    everyone = curves.net_benefit_of_all(ranks["student"], THRESHOLDS)
    shown = {model: curves.net_benefit(ranked, THRESHOLDS) for model, ranked in ranks.items()}
    top = max(everyone[0], *(values.max() for values in shown.values()))
    axes.plot(THRESHOLDS, everyone, color=OTHER, linestyle=":", linewidth=1)
    axes.plot([0, 0.6], [0, 0], color=MUTED, linestyle=":", linewidth=1)
    for model, values in shown.items():
        axes.plot(THRESHOLDS, values, label=model, **STYLES[model])
    axes.set_ylim(-0.3 * top, 1.1 * top)
    axes.locator_params(axis="both", nbins=3)


FIGURES = (
    Figure(
        "roc",
        "ROC curves",
        "The closer a curve comes to the upper left corner, the better it ranks patients; the dotted diagonal is a "
        "coin.",
        _Panels(_roc, "false alerts among visits without it", "sensitivity", _SQUARE),
        without_labels,
        of_labels=True,
    ),
    Figure(
        "precision-recall",
        "Precision-recall curves",
        "How many alerts are right (height) when so many of the events are found (width); the dotted line is an alert "
        "for everyone.",
        _Panels(_precision, "sensitivity", "share of alerts that are right", _SQUARE),
        without_labels,
        of_labels=True,
    ),
    Figure(
        "reliability",
        "Reliability",
        "Each point is a tenth of the visits (more where there are few): on the dotted diagonal, what is predicted is "
        "what happens. Below it, risks are predicted too high.",
        _Panels(_reliability, "predicted probability", "observed rate", _SQUARE),
        without_labels,
        of_labels=True,
    ),
    Figure(
        "decision",
        "Decision curves",
        "Net benefit counts right alerts minus false ones, weighed by the probability at which one would act. A model "
        "is of use where its curve is above both dotted lines: alerting everyone (falling) and nobody (zero).",
        _Panels(_decision, "probability at which one would act", "net benefit", {"xlim": (0, 0.6)}),
        without_labels,
        of_labels=True,
    ),
    Figure(
        "alerts",
        "Alerts per 100 visits against sensitivity",
        "What a share of found events costs in alerts. The dot is the threshold chosen on tuning; the dotted line is "
        "alerting at random.",
        _Panels(_alerts, "sensitivity", "alerts per 100 visits", {**_TICKS, "ylim": (0, 100), "yticks": (0, 50, 100)}),
        without_labels,
        of_labels=True,
    ),
)
