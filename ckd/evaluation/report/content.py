"""Reads what a report needs: metrics.json, held_out labels and probabilities, events, the cohort's facts and card.

No patient's text is read, and no visit id is shown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ckd.calibration import Calibration
from ckd.errors import ArtifactError
from ckd.evaluation.calibrate import log_odds
from ckd.evaluation.claims import HeadlineFacts, headline_facts
from ckd.evaluation.evaluate import MODELS
from ckd.evaluation.metrics import Floats, macro_auroc
from ckd.evaluation.report.cohortcard import read_card
from ckd.evaluation.scores import Rows, read_split
from ckd.evaluation.thresholds import Ranked, rank
from ckd.evaluation.wording import Wording, wording
from ckd.stage import Step
from ckd.store.artifacts import Fields, FolderArtifact, Stage
from ckd.store.files import exists, join, read_bytes
from ckd.store.jsonfile import read_json
from ckd.visits.cohort import Cohort, cohort_artifact
from ckd.visits.task import Task

METRICS_FILE, EVENTS_FILE = "metrics.json", "events.jsonl"
CALIBRATED = "student, calibrated"
VIEWS = {"new_onset": "New onset", "persistent": "Persistent"}
MOST_SHOWN = 25  # labels of a figure; of more those with most positive visits are drawn, all are in the tables


@dataclass(frozen=True)
class Content:
    """Everything that the report of one run shows."""

    name: str
    metrics: Mapping[str, Any]
    headline: HeadlineFacts
    held_out: Rows
    calibrated: Floats | None  # the student's calibrated probabilities [n, L], where it has a calibration
    facts: Mapping[str, Any]  # of the visits
    card: Mapping[str, Any] | None  # of the cohort that `ckd ingest` made
    events: list[dict[str, Any]]
    extras: Mapping[str, Mapping[str, Any]]  # what head and student recorded; {} where nothing is there
    fingerprints: Mapping[str, Fields]  # stage or folder -> its fields
    config: str
    steps: tuple[Step, ...]  # the stages of parts, in their order

    @property
    def chosen(self) -> list[int]:
        """The labels in the macro average."""
        return [self.task.index[row["disease"]] for row in self.metrics["labels_in_macro"]]

    @property
    def shown(self) -> list[int]:
        """Those of them that figures show."""
        found = {self.task.index[row["disease"]]: row["positives"] for row in self.metrics["labels_in_macro"]}
        return sorted(sorted(found, key=lambda j: -found[j])[:MOST_SHOWN])

    @property
    def task(self) -> Task:
        """What is predicted, with the headings and names of the labels."""
        return self.held_out.task

    @property
    def words(self) -> Wording:
        """The words of the task."""
        return wording(self.metrics)

    @property
    def views(self) -> dict[str, str]:
        """Those of VIEWS that have figures, and both for the usual labels."""
        student = self.metrics["held_out"]["student"]
        return {name: title for name, title in VIEWS.items() if self.words.usual or student[name]["macro"] is not None}

    def known(self, j: int, *columns: Any) -> tuple[Any, ...]:
        """The rows of arrays [n, …] of the visits that know label j."""
        known = self.held_out.known[:, j]
        return tuple(column[known, j] for column in columns)

    @property
    def columns(self) -> dict[str, Floats]:
        """Model -> probabilities of the held_out visits [n, L], for curves."""
        found: dict[str, Floats] = {model: self.held_out.scores[stage] for model, stage in MODELS.items()}
        return found if self.calibrated is None else {**found, CALIBRATED: self.calibrated}

    @cached_property
    def ranked(self) -> dict[int, dict[str, Ranked]]:
        """Label of a figure -> model -> its counts at every threshold."""
        labels = self.held_out.labels
        return {j: {m: rank(*self.known(j, labels, p)) for m, p in self.columns.items()} for j in self.shown}

    @property
    def blocks(self) -> dict[str, Mapping[str, Any]]:
        """Every model's block of metrics.json, the baselines last."""
        held_out = self.metrics["held_out"]
        return {**{name: block for name, block in held_out.items() if name != "baselines"}, **held_out["baselines"]}

    def last_events(self, kind: str, key: str) -> list[dict[str, Any]]:
        """Events of one kind in the order of their `key` (epoch, step).

        A continued run repeats some; the last one counts.
        """
        found = {event[key]: event for event in self.events if event["event"] == kind and key in event}
        return [found[value] for value in sorted(found)]


