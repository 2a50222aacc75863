"""The vLLM engine in a Python of its own (its CPU build wants other versions), called like the other ways.

Its process is started once, as `<that python> -m benchmarks.teacher.vllm_child FOLDER MAX_LENGTH`: one JSON list of
prompts per line in, one line of JSON per call out, which says the CPU seconds that it took there.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import ROOT
from ckd.teacher.work import Work

_MARK = "RESULT "  # vLLM may write other lines
_MAX_LENGTH = 1536


def find_vllm(python: Path, causal: Any, folder: Path) -> "tuple[VllmChild | None, str | None]":
    """The way, on the model written to `folder`; or None and why it is not there."""
    import torch

    from benchmarks.teacher.model import make_tokenizer

    if not python.exists():
        return None, "no Python with vLLM here: make test-vllm, or --vllm-python"
    causal.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    child = VllmChild(python, folder, torch.get_num_threads())
    ready = child.answer()
    if ready is None:
        return None, f"vLLM did not start in {python}"
    child.version = ready["version"]
    return child, None


class VllmChild:
    """A `ckd.teacher.engine_vllm.VllmEngine` in another process."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        command = [str(python), "-m", "benchmarks.teacher.vllm_child", str(folder), str(_MAX_LENGTH)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        self.vectors, self.cpu_s, self.work, self.version = folder / "vectors.npy", 0.0, Work(), ""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([list(p) for p in prompts]) + "\n")
        self.process.stdin.flush()
        done = self.answer()
        if done is None:
            raise RuntimeError(f"the vLLM process ended with exit code {self.process.wait()}")
        self.cpu_s, self.work = done["cpu_s"], self.work + Work(**done["work"])
        return np.asarray(np.load(self.vectors))

    def answer(self) -> dict[str, Any] | None:
        """The next answer; None when the process ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        return None

    def take_work(self) -> Work:
        work, self.work = self.work, Work()
        return work

    def close(self) -> None:
        """End the process by closing its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(folder: str, max_length: int) -> None:
    """Answer prompts with their embeddings' file until the input ends."""
    from ckd.config import TeacherConfig
    from ckd.teacher.engine_vllm import VllmEngine

    engine = VllmEngine(TeacherConfig(base_model=folder, engine="vllm", dtype="float32", max_length=max_length), 0)
    import vllm

    print(_MARK + json.dumps({"version": vllm.__version__}), flush=True)
    for line in sys.stdin:
        prompts = json.loads(line)
        started = time.process_time()
        vectors = engine.encode(prompts)
        cpu_s = time.process_time() - started
        np.save(Path(folder) / "vectors.npy", vectors)
        print(_MARK + json.dumps({"cpu_s": cpu_s, "work": asdict(engine.take_work())}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
