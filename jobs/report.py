"""Job: results/<run>/report.html from the run's artifacts."""

from argparse import Namespace

from ckd.config import Config
from ckd.configfile import dump
from ckd.predict.predictions import PREDICTIONS
from ckd.run import Run
from ckd.store.files import sweep_temporary, write_bytes
from ckd.teacher.soft_labels import SOFT_LABELS
from jobs.console import Console
from jobs.stages import STEPS


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Write the report. Raises ArtifactError when predictions or metrics.json are missing or of other settings."""
    sweep_temporary(config.run.folder, "*")  # what a killed one left
    work(Run(config), console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    from ckd.evaluation.report.content import gather
    from ckd.evaluation.report.page import render

    config, shards = run.config, run.cohort.select("held_out")
    SOFT_LABELS.require(run, shards)
    PREDICTIONS.require(run, shards)
    names = {"name": config.run.title, "cohort_folder": config.data.train, "config": dump(config)}
    found = gather(run.folder, run.root, steps=STEPS, task=run.task, **names)
    write_bytes(run.report_file, render(found).encode())
    console.event("report", path=run.report_file)
    console.say(f"report: wrote {run.report_file}")
