"""Job: fit the head and its cross-fitting folds on the stored embeddings."""

from argparse import Namespace
from contextlib import nullcontext

from ckd.config import Config
from ckd.run import Run
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import join, read_bytes, write_bytes
from ckd.store.lease import lease_in_turn
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.head import HEAD, save_heads
from ckd.visits.public_files import HEAD_FILE, head_file, write_head
from jobs.console import Console


def run(config: Config, console: Console, arguments: Namespace | None = None) -> None:
    """Fit the heads unless they are there. Raises ArtifactError when embeddings are missing."""
    work(Run(config), console)


def work(run: Run, console: Console) -> None:
    """As `run`, on a run whose visits may be known already."""
    EMBEDDINGS.require(run, run.cohort.select("train", "tuning"))
    artifact = HEAD.artifact(run)
    with nullcontext() if artifact.is_done() else lease_in_turn(artifact.folder, "ckd train-head", console.say):
        if artifact.is_done():
            console.say("train-head: done")
        else:
            _fit(run, console, artifact)
    report = (artifact.load() or {})["extra"]
    if report["adapter_optimism"] is not None:
        gap = f"{report['adapter_optimism']:+.4f}"
        console.say(
            f"train-head: adapter_optimism {gap} (tuning minus out-of-fold train log-loss: "
            "what the adapter remembers of its labels)"
        )
    path = head_file(run.config.run.public_folder)
    with run.owner.writing(path):
        write_bytes(path, read_bytes(join(artifact.folder, HEAD_FILE)))
    console.say(f"train-head: wrote {path}")


def _fit(run: Run, console: Console, artifact: FolderArtifact) -> None:
    from ckd.teacher.head_fit import train_heads

    heads = train_heads(run.config, run.cohort, EMBEDDINGS.stage(run), console.say)
    write_head(join(artifact.folder, HEAD_FILE), heads.weight[heads.final], heads.bias[heads.final])
    save_heads(artifact, heads, HEAD_FILE)
    console.event("head", **heads.report)
