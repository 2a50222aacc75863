"""Whether people without this project can use an exported folder: two fresh environments from the package index, one with only torch and
transformers, one with only onnxruntime, tokenizers and numpy, each asked for the probabilities of the same texts as ckd here.

    python -m benchmarks.serving.clean_environments DIR [--environments FOLDER] [--out FILE.json]

`--environments` keeps the environments (`torch/` and `onnx/` below it) and takes those that are there.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.predict import text
from benchmarks.teacher.speed import ROOT, header
from ckd.predict.scorer import Scorer

PACKAGES = {
    "torch": ("transformers", ["torch==2.13.0", "transformers"]),
    "onnx": ("onnx", ["onnxruntime", "tokenizers", "numpy"]),
}
TEXTS = 40
TOLERANCE = 1e-4


def environment(folder: Path, packages: list[str]) -> Path:
    """The Python of an environment with these packages, made unless it is there. Isolated (-I): nothing of this project gets in by PYTHONPATH."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-I", "-m", "pip", "install", "-q", *packages], check=True)
    return python


def installed(python: Path) -> list[str]:
    """Every package in an environment, name==version."""
    done = subprocess.run(
        [str(python), "-I", "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def main(argv: list[str]) -> int:
    """1 when a probability differs by more than TOLERANCE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what ckd export model --onnx made")
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    rng = random.Random(2)
    texts = [" ".join(text(rng) for _ in range(rng.randint(1, 4))) for _ in range(TEXTS)]
    scorer = Scorer.load(options.folder)
    if scorer.model.long_text != "head":
        parser.error(
            f"{options.folder}: trained with student.long_text={scorer.model.long_text}, which only ckd reads; give a student of head"
        )
    expected = scorer(texts).probabilities
    report: dict[str, Any] = header("cpu", argv, None, "clean_environments") | {
        "largest_difference": {},
        "installed": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "texts.json").write_text(json.dumps(texts))
        for name, (way, packages) in PACKAGES.items():
            python = environment((options.environments or Path(scratch)) / name, packages)
            report["installed"][name] = installed(python)
            command = [
                python,
                "-I",
                ROOT / "tests/predict/load_exported.py",
                way,
                options.folder,
                f"{scratch}/texts.json",
                f"{scratch}/found.json",
            ]
            subprocess.run([str(word) for word in command], cwd=scratch, check=True)
            for kind, found in json.loads((Path(scratch) / "found.json").read_text()).items():
                report["largest_difference"][f"{name}: {kind}"] = float(np.abs(np.array(found) - expected).max())
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(difference <= TOLERANCE for difference in report["largest_difference"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
