"""Job: the whole pipeline, stage after stage. Every stage does only what is missing, so running it again continues."""

import sys

from ckd.config import Config
from jobs import embed, evaluate, soft_labels, train_head, train_student
from jobs.cli import main
from jobs.console import Console

STAGES = (embed, train_head, soft_labels, train_student, evaluate)


def run(config: Config, console: Console) -> None:
    """Visits to metrics."""
    for stage in STAGES:
        stage.run(config, console)


if __name__ == "__main__":
    raise SystemExit(main(["run", *sys.argv[1:]]))
