"""The figures with one small panel per label: ROC, precision-recall, reliability, decision curves, alerts against sensitivity."""

import math
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from ckd.evaluation.report import curves
from ckd.evaluation.report.content import CALIBRATED, Run
from ckd.evaluation.report.drawing import Drawing, drawing
from ckd.evaluation.report.svg import ACCENT, MUTED, OTHER, STUDENT, TEACHER
from ckd.visits.labels import DISEASES

ACROSS = 5
MARKERS = {"student": "o", "teacher": "s", CALIBRATED: "^"}
STYLES: dict[str, dict[str, Any]] = {
    "student": {"color": STUDENT},
    "teacher": {"color": TEACHER, "linestyle": (0, (4, 1.5))},
    CALIBRATED: {"color": ACCENT, "linestyle": (0, (1.5, 1))},
}  # told apart without colour too
THRESHOLDS = np.linspace(0.01, 0.6, 60)  # beyond it few would act
Panel = Callable[[Any, str, dict[str, curves.Ranked]], None]  # axes, disease, ranked by model


def label_panels(run: Run, figure: Any, reason: str | None) -> list[Drawing]:
    """The five figures, or `reason` in their place."""
    ranked = {
        j: {m: curves.rank(run.held_out.labels[:, j], p[:, j]) for m, p in run.columns.items()} for j in run.chosen
    }
    few = reason or (None if run.chosen else "no label has enough positive and negative held-out visits")
    square = {
        "xlim": (0, 1),
        "ylim": (0, 1),
        "xticks": (0, 0.5, 1),
        "yticks": (0, 0.5, 1),
        "xticklabels": ("0", ".5", "1"),
        "yticklabels": ("0", ".5", "1"),
    }

    def panels(name: str, title: str, reading: str, panel: Panel, x: str, y: str, **axes: Any) -> Drawing:
        return drawing(
            figure, name, title, reading, few, lambda made: _grid(made, run.chosen, ranked, panel, (x, y), axes)
        )

    def at_threshold(axes: Any, disease: str, ranks: dict[str, curves.Ranked]) -> None:
        _alerts(axes, ranks)
        point = run.metrics["alerts"]["per_label"][disease]
        if point["sensitivity"] is not None:
            axes.plot(point["sensitivity"], point["alerts_per_100"], "o", color=STUDENT, markersize=4)

    def calibrated(axes: Any, disease: str, _: dict[str, curves.Ranked]) -> None:
        j = DISEASES.index(disease)
        _reliability(axes, {m: (run.held_out.labels[:, j], p[:, j]) for m, p in run.columns.items()})

    return [
        panels("roc", "ROC curves", ROC_READING, _roc, "false alerts among visits without it", "sensitivity", **square),
        panels(
            "precision-recall",
            "Precision-recall curves",
            PR_READING,
            _precision,
            "sensitivity",
            "share of alerts that are right",
            **square,
        ),
        panels(
            "reliability",
            "Reliability",
            RELIABILITY_READING,
            calibrated,
            "predicted probability",
            "observed rate",
            **square,
        ),
        panels(
            "decision",
            "Decision curves",
            DECISION_READING,
            _decision,
            "probability at which one would act",
            "net benefit",
            xlim=(0, 0.6),
        ),
        panels(
            "alerts",
            "Alerts per 100 visits against sensitivity",
            ALERTS_READING,
            at_threshold,
            "sensitivity",
            "alerts per 100 visits",
            xlim=(0, 1),
            ylim=(0, 100),
            xticks=(0, 0.5, 1),
            xticklabels=("0", ".5", "1"),
            yticks=(0, 50, 100),
        ),
    ]


ROC_READING = (
    "The closer a curve comes to the upper left corner, the better it ranks patients; the dotted diagonal is a coin."
)
PR_READING = "How many alerts are right (height) when so many of the events are found (width); the dotted line is an alert for everyone."
RELIABILITY_READING = (
    "Each point is a tenth of the visits (more where there are few): on the dotted diagonal, what is predicted is what happens. Below it, risks are "
    "predicted too high."
)
DECISION_READING = (
    "Net benefit counts right alerts minus false ones, weighed by the probability at which one would act. A model is of use where its curve is above "
    "both dotted lines: alerting everyone (falling) and nobody (zero)."
)
ALERTS_READING = "What a share of found events costs in alerts. The dot is the threshold chosen on tuning; the dotted line is alerting at random."


