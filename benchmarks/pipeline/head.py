"""What comes after the teacher's pass, per visit: an epoch of the 25-label head with its folds, and the soft labels, on stored embeddings.

Random embeddings of Qwen2.5-7B's width, read from parts in a temporary folder as `ckd train-head` and `ckd soft-labels` read them. Prints visits per
CPU second (an epoch: the difference between runs of three epochs and of one, so that the passes before and after them are apart).

    OMP_NUM_THREADS=1 python -m benchmarks.pipeline.head [--visits 8192]
"""

import argparse
import tempfile
import time

import numpy as np
import pyarrow as pa

from benchmarks.pipeline.overhead import HIDDEN
from ckd.config import Config
from ckd.configfile import load
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.store.files import join
from ckd.teacher.embed import EMBEDDINGS, column
from ckd.teacher.head import HEAD, save_heads
from ckd.teacher.head_fit import train_heads
from ckd.teacher.soft_labels import SoftLabelWorker
from ckd.teacher.tiny import UNTRAINED, make_teacher
from ckd.visits import cohort as cohorts
from ckd.visits.cohort import Cohort
from ckd.visits.labels import NUM_LABELS
from ckd.visits.public_files import HEAD_FILE, write_head
from ckd.visits.visit import Visit


def embedded(root: str, visits: int) -> tuple[Config, Cohort, Stage]:
    """A cohort of which everything but its embeddings is empty."""
    make_teacher(
        f"{root}/teacher", ["nothing"] * 4, np.zeros((4, NUM_LABELS)), 0, UNTRAINED
    )  # only its hash is asked for
    config = load(None, [f"run.results={root}", f"teacher.base_model={root}/teacher/base"])
    rng = np.random.default_rng(0)
    rows = (
        Visit(
            f"v{n}",
            "i",
            "t",
            tuple((rng.random(NUM_LABELS) < 0.3).tolist()),
            f"s{n // 3}",
            "train",
            None,
            source="train",
            line=n,
        )
        for n in range(visits)
    )
    facts = {"quarantined": 0, "teacher_saw_held_out": False, "grouped_by": "subject"}
    cohort = cohorts.commit(config.run.artifacts_root, rows, fields={}, shard_rows=config.data.shard_rows, facts=facts)
    stage = EMBEDDINGS.stage(Run(config))
    for shard in cohort.shards:
        vectors = column(rng.normal(0, 3, (shard.rows, HIDDEN)).astype(np.float32), config.teacher)
        part = pa.table({"visit_id": cohort.read(shard, ["visit_id"])["visit_id"], "embedding": vectors})
        stage.write(shard.index, part, rows=shard.rows, input_hash=shard.text_hash)
    return config, cohort, stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=8192)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        config, cohort, stage = embedded(root, arguments.visits)
        seconds = {}
        for epochs in (1, 3):
            started = time.process_time()
            heads = train_heads(
                config.model_copy(update={"head": config.head.model_copy(update={"epochs": epochs})}),
                cohort,
                stage,
                lambda _: None,
            )
            seconds[epochs] = time.process_time() - started
        artifact = HEAD.artifact(Run(config, {"embeddings": stage.fields}))
        write_head(join(artifact.folder, HEAD_FILE), heads.weight[heads.final], heads.bias[heads.final])
        save_heads(artifact, heads, HEAD_FILE)
        worker = SoftLabelWorker(Run(config, {"soft_labels": {}}))
        started = time.process_time()
        for shard in cohort.shards:
            worker(shard)
        labels_s = time.process_time() - started
    print(
        f"an epoch of the head       {arguments.visits / ((seconds[3] - seconds[1]) / 2):10,.0f} visits per CPU second"
    )
    print(f"soft labels                {arguments.visits / labels_s:10,.0f} visits per CPU second")


if __name__ == "__main__":
    main()
