"""The student against the teacher: the visits have the measured lengths, and both halves run at a tiny size."""

import json

import numpy as np
import pytest
import torch

from benchmarks.student.geometry import BERT_BASE
from benchmarks.student.texts import make_visits
from benchmarks.student.versus_teacher import main
from benchmarks.student.ways import TINY, make_student, student_flops
from benchmarks.teacher.prompts import PREFIX, described
from ckd.teacher.prefix import shared_prefix


def test_made_up_visits_have_the_measured_lengths_in_both_tokenizers():
    visits = make_visits(200, 1536)
    prompts = visits.prompts()
    figures = described(prompts)
    assert shared_prefix(prompts) == PREFIX
    assert figures["median"] == pytest.approx(656, rel=0.02)
    assert figures["p95"] == pytest.approx(1178, rel=0.03)
    assert figures["share_over_1024"] == pytest.approx(0.085, abs=0.02)
    ids = visits.wordpiece(visits.inputs, verbose=False)["input_ids"]
    lengths = np.array([len(row) for row in ids])
    assert np.median(lengths) == pytest.approx(440, rel=0.02)
    assert (lengths > 512).mean() == pytest.approx(0.36, abs=0.06)
    assert not any(1 in row for row in ids), "a word that the student does not know"


def test_the_flop_formula_counts_the_matrices_of_a_bert():
    model = make_student(TINY)
    matrices = sum(p.numel() for name, p in model.bert.encoder.named_parameters() if p.ndim == 2)
    assert student_flops(TINY, [10, 10]) == 2 * (2 * matrices * 10 + 4 * TINY.layers * TINY.hidden * 100)
    assert student_flops(BERT_BASE, [512]) == pytest.approx(2 * 85e6 * 512, rel=0.13)


@pytest.fixture
def one_thread(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    torch.set_num_threads(threads)


def test_the_cpu_half_compares_every_way_and_says_what_each_model_sees(one_thread, tmp_path):
    out = tmp_path / "cpu.json"
    assert main(["--tiny", "--visits", "6", "--runs", "2", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    ways = report["ways"]
    assert [*ways] == ["student_torch", "student_onnx", "student_onnx_int8", "public", "teacher"]
    assert all(len(figures["cpu_s"]) == 2 and min(figures["cpu_s"]) > 0 for figures in ways.values())
    assert report["clock"] == "cpu_s"
    assert report["best_teacher"] == "teacher"
    assert ways["student_torch"]["speedup_over_public"] == pytest.approx(
        ways["public"]["median_s"] / ways["student_torch"]["median_s"]
    )
    assert (
        ways["public"]["gflop_per_visit"]
        > ways["teacher"]["gflop_per_visit"]
        > ways["student_torch"]["gflop_per_visit"]
        > 0
    )
    assert report["text_seen"]["teacher"] == 1
    assert 0 < report["text_seen"]["student"] <= 1
    differences = report["largest_difference_of_probabilities"]
    assert 1e-4 > differences["student_onnx"] > 0
    assert differences["student_onnx_int8"] > differences["student_onnx"]
    assert differences["teacher"] < 1e-4
    assert "not comparable" in report["paper"]
    assert {
        "command",
        "commit",
        "device",
        "versions",
        "student_shape",
        "teacher_shape",
        "teacher_tokens",
        "student_tokens",
    } <= set(report)


def test_the_gpu_half_runs_to_its_targets(one_thread, tmp_path):
    out = tmp_path / "gpu.json"
    assert main(["--gpu", "--device", "cpu", "--tiny", "--visits", "64", "--runs", "1", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["clock"] == "wall_s"
    assert report["ways"]["public"]["visits"] == 8
    assert report["ways"]["teacher"]["visits"] == report["ways"]["student_bf16"]["visits"] == 64
    assert {name: figures["target"] for name, figures in report["targets"].items()} == {
        "student over teacher": 50,
        "student over public": 500,
    }
    assert all(figures["measured"] > 0 for figures in report["targets"].values())