def _grid(
    figure_class: Any,
    chosen: list[int],
    ranked: dict[int, dict[str, curves.Ranked]],
    panel: Panel,
    names: tuple[str, str],
    axes: Any,
) -> Any:
    rows = math.ceil(len(chosen) / ACROSS)
    height = 1.75 * rows + 0.9
    figure = figure_class(figsize=(10, height))
    grid = figure.subplots(rows, ACROSS, sharex=True, sharey="ylim" in axes, squeeze=False, subplot_kw=axes)
    for place, spot in enumerate(grid.flat):
        if place >= len(chosen):
            spot.set_visible(False)
            continue
        disease = DISEASES[chosen[place]]
        panel(spot, disease, ranked[chosen[place]])
        spot.set_title("\n".join(textwrap.wrap(disease, 28)), loc="left", fontsize=7, linespacing=1.15, y=1.0, pad=3)
        if place + ACROSS >= len(chosen):
            spot.tick_params(labelbottom=True)
    figure.subplots_adjust(
        left=0.065,
        right=0.99,
        top=1 - 0.55 / height,
        bottom=0.5 / height,
        hspace=0.42,
        wspace=0.12 if "ylim" in axes else 0.32,
    )
    figure.supxlabel(names[0], fontsize=8, y=0.06 / height)
    figure.supylabel(names[1], fontsize=8, x=0.005)
    lines = [spot for spot in grid.flat[0].get_lines() if not spot.get_label().startswith("_")]
    figure.legend(
        handles=lines, loc="upper right", ncols=len(lines), fontsize=8, borderaxespad=0.1, bbox_to_anchor=(0.99, 1.0)
    )
    return figure


def _uncalibrated(ranks: dict[str, curves.Ranked]) -> dict[str, curves.Ranked]:
    """Without the calibrated student, who ranks as the student does."""
    return {model: ranked for model, ranked in ranks.items() if model != CALIBRATED}


def _roc(axes: Any, disease: str, ranks: dict[str, curves.Ranked]) -> None:
    axes.plot([0, 1], [0, 1], color=OTHER, linestyle=":", linewidth=1)
    for model, ranked in _uncalibrated(ranks).items():
        axes.plot(*curves.roc(ranked), label=model, **STYLES[model])


def _precision(axes: Any, disease: str, ranks: dict[str, curves.Ranked]) -> None:
    rate = ranks["student"].events / ranks["student"].visits
    axes.plot([0, 1], [rate, rate], color=OTHER, linestyle=":", linewidth=1)
    for model, ranked in _uncalibrated(ranks).items():
        axes.plot(*curves.precision_recall(ranked), label=model, **STYLES[model])


def _reliability(axes: Any, columns: dict[str, tuple[Any, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=OTHER, linestyle=":", linewidth=1)
    for model, (y, p) in columns.items():
        axes.plot(
            *curves.reliability(y, p), label=model, marker=MARKERS[model], markersize=2.5, linewidth=1, **STYLES[model]
        )


def _decision(axes: Any, disease: str, ranks: dict[str, curves.Ranked]) -> None:
    everyone = curves.net_benefit_of_all(ranks["student"], THRESHOLDS)
    shown = {model: curves.net_benefit(ranked, THRESHOLDS) for model, ranked in ranks.items()}
    top = max(everyone[0], *(values.max() for values in shown.values()))
    axes.plot(THRESHOLDS, everyone, color=OTHER, linestyle=":", linewidth=1)
    axes.plot([0, 0.6], [0, 0], color=MUTED, linestyle=":", linewidth=1)
    for model, values in shown.items():
        axes.plot(THRESHOLDS, values, label=model, **STYLES[model])
    axes.set_ylim(-0.3 * top, 1.1 * top)
    axes.locator_params(axis="both", nbins=3)


def _alerts(axes: Any, ranks: dict[str, curves.Ranked]) -> None:
    axes.plot([0, 1], [0, 100], color=OTHER, linestyle=":", linewidth=1)
    for model, ranked in _uncalibrated(ranks).items():
        axes.plot(*curves.alerts_for_sensitivity(ranked), label=model, **STYLES[model])