def gather(
    folder: str,
    root: str,
    *,
    name: str,
    cohort_folder: str,
    config: str,
    steps: Sequence[Step],
    task: Task | None = None,
) -> Content:
    """The run with its results in `folder` and its stages below `root`; `cohort_folder` may hold a card.json.

    `task` is the stored visits' with newer headings. Raises ArtifactError where metrics.json is missing, of another
    version, or of other predictions than the stored.
    """
    metrics, stored = _metrics(folder), Cohort.open(root)
    cohort = replace(stored, task=task or stored.task)
    held_out = read_split(cohort, "held_out", list(MODELS.values()))
    artifacts = {
        "visits": cohort_artifact(root, {}),
        "head": FolderArtifact(join(root, "head"), {}),
        "student": FolderArtifact(join(folder, "student"), {}),
    }
    loaded = {key: artifact.load() or {} for key, artifact in artifacts.items()}
    run = Content(
        name=name,
        metrics=metrics,
        headline=headline_facts(metrics),
        held_out=held_out,
        calibrated=_calibrated(artifacts["student"].folder, held_out),
        facts=cohort.facts,
        card=read_card(cohort_folder),
        events=_events(join(folder, EVENTS_FILE)),
        extras={key: content.get("extra", {}) for key, content in loaded.items()},
        fingerprints={key: one["fields"] for key, one in loaded.items() if one} | _stage_fields(root, steps),
        steps=tuple(steps),
        config=config,
    )
    _require_same(run, join(folder, METRICS_FILE))
    return run


def _calibrated(student: str, held_out: Rows) -> Floats | None:
    calibration = Calibration.of_student(student, held_out.task.names)
    return calibration.probabilities(log_odds(held_out.scores[MODELS["student"]])) if calibration else None


def _metrics(folder: str) -> dict[str, Any]:
    path = join(folder, METRICS_FILE)
    try:
        metrics: dict[str, Any] = read_json(path, "run 'ckd evaluate' again")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run 'ckd evaluate' first") from None
    for key in ("headline", "held_out", "intervals", "comparisons", "calibration", "alerts", "subgroups"):
        if key not in metrics:
            raise ArtifactError(f"{path}: without '{key}', so of an earlier version; run 'ckd evaluate' again")
    return metrics


def _require_same(run: Content, where: str) -> None:
    """Refuse other predictions than those of metrics.json: the curves are drawn from the stored ones."""
    for model, stage in MODELS.items():
        written = run.metrics["held_out"][model]["macro"]["auroc"]
        found = macro_auroc(run.held_out.labels, run.held_out.scores[stage], run.chosen, run.held_out.known)
        same = written is None if found is None else written is not None and abs(written - found) < 1e-9
        if not same or run.metrics["counts"]["held_out"]["visits"] != len(run.held_out):
            raise ArtifactError(f"{where}: is of other {stage} than the stored ones; run 'ckd evaluate' again")


def _events(path: str) -> list[dict[str, Any]]:
    """The events; a line that a kill cut off is left out."""
    found = []
    for line in read_bytes(path).splitlines() if exists(path) else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            found.append(event)
    return found


def _stage_fields(root: str, steps: Sequence[Step]) -> dict[str, Fields]:
    """The fields in the footer of the first part of every stage."""
    found: dict[str, Fields] = {}
    for name in (step.name for step in steps if step.name != "visits"):
        stage = Stage(root, name, {})
        footer = next((stage.footer(index) for index in sorted(stage.indices())), None)
        if footer is not None:
            found[name] = footer.fields
    return found
