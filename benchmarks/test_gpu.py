"""The GPU benchmarks without a GPU, and without time: each says so. What they measure has files of its own."""

import json

import pytest
import torch

from benchmarks.student import training as student_training
from benchmarks.student import versus_teacher as student_vs_teacher
from benchmarks.teacher import speed as teacher

MAINS = {
    "teacher": teacher.main,
    "student_training": student_training.main,
    "student_vs_teacher": student_vs_teacher.main,
}


@pytest.mark.parametrize("name", MAINS)
def test_ways_without_time_leave_their_reason(name, tmp_path):
    out = tmp_path / "gpu.json"
    few = ["--visits", "4"] if name == "student_vs_teacher" else []
    assert MAINS[name](["--gpu", "--device", "cpu", "--tiny", "--limit", "-1", *few, "--out", str(out)]) == 1
    report = json.loads(out.read_text())
    assert report["ways"]
    assert all("--limit" in figures["failed"] for figures in report["ways"].values())
    assert not any(figures["met"] for figures in report["targets"].values())


@pytest.mark.parametrize("name", MAINS)
def test_without_a_gpu_they_say_so_in_one_line(name, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert MAINS[name](["--gpu", "--out", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no CUDA device" in error
    assert not (tmp_path / "x.json").exists()
