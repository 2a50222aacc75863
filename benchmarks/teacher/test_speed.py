"""The teacher benchmark: its prompts have the measured lengths, and both its halves run to the end at a tiny size."""

import json

import pytest
import torch

from benchmarks.teacher.prompts import PREFIX, described, make_prompts
from benchmarks.teacher.speed import main
from ckd.teacher.prefix import shared_prefix


@pytest.mark.parametrize("count", [32, 512])
def test_prompts_have_the_measured_quantiles(count):
    figures = described(make_prompts(count, 152_064))
    assert figures["median"] == pytest.approx(656, rel=0.02)
    assert figures["p95"] == pytest.approx(1178, rel=0.03)
    assert figures["max"] == pytest.approx(1421, rel=0.06)
    assert figures["max"] <= 1421
    assert figures["min"] > PREFIX
    assert figures["mean"] == pytest.approx(PREFIX / 0.30, rel=0.02)
    assert figures["share_over_1024"] == pytest.approx(0.085, abs=0.02)


def test_prompts_share_the_measured_prefix_and_come_in_random_order():
    prompts = make_prompts(64, 152_064)
    assert shared_prefix(prompts) == PREFIX
    lengths = [len(p) for p in prompts]
    assert lengths != sorted(lengths)
    assert make_prompts(64, 152_064) == prompts
    assert make_prompts(64, 152_064, seed=1) != prompts


def test_the_cpu_benchmark_compares_all_ways_and_says_why_vllm_is_missing(tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "cpu.json"
    try:
        given = ["--tiny", "--prompts", "4", "--runs", "2", "--out", str(out), "--vllm-python", str(tmp_path / "none")]
        assert main(given) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    ways = report["ways"]
    assert ways["vllm"] is None
    assert "make test-vllm" in report["vllm_missing"]
    assert set(ways) >= {"public", "one_by_one", "batches", "default"}
    assert all(len(ways[name]["cpu_s"]) == 2 for name in ways if name != "vllm")
    assert max(report["largest_difference_to_one_by_one"].values()) <= 1e-4
    tokens = report["prompts"]["mean"] * 4
    assert ways["public"]["computed"] == ways["one_by_one"]["computed"] == tokens
    assert ways["public"]["tflops"] > ways["one_by_one"]["tflops"]
    assert ways["default"]["computed"] == tokens - ways["default"]["prefix_saved"] + ways["default"]["padding"]
    assert report["command"].startswith("python -m benchmarks.teacher.speed --tiny")
    assert {"device", "versions", "commit", "targets", "matrix_rate_gflops"} <= set(report)
    assert "over one by one" in capsys.readouterr().out


def test_the_gpu_benchmark_runs_all_its_ways(tmp_path):
    out = tmp_path / "gpu.json"
    assert main(["--gpu", "--device", "cpu", "--tiny", "--seconds", "0", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    ways = report["ways"]
    assert [*ways][:4] == ["one_by_one", "public", "batches", "default"]
    assert {"default_compiled", "default_merged", "default_merged_compiled"} <= set(ways)
    assert all(figures["agrees"] and figures["speedup_over_public"] > 0 for figures in ways.values())
    assert ways["default"]["prefix_share"] > 0
    merge = report["merge"]
    assert merge["error_of_merging"] < merge["effect_of_the_adapter"]
    assert len(report["targets"]) == 4
