"""`ckd` with the chaos benchmark's slow worker and rank: `python -m benchmarks.cluster run key=value…`."""

import sys
from dataclasses import replace

from benchmarks.cluster.work import SlowEmbedWorker, slow_rank
from jobs import embed, train_student
from jobs.cli import main

if __name__ == "__main__":
    embed.EMBEDDINGS = replace(embed.EMBEDDINGS, worker=SlowEmbedWorker)
    train_student.rank_main = slow_rank
    raise SystemExit(main(sys.argv[1:]))
