"""What comes after the teacher's pass, per visit: an epoch of the 25-label head with its folds, and the soft labels.

Both read random embeddings of Qwen2.5-7B's width from parts in a temporary folder, as the commands do. Prints visits
per CPU second. An epoch is half the difference between three epochs and one: what comes before and after is not in it.

    OMP_NUM_THREADS=1 python -m benchmarks.pipeline.head [--visits 8192]
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.pipeline.visits import HIDDEN, make_teacher_base
from benchmarks.report import options, timed
from ckd.configfile import load
from ckd.run import Run
from ckd.store.files import join
from ckd.teacher.embed import EMBEDDINGS, column
from ckd.teacher.head import HEAD, save_heads
from ckd.teacher.head_fit import train_heads
from ckd.teacher.soft_labels import SoftLabelWorker
from ckd.visits import cohort as cohorts
from ckd.visits.labels import NUM_LABELS
from ckd.visits.public_files import HEAD_FILE, write_head
from ckd.visits.visit import Visit


def embedded(root: Path, visits: int) -> Run:
    """A run with a cohort of which everything but its embeddings is empty."""
    base = make_teacher_base(root / "teacher", ["nothing"] * 4)  # only its hash is used
    run, rng = Run(load(None, [f"run.results={root}", f"teacher.base_model={base}"])), np.random.default_rng(0)
    labels = rng.random((visits, NUM_LABELS)) < 0.3
    rows = (
        Visit(f"v{n}", "i", "t", tuple(flags), f"s{n // 3}", "train", line=n) for n, flags in enumerate(labels.tolist())
    )
    facts = {"quarantined": 0, "teacher_saw_held_out": False, "grouped_by": "subject"}
    cohort = cohorts.commit(run.root, rows, fields={}, shard_rows=run.config.data.shard_rows, facts=facts)
    stage = EMBEDDINGS.stage(run)
    for shard in cohort.shards:
        vectors = column(rng.normal(0, 3, (shard.rows, HIDDEN)).astype(np.float32), run.config.teacher)
        part = pa.table({"visit_id": cohort.read(shard, ["visit_id"])["visit_id"], "embedding": vectors})
        stage.write(shard.index, part, rows=shard.rows, input_hash=shard.text_hash)
    return run


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__)
    parser.add_argument("--visits", type=int, default=8192)
    visits = parser.parse_args(argv).visits
    with tempfile.TemporaryDirectory() as root:
        run = embedded(Path(root), visits)
        config, stage, found = run.config, EMBEDDINGS.stage(run), []

        def fit(epochs: int) -> None:
            head = config.head.model_copy(update={"epochs": epochs})
            found.append(train_heads(config.model_copy(update={"head": head}), run.stored, stage, lambda _: None))

        one, three = (timed(lambda n=n: fit(n)).cpu for n in (1, 3))
        artifact, heads = HEAD.artifact(run), found[-1]
        write_head(join(artifact.folder, HEAD_FILE), heads.weight[heads.final], heads.bias[heads.final])
        save_heads(artifact, heads, HEAD_FILE)
        worker = SoftLabelWorker(Run(config, {"soft_labels": {}}))
        labels_s = timed(lambda: [worker(shard) for shard in run.stored.shards]).cpu
    print(f"an epoch of the head       {visits / ((three - one) / 2):10,.0f} visits per CPU second")
    print(f"soft labels                {visits / labels_s:10,.0f} visits per CPU second")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
