"""train-student whose steps take 50 ms at least, until a file `hurry` lies in run.results.

Else a tiny student would be done before a machine goes.
"""

import sys
import time
from pathlib import Path

from jobs import train_student
from jobs.cli import main

SECONDS_PER_STEP = 0.05
rank_main = train_student.rank_main


def slow_rank(payload, **ranks):
    from ckd.student.trainer import StudentTrainer

    hurry, quick_step = Path(payload["run"].config.run.results) / "hurry", StudentTrainer.training_step

    def training_step(*arguments, **more):
        if not hurry.exists():
            time.sleep(SECONDS_PER_STEP)
        return quick_step(*arguments, **more)

    StudentTrainer.training_step = training_step
    return rank_main(payload, **ranks)


if __name__ == "__main__":
    train_student.rank_main = slow_rank
    raise SystemExit(main(["train-student", *sys.argv[1:]]))
