"""Job: fit the 25-label head and its cross-fitting folds on the stored embeddings."""

import sys

from ckd.config import Config
from ckd.store.artifacts import FolderArtifact, Stage
from ckd.store.files import join, read_bytes, write_bytes
from ckd.teacher.embed import embedding_stage
from ckd.teacher.head import head_artifact, head_fields, save_heads
from ckd.visits.cohort import Cohort
from ckd.visits.public_files import HEAD_FILE, head_file, write_head
from jobs.cli import main
from jobs.console import Console
from jobs.shards import require_parts
from jobs.stages import open_cohort


def run(config: Config, console: Console) -> None:
    """Fit the heads unless they are there. Raises ArtifactError when embeddings are missing."""
    cohort = open_cohort(config)
    stage = embedding_stage(config)
    require_parts(stage, cohort.select("train", "tuning"), "ckd embed")
    artifact = head_artifact(config, head_fields(config, cohort, stage.fields))
    if artifact.is_done():
        console.say("train-head: done")
    else:
        _fit(config, console, cohort, stage, artifact)
    report = (artifact.load() or {})["extra"]
    if report["adapter_optimism"] is not None:
        gap = f"{report['adapter_optimism']:+.4f}"
        console.say(
            f"train-head: adapter_optimism {gap} (tuning minus out-of-fold train log-loss: what the adapter remembers of its labels)"
        )
    path = head_file(config.run.public_files)
    write_bytes(path, read_bytes(join(artifact.folder, HEAD_FILE)))
    console.say(f"train-head: wrote {path}")


def _fit(config: Config, console: Console, cohort: Cohort, stage: Stage, artifact: FolderArtifact) -> None:
    from ckd.teacher.head_fit import train_heads

    heads = train_heads(config, cohort, stage, console.say)
    write_head(join(artifact.folder, HEAD_FILE), heads.weight[heads.final], heads.bias[heads.final])
    save_heads(artifact, heads, HEAD_FILE)
    console.event("head", **heads.report)


if __name__ == "__main__":
    raise SystemExit(main(["train-head", *sys.argv[1:]]))
