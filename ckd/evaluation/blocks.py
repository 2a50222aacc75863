"""Makes a model's block of metrics.json: figures and intervals on all held_out visits, and inside two views."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import DEFAULT_THRESHOLD, UNCHANGED, Calibration
from ckd.evaluation.bootstrap import Draws, resample, with_intervals
from ckd.evaluation.calibrate import log_odds
from ckd.evaluation.comparisons import Figures
from ckd.evaluation.metrics import macro_labels, score
from ckd.evaluation.scores import Flags, Rows, Scores
from ckd.visits.task import Task

Block = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A model's probabilities on held_out as it gives them [n, L], and its maps and thresholds from tuning."""

    p: Scores
    calibration: Calibration
    tuned: bool = True  # its probabilities on tuning are known

    @classmethod
    def untuned(cls, p: Scores, task: Task) -> "Model":
        """One whose probabilities on tuning are unknown: it stays uncalibrated, with the default thresholds."""
        reasons = dict.fromkeys(task.names, "no tuning probabilities")
        maps, thresholds = (UNCHANGED,) * len(task), np.full(len(task), DEFAULT_THRESHOLD)
        return cls(p, Calibration(maps, thresholds, reasons), tuned=False)

    def calibrated(self) -> NDArray[np.float64]:
        """Calibrated probabilities [n, L]. They only decide the alarms; the figures are those of `p`."""
        return self.calibration.probabilities(log_odds(self.p))

    def alarms(self) -> Flags:
        """Where a calibrated probability reaches its label's threshold [n, L]."""
        return self.calibration.flags(self.calibrated())


@dataclass(frozen=True)
class View:
    """Some cells of the held_out labels, and the labels that have enough visits there for the macro average."""

    cells: Flags  # [n, L], known ones only
    chosen: list[int]


@dataclass(frozen=True)
class Sample:
    """The held_out visits, with all that is the same for every model that is scored on them."""

    rows: Rows
    views: dict[str, View]  # all, new_onset, persistent
    train_prevalence: NDArray[np.float64]  # [L], NaN where no training visit knows the label
    draws: Draws

    def block(self, model: Model) -> tuple[Block, Figures | None]:
        """macro, micro and per_label over all visits, and the same inside new_onset and persistent.

        The second is all visits' figures in every draw (see bootstrap.resample); None where there are no draws.
        """
        labels, alarms, rates = self.rows.labels, model.alarms(), self.train_prevalence
        known, drawn, blocks = self.rows.current_known.any(), {}, {}
        for name, view in self.views.items():
            if name != "all" and not known:
                blocks[name] = nothing("current labels unknown for every held_out visit")
                continue
            if not self.draws.reason:
                drawn[name] = resample(self.draws, labels, model.p, view.cells, alarms, rates, view.chosen)
            found = score(labels, model.p, view.cells, alarms, rates, view.chosen, self.rows.task.names)
            blocks[name] = with_intervals(found, drawn.get(name), view.chosen)
        return {**blocks.pop("all"), **blocks}, drawn.get("all")


def make_views(held_out: Rows) -> dict[str, View]:
    """All known cells; those where the label is absent now (new_onset); those where it is present (persistent).

    Looks at no model.
    """
    known = held_out.known & held_out.current_known
    cells = {
        "all": held_out.known,
        "new_onset": known & ~held_out.current,
        "persistent": known & held_out.current,
    }
    return {name: View(where, macro_labels(held_out.labels, where)) for name, where in cells.items()}


def nothing(reason: str) -> Block:
    """A block without figures, and why."""
    return {"macro": None, "micro": None, "per_label": None, "reason": reason}
