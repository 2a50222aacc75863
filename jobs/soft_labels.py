"""Job: soft labels from the stored embeddings, and the public hands_name_*.json."""

import sys

from ckd.config import Config, Workers
from ckd.store.artifacts import Stage
from ckd.store.files import delete
from ckd.teacher.embed import embedding_stage, shards_to_embed
from ckd.teacher.soft_labels import SoftLabelWorker, public_rows, soft_label_stage
from ckd.visits.cohort import Cohort
from ckd.visits.public_files import clean_file, soft_label_file, write_rows, write_soft_labels
from ckd.visits.visit import Split
from jobs.cli import main
from jobs.console import Console
from jobs.shards import map_worker, require_parts
from jobs.stages import open_cohort


def run(config: Config, console: Console) -> None:
    """Label what is missing, then write the public files. Raises ArtifactError when head or embeddings are missing."""
    cohort = open_cohort(config)
    shards = shards_to_embed(config, cohort)
    require_parts(embedding_stage(config), shards, "ckd embed")
    stage = soft_label_stage(config)
    missing = [s for s in shards if not stage.is_done(s.index, rows=s.rows, input_hash=s.text_hash)]
    console.say(f"soft-labels: {len(shards) - len(missing)} of {len(shards)} shards done, {len(missing)} to do")
    map_worker(
        console,
        "soft-labels",
        SoftLabelWorker,
        {"config": config, "fields": stage.fields},
        missing,
        workers=Workers(min=0, max=0),
    )
    _write_public(config, console, cohort, stage)


def _write_public(config: Config, console: Console, cohort: Cohort, stage: Stage) -> None:
    lost = cohort.facts["quarantined"] or cohort.count(labeled=False) or config.teacher.adapter_share
    names: tuple[tuple[Split, str], ...] = (("train", "train"), ("tuning", "val"))
    for split, name in names:
        path = soft_label_file(config.run.public_files, name)
        count = write_soft_labels(path, (row["probabilities"] for row in public_rows(config, cohort, stage, split)))
        console.say(f"soft-labels: wrote {path}, {count:,} visits")
        clean = clean_file(config.run.public_files, name)
        delete(clean)  # an earlier run's would stand beside soft labels that it does not belong to
        if lost or not config.data.tuning:
            write_rows(clean, public_rows(config, cohort, stage, split))
            console.say(
                f"soft-labels: {path} is aligned with {clean} (the labelled visits that were kept), not with the input file"
            )


if __name__ == "__main__":
    raise SystemExit(main(["soft-labels", *sys.argv[1:]]))
