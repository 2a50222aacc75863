"""The ablation: arms run in the project's jobs, the choice reads no held_out, the interval agrees with a plain one."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.evidence import ablation
from benchmarks.evidence import report as ablation_report
from benchmarks.evidence.arms import replace_soft_labels, run_arm, shuffled
from benchmarks.evidence.choice import choose, compare, intervals
from benchmarks.evidence.cohort import (
    SHARED_STAGES,
    configuration,
    link,
    make_cohort,
    make_shared,
    make_student_base,
)
from benchmarks.evidence.setup import SETUP, Setup, Trial, load_setup
from ckd.configfile import load
from ckd.evaluation.bootstrap import Draws
from ckd.store.artifacts import Stage
from ckd.store.files import read_table
from ckd.visits.cohort import Cohort
from ckd.visits.columns import matrix
from ckd.visits.labels import NUM_LABELS
from jobs.console import Console

TINY = """
criterion: macro_auroc
untrained: true
selection: {generator_seed: 21, seeds: [1, 2]}
confirmation: {generator_seed: 22, seeds: [3, 4], beside: [], resamples: 20}
sizes:
  {patients: 120, train_share: 0.5, ceiling_patients: 30, student_patients: 20, teacher_patients: 20, adapter_steps: 0}
reference_seed: 42
base: [data.shard_rows=256, teacher.dtype=float32, head.folds=2, head.epochs=1,
       student.hard_weight=0.5, student.max_length=64, student.epochs=1]
arms:
  base: {changes: "nothing"}
  shuffled: {changes: "soft labels shuffled", labels: shuffled, kind: control}
  half:
    {changes: "no teacher for half", teacher: [teacher.adapter_share=0.5], student: [student.embedding_weight=1]}
"""
PAGE = "a\n<!-- cohort --><!-- end -->\n<!-- selection -->OLD-TABLE<!-- end -->\n<!-- confirmation --><!-- end -->\nz"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(work, setup): a tiny cohort with its shared stages."""
    work = tmp_path_factory.mktemp("ablation")
    (work / "setup.yaml").write_text(TINY)
    setup = load_setup(work / "setup.yaml")
    make_cohort(Trial(work, setup, "selection"))
    make_student_base(work, setup)
    return work, setup


def run(work, setup, phase="selection"):
    trial = Trial(work, setup, phase)
    for arm in setup.arms if phase == "selection" else ablation.confirmed(work, setup):
        for seed in trial.seeds:
            ablation.work_on(trial, arm, seed, {"commit": "c"})


def test_every_arm_is_trained_once_and_held_out_may_be_unreadable_during_the_selection(made):
    work, setup = made
    trial = Trial(work, setup, "selection")
    roots = {arm.shared: make_shared(trial, arm, Console(io.StringIO())) for arm in setup.arms}
    for shared, root in roots.items():
        (work / f"selection-21/ready-{shared}").write_text(str(root))
        cohort = Cohort.open(str(root))
        for stage in ("visits", "embeddings", "soft_labels"):
            for shard in cohort.select("held_out"):
                path = Path(Stage(cohort.root, stage, {}).path(shard.index))
                path.unlink()  # a link between the arms' stages
                path.write_bytes(b"nothing may read this")
    run(work, setup)
    found = trial.results()
    assert len(found) == 6 and all("held_out" not in row for row in found.values())
    assert not list(work.rglob("arms/*/*"))
    before = {path: path.stat().st_mtime_ns for path in work.glob("results/*/*")}
    arm = setup.arms[0]
    assert run_arm(trial, arm, 1, Path("nowhere"), {}) == found["base", 1]
    assert before == {path: path.stat().st_mtime_ns for path in work.glob("results/*/*")}


