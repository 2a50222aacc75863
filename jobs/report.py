"""Job: results/<run>/report.html from the run's artifacts."""

import sys

from ckd.config import Config
from ckd.configfile import dump
from ckd.store.files import join, write_bytes
from jobs.cli import main
from jobs.console import Console
from jobs.shards import require_parts
from jobs.stages import open_cohort

REPORT_FILE = "report.html"


def run(config: Config, console: Console) -> None:
    """Write the report. Raises ArtifactError when predictions or metrics.json are missing, or belong to another configuration."""
    from ckd.evaluation.report.content import gather
    from ckd.evaluation.report.page import render
    from ckd.predict.predictions import prediction_stage
    from ckd.teacher.soft_labels import soft_label_stage

    shards = open_cohort(config).select("held_out")
    require_parts(soft_label_stage(config), shards, "ckd soft-labels")
    require_parts(prediction_stage(config), shards, "ckd evaluate")
    found = gather(
        config.run.folder,
        config.run.artifacts_root,
        name=config.run.name,
        cohort_folder=config.data.train,
        config=dump(config),
    )
    path = join(config.run.folder, REPORT_FILE)
    write_bytes(path, render(found).encode())
    console.event("report", path=path)
    console.say(f"report: wrote {path}")


if __name__ == "__main__":
    raise SystemExit(main(["report", *sys.argv[1:]]))
