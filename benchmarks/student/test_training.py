"""The student's training benchmark: its visits have the measured lengths, and both its halves run to the end at a tiny size."""

import json

import numpy as np
import pytest
import torch

from benchmarks.student import mapped_examples
from benchmarks.student.learning import LEARNED, WORSE, constant_loss, verdict
from benchmarks.student.loops import BATCH, global_batches
from benchmarks.student.training import main, make_config, useful_share
from benchmarks.student.visits import LONGEST, TINY, lengths, make_visits, write_base, write_cohort
from ckd.student.batches import Batches
from ckd.student.examples import Examples
from ckd.student.fingerprint import token_fields


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
    examples = Examples(config.run.artifacts_root, shards, token_fields(config), hard_weight=0.9, soft=True)
    batches = Batches(examples, seed=config.seed, batch_size=BATCH, pad_id=0)
    assert len(shards) == 3 and batches.steps == 6
    for epoch in (0, 1):
        wanted = [batches.visit_ids(epoch, step) for step in range(batches.steps)]
        assert [[f"v{n}" for n in batch] for batch in global_batches(config, 44, epoch)] == wanted


def test_the_constant_prediction_is_the_training_frequencies():
    train, tuning = make_visits(300, 200, 0, shorter=8), make_visits(100, 200, 1, shorter=8)
    p = train.hard.mean(0)
    assert constant_loss(train, tuning) == pytest.approx(
        np.mean([-np.log(np.where(flags, p, 1 - p)).mean() for flags in tuning.hard])
    )
    assert constant_loss(train, tuning) == pytest.approx(0.588, abs=0.02), "the entropy of .25 · .8 + .75 · .1"


def test_too_few_visits_teach_nothing_and_both_loops_end_alike(tmp_path):
    threads, out = torch.get_num_threads(), tmp_path / "learning.json"
    try:
        assert main(["--learning", "--tiny", "--runs", "1", "--out", str(out)]) == 1
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())["learning"]
    assert found["learned"] is False and found["no_worse"] is None
    # The same visits, batches, first weights and steps: what differs are clipping, and which weights decay.
    assert found["project_minus_public"]["each"] == [pytest.approx(0, abs=0.01)]


def test_without_learning_there_is_no_verdict():
    found = [{"public": 0.45, "project": 0.44}, {"public": 0.45, "project": 0.55 - LEARNED / 2}]
    report = verdict(found, 0.55)
    assert report["learned"] is False and report["no_worse"] is None


def test_the_worst_seed_decides_and_may_lose_a_share_of_the_gain():
    constant, public = 0.6, 0.4
    good, bad = (public + WORSE * (constant - public) * factor for factor in (0.9, 1.1))
    kept = verdict([{"public": public, "project": good}, {"public": public, "project": 0.3}], constant)
    lost = verdict([{"public": public, "project": bad}, {"public": public, "project": 0.3}], constant)
    assert kept["learned"] and kept["no_worse"] is True
    assert lost["learned"] and lost["no_worse"] is False
    assert lost["project_minus_public"]["largest"] == pytest.approx(bad - public)


def test_the_mapped_examples_are_measured_beside_each_rank_s_own(tmp_path):
    out = tmp_path / "mapped.json"
    assert mapped_examples.main(["--ranks", "2", "--shards", "2", "--rows", "32", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["command"].startswith("python -m benchmarks.student.mapped_examples --ranks 2") and {
        "commit",
        "versions",
        "device",
    } <= set(report)
    for figures in report["ways"].values():
        assert [len(epoch) for epoch in figures["cpu_s_per_epoch"]] == [2, 2] and figures["pss_growth_mb"] > 0
    assert report["ways"]["mapped"]["mapped_files_mb"] > 0 == report["ways"]["each for itself"]["mapped_files_mb"]


def test_the_gpu_benchmark_runs_all_its_ways(tmp_path):
    out = tmp_path / "gpu.json"
    assert main(["--gpu", "--device", "cpu", "--tiny", "--seconds", "0", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert len(report["ways"]) == 8 and len(report["targets"]) == 3
    assert all(
        figures["visits_per_s"] > 0 and figures["speedup_over_public"] > 0 for figures in report["ways"].values()
    )
    assert report["ways"]["project, 512 tokens"]["useful_share"] == 1
