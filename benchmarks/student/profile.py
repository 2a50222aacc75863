"""Where both loops of benchmarks.student.training spend their time at its smaller geometry: one run of each under cProfile, as shares of its time.

    python -m benchmarks.student.profile     # half a CPU minute; writes no file

Shares are of wall time, the parts overlap (training_step holds forward and backward), and profiling itself makes Python code dearer than it is.
"""

import argparse
import cProfile
import pstats
import tempfile
from pathlib import Path

import torch

from benchmarks.student.training import SMALLER_SETTINGS, Compared
from benchmarks.student.visits import LONGEST, SMALLER, make_visits

# What is asked for: the end of its file's path, and its name.
PARTS = {
    "forward pass of the model": ("bert/modeling_bert.py", "forward"),
    "backward pass": ("torch/_tensor.py", "backward"),
    "AdamW": ("torch/optim/adam.py", "step"),
    "training_step": ("transformers/trainer.py", "training_step"),
    "model.train()": ("transformers/modeling_utils.py", "train"),
    "counting floating-point operations": ("transformers/trainer.py", "floating_point_ops"),
    "checkpoints": ("ckd/student/trainer.py", "_save_checkpoint"),
    "clipping": ("transformers/trainer.py", "_clip_grad_norm"),
    "data loader": ("torch/utils/data/dataloader.py", "__next__"),
    "the project's loss": ("ckd/student/learning.py", "losses"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=256)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compared = Compared(
            Path(folder), SMALLER, make_visits(arguments.visits, SMALLER.vocabulary, 1), LONGEST, SMALLER_SETTINGS
        )
        compared.pair(0)  # what is imported and done once
        for name, loop in compared.loops.items():
            profile = cProfile.Profile()
            profile.runcall(loop, 1)
            print(
                f"{name}:", {part: round(share, 3) for part, share in shares(pstats.Stats(profile)).items()}, flush=True
            )
    return 0


def shares(stats: pstats.Stats) -> dict[str, float]:
    """The share of all time spent in each of PARTS and what it calls; of several functions of a name the one that took longest."""
    entries, total = stats.stats, stats.total_tt  # type: ignore[attr-defined]  # typeshed knows neither
    found = {}
    for part, (file, name) in PARTS.items():
        times = [entry[3] for (path, _, function), entry in entries.items() if path.endswith(file) and function == name]
        if times:
            found[part] = max(times) / total
    return found


if __name__ == "__main__":
    raise SystemExit(main())
