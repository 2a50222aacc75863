"""Job: soft labels from the stored embeddings, and the public hands_name_*.json."""

from argparse import Namespace

from ckd.config import Config
from ckd.run import Run
from ckd.section import Workers
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.soft_labels import SOFT_LABELS, public_rows
from ckd.visits.public_files import clean_file, soft_label_file, write_rows, write_soft_labels
from ckd.visits.visit import Split
from jobs.console import Console
from jobs.shards import make_missing


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Label what is missing, then write the public files. Raises ArtifactError when head or embeddings are missing."""
    work(Run(config), console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    EMBEDDINGS.require(run)
    make_missing(run, console, SOFT_LABELS, workers=Workers(min=0, max=0))
    _write_public(run, console)


def _write_public(run: Run, console: Console) -> None:
    config, cohort, task = run.config, run.cohort, run.task
    lost = cohort.facts["quarantined"] or cohort.count(labeled=False) or config.teacher.adapter_share
    names: tuple[tuple[Split, str], ...] = (("train", "train"), ("tuning", "val"))
    for split, name in names:
        path = soft_label_file(config.run.public_folder, name)
        with run.owner.writing(path):
            count = write_soft_labels(path, (row["probabilities"] for row in public_rows(run, split)), task)
        console.say(f"soft-labels: wrote {path}, {count:,} visits")
        clean = clean_file(config.run.public_folder, name)
        run.owner.remove(clean)  # an earlier one does not fit these soft labels
        if lost or not config.data.tuning:
            with run.owner.writing(clean):
                write_rows(clean, public_rows(run, split), task)
            console.say(
                f"soft-labels: {path} is aligned with {clean} (the labelled visits that were kept), "
                "not with the input file"
            )
