"""`python -m jobs COMMAND …`: the `ckd` command where it is not installed, such as in a job of a Ray cluster."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]  # the working folder: a cluster.py or torch.py that lies there is not meant

from jobs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
