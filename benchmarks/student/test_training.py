"""The student's training benchmark: its visits have the measured lengths, and both its halves run at a tiny size."""

import json

import numpy as np
import pytest
import torch

from benchmarks.student.geometry import TINY
from benchmarks.student.loops import BATCH, global_batches, make_config, useful_share
from benchmarks.student.training import main
from benchmarks.student.visits import LONGEST, lengths, make_visits, write_base, write_cohort
from ckd.student.batches import Batches
from ckd.student.examples import SOFT_LABELS, Examples
from ckd.student.tokens import token_fields


@pytest.mark.parametrize("count", [64, 4096])
def test_visits_have_the_measured_lengths(count):
    sizes = lengths(count, np.random.default_rng(0))
    assert np.median(sizes) == pytest.approx(440, rel=0.03)
    assert (sizes == LONGEST).mean() == pytest.approx(0.36, abs=0.02)
    assert sizes.mean() / LONGEST == pytest.approx(0.74, abs=0.01), "what padding everything to 512 leaves useful"


def test_visits_show_the_signs_of_their_causes_and_come_in_random_order():
    made = make_visits(400, 1000, 0)
    sizes = [len(ids) for ids in made.ids]
    assert sizes != sorted(sizes) and max(max(ids) for ids in made.ids) < 1000
    signed = np.array([[(ids == 5 + label).any() for label in range(25)] for ids in made.ids])
    assert made.hard[signed].mean() == pytest.approx(0.8, abs=0.03)
    assert made.hard[~signed].mean() < 0.2


def test_dealing_by_length_leaves_less_padding():
    made = make_visits(512, 1000, 0)
    everything, dealt = useful_share(made, LONGEST)
    assert everything == pytest.approx(0.74, abs=0.01) and dealt > 0.9
    assert useful_share(made, LONGEST, 8, 8)[1] == 1


def test_the_cpu_benchmark_compares_both_loops(tmp_path, capsys):
    threads, out = torch.get_num_threads(), tmp_path / "cpu.json"
    try:
        assert main(["--tiny", "--visits", "16", "--runs", "2", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    for part in ("speed", "smaller"):
        assert all(
            len(report[part][key][name]) == 2
            for key in ("cpu_s_per_step", "cpu_s_whole")
            for name in ("public", "project")
        )
    assert report["command"].startswith("python -m benchmarks.student.training --tiny")
    assert {"device", "versions", "commit", "targets", "load_average", "threads"} <= set(report)
    assert "over the public loop" in capsys.readouterr().out


def test_the_public_loop_sees_the_project_s_global_batches(tmp_path):
    config, made = (
        make_config(tmp_path, write_base(tmp_path / "base", TINY), seed=3, rows=16),
        make_visits(44, TINY.vocabulary, 0, shorter=8),
    )
    shards = write_cohort(config, made).shards
    examples = Examples(config.run.artifacts_root, shards, token_fields(config), hard_weight=0.9, teacher=[SOFT_LABELS])
    batches = Batches(examples, seed=config.seed, batch_size=BATCH, pad_id=0)
    assert len(shards) == 3 and batches.steps == 6
    for epoch in (0, 1):
        wanted = [batches.visit_ids(epoch, step) for step in range(batches.steps)]
        assert [[f"v{n}" for n in batch] for batch in global_batches(config, 44, epoch)] == wanted


def test_the_gpu_benchmark_runs_all_its_ways(tmp_path):
    out = tmp_path / "gpu.json"
    assert main(["--gpu", "--device", "cpu", "--tiny", "--seconds", "0", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert len(report["ways"]) == 8 and len(report["targets"]) == 3
    assert all(
        figures["visits_per_s"] > 0 and figures["speedup_over_public"] > 0 for figures in report["ways"].values()
    )
    assert report["ways"]["project, 512 tokens"]["useful_share"] == 1