def test_the_confirmation_trains_on_other_patients_and_the_report_shows_what_the_files_say(made, tmp_path):
    work, setup = made
    run(work, setup)
    make_cohort(Trial(work, setup, "confirmation"))
    arms = ablation.confirmed(work, setup)
    assert [arm.name for arm in arms] == ["base", "half"]
    run(work, setup, "confirmation")
    ids = [
        set(read_table(str(work / f"{phase}/cohort.parquet"), ["subject_id"])["subject_id"].to_pylist())
        for phase in ("selection-21", "confirmation-22")
    ]
    assert not ids[0] & ids[1]
    whole = ablation_report.confirmation(Trial(work, setup, "confirmation"), "half")
    means, gap = whole["means"], whole["against_base"]["half"]["macro_auroc"]
    assert gap["difference"] == pytest.approx(means["half"]["macro_auroc"] - means["base"]["macro_auroc"])
    assert len(gap["by_seed"]) == 2
    selection = Trial(work, setup, "selection")
    found = selection.results()
    references = {**whole["references"], "split": "tuning"}
    results = {
        "setup": setup.raw,
        "selection": {
            "references": references,
            "compared": [{**vars(c), "arm": c.arm.name} for c in compare(selection, found)],
            "arms": list(found.values()),
        },
        "choice": json.loads((work / "choice.json").read_text()),
        "confirmation": whole,
    }
    tables = ablation_report.tables(results)
    filled = ablation_report.filled(PAGE, tables)
    mean = np.mean([found["half", seed]["tuning"]["macro_auroc"] for seed in (1, 2)])
    assert f"{mean:.4f}" in filled and "OLD-TABLE" not in filled
    assert "the interval holds 0" in filled or "than `base`" in filled
    assert filled == ablation_report.filled(filled, tables)
    with pytest.raises(ValueError, match="no '<!-- cohort -->"):
        ablation_report.filled("nothing", tables)


def test_true_probabilities_and_shuffled_labels_stand_in_place_of_the_teachers(made):
    work, setup = made
    run(work, setup)
    root = Path((work / "selection-21/ready-all").read_text())
    config = configuration(Trial(work, setup, "selection"), "control")
    Path(config.run.artifacts_root).mkdir(parents=True)
    link(root, Path(config.run.artifacts_root), SHARED_STAGES)
    cohort, stage = Cohort.open(config.run.artifacts_root), Stage(config.run.artifacts_root, "soft_labels", {})

    def train(name):
        return np.concatenate([matrix(stage.read(s.index)[name]) for s in cohort.select("train")])

    before = train("logits")
    replace_soft_labels(config, "shuffled", 1)
    np.testing.assert_array_equal(np.sort(train("logits"), 0), np.sort(before, 0))
    assert (train("logits") != before).mean() > 0.5
    replace_soft_labels(config, "true", 1)
    oracles = read_table(str(work / "selection-21/oracles.parquet")).to_pylist()
    latent = {row["visit_id"]: row["oracle_latent"] for row in oracles}
    ids = [v for s in cohort.select("train") for v in stage.read(s.index)["visit_id"].to_pylist()]
    np.testing.assert_allclose(train("probabilities"), [latent[v] for v in ids], atol=1e-5)
    assert (
        np.concatenate(
            [matrix(Stage(str(root), "soft_labels", {}).read(s.index)["logits"]) for s in cohort.select("train")]
        )
        == before
    ).all()


@given(st.integers(1, 40), st.integers(0, 5))
def test_shuffling_within_a_label_keeps_how_its_soft_labels_are_distributed_in_either_class(visits, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(visits, NUM_LABELS)), (rng.random((visits, NUM_LABELS)) < 0.4).astype(np.float32)
    mixed = shuffled(logits, labels, rng)
    for label in range(NUM_LABELS):
        for value in (0, 1):
            rows = labels[:, label] == value
            np.testing.assert_array_equal(np.sort(mixed[rows, label]), np.sort(logits[rows, label]))


def test_the_interval_agrees_with_resampling_seeds_and_patients_row_by_row():
    rng = np.random.default_rng(0)
    n, seeds, chosen = 120, 3, [0, 4]
    labels = rng.random((n, NUM_LABELS)) < 0.4
    groups = rng.integers(0, 40, n)
    ours, theirs = ([np.round(labels + rng.normal(0, 1.5, labels.shape), 1) for _ in range(seeds)] for _ in range(2))
    names, members = np.unique(groups, return_inverse=True)
    draws = Draws(members, len(names), 30, 7, True)
    found = intervals(labels, ours, theirs, draws, chosen)
    counts = draws.counts(0, 30)
    picked = np.random.default_rng([7, 1]).integers(seeds, size=(seeds, 30))
    for name, metric in (("macro_auroc", roc_auc_score), ("macro_auprc", average_precision_score)):
        values = []
        for b in range(30):
            rows = np.concatenate(
                [np.repeat(np.flatnonzero(members == g), int(counts[g, b])) for g in range(len(names))]
            ).astype(int)
            gaps = [
                np.mean(
                    [
                        metric(labels[rows, j], ours[s][rows, j]) - metric(labels[rows, j], theirs[s][rows, j])
                        for j in chosen
                    ]
                )
                for s in picked[:, b]
            ]
            values.append(np.mean(gaps))
        assert found[name]["interval"] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=1e-9)
        plain = [
            np.mean([metric(labels[:, j], a[:, j]) - metric(labels[:, j], b[:, j]) for j in chosen])
            for a, b in zip(ours, theirs, strict=True)
        ]
        assert found[name]["by_seed"] == pytest.approx(plain)


def figures(**auroc):
    """Figures with these tuning macro AUROC, alike for both seeds but for a shift; held_out would choose otherwise."""
    made = {}
    for arm, value in auroc.items():
        for seed in (1, 2):
            tuning = {"macro_auroc": value + seed / 10, "macro_auprc": 1 - value, "log_loss": value}
            made[arm, seed] = {"tuning": tuning, "held_out": {"macro_auroc": 1 - value}}
    return made


def test_the_choice_takes_the_option_with_the_largest_gain_on_tuning_and_no_control(made):
    trial = Trial(*made, "selection")
    found = choose("macro_auroc", compare(trial, figures(base=0.5, shuffled=0.7, half=0.6)))
    assert found == {
        "criterion": "macro_auroc",
        "winner": "half",
        "candidate": "half",
        "gain_on_tuning": pytest.approx(0.1),
    }
    lost = choose("macro_auroc", compare(trial, figures(base=0.5, shuffled=0.7, half=0.4)))
    assert (lost["winner"], lost["candidate"]) == ("base", "half")
    assert choose("log_loss", compare(trial, figures(base=0.5, half=0.4)))["winner"] == "half"


def test_an_arm_that_lacks_a_seed_is_not_compared(made):
    work, setup = made
    found = figures(base=0.5, shuffled=0.6, half=0.7)
    del found["half", 2]
    assert [c.arm.name for c in compare(Trial(work, setup, "selection"), found)] == ["base", "shuffled"]
    against = Setup(setup.raw, (*setup.arms[:2], replace(setup.arms[2], against="shuffled")))
    whole = compare(Trial(work, against, "selection"), figures(base=0.5, shuffled=0.6, half=0.7))
    assert whole[2].difference["macro_auroc"] == pytest.approx(0.1) and whole[2].deviation[
        "macro_auroc"
    ] == pytest.approx(0)


def test_every_arm_of_the_set_up_is_a_configuration_of_this_package():
    setup = load_setup()
    names = [arm.name for arm in setup.arms]
    selection, confirmation = Trial(Path(), setup, "selection"), Trial(Path(), setup, "confirmation")
    assert len(set(names)) == len(names) and len(selection.seeds) >= 3 and len(confirmation.seeds) >= 5
    assert selection.generator_seed != confirmation.generator_seed
    assert not set(selection.seeds) & set(confirmation.seeds)
    for arm in setup.arms:
        load(None, [*setup.raw["base"], *arm.teacher, *arm.student])
    assert yaml.safe_load(SETUP.read_text())["criterion"] == "macro_auroc"


def test_arms_of_two_set_ups_do_not_mix(made, tmp_path):
    _, setup = made
    ablation.require_same(tmp_path, setup)
    ablation.require_same(tmp_path, setup)
    with pytest.raises(SystemExit, match="another set-up"):
        ablation.require_same(tmp_path, Setup({**setup.raw, "reference_seed": 1}, setup.arms))


def test_a_finished_arm_has_a_file_of_its_own_per_phase(tmp_path):
    trials = [Trial(tmp_path, load_setup(), phase) for phase in ("selection", "confirmation")]
    assert len({trial.result_file("a", seed) for trial in trials for seed in (1, 2)}) == 4
