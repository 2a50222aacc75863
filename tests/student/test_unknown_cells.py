"""Any number of labels, some cells unknown: hard loss, class weights and tuning score see known cells only."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss

from ckd.run import Run
from ckd.student.fingerprint import STUDENT
from ckd.student.loss import MOST, TrueLabels, positive_weights
from ckd.student.train import best_checkpoint
from ckd.student.tuning import choose_metric, score
from ckd.visits.task import Label, Task
from tests.student.student_cohort import make_cohort, make_config, make_tokens, make_visits
from tests.student.test_loss import plain_bce
from tests.student.trainings import run_train

bce = torch.nn.functional.binary_cross_entropy_with_logits


def task_of(count):
    return Task(name="t", labels=tuple(Label(name=f"label {n}", given=f"c{n}") for n in range(count)))


def hidden(visits, share=0.4, seed=1):
    """The same visits with some cells unknown; a visit keeps at least its first label."""
    rng = np.random.default_rng(seed)
    for v in visits:
        masks = [False, *(rng.random(len(v.labels) - 1) < share)]
        yield replace(v, labels=tuple(None if mask else flag for mask, flag in zip(masks, v.labels, strict=True)))


def some(seed, rows, count):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, count, generator=generator, requires_grad=True)
    hard = (torch.rand(rows, count, generator=generator) < 0.3).float()
    unknown = torch.rand(rows, count, generator=generator) < 0.5
    unknown[:, 0] = False
    return logits, hard, unknown, torch.rand(rows, generator=generator)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_the_hard_loss_is_the_mean_over_the_known_labels_and_gives_the_others_no_gradient(seed, rows, count, weighted):
    logits, hard, unknown, share = some(seed, rows, count)
    weight = torch.linspace(0.5, 3, count) if weighted else None
    found = TrueLabels(weight)({"logits": logits}, {"hard": hard.masked_fill(unknown, torch.nan), "hard_weight": share})
    for i in range(rows):
        places = [n for n in range(count) if not unknown[i, n]]
        each = [plain_bce(logits[i, n].item(), hard[i, n].item()) for n in places]
        factors = [weight[n].item() if weighted and hard[i, n] else 1 for n in places]
        wanted = share[i].item() * sum(a * b for a, b in zip(each, factors, strict=True)) / len(places)
        assert found[i].item() == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    found.sum().backward()
    assert (logits.grad[unknown] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [None, torch.linspace(0.5, 3, 25)])
def test_with_every_label_known_the_hard_loss_and_its_gradient_are_the_plain_ones_to_the_bit(weight):
    logits, hard, _, share = some(3, 64, 25)
    found = TrueLabels(weight)({"logits": logits}, {"hard": hard, "hard_weight": share})
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    plain = share * bce(logits, hard, reduction="none", pos_weight=weight).mean(1)
    assert torch.equal(found, plain)
    assert torch.equal(gradient, torch.autograd.grad(plain.sum(), logits)[0])


def test_weights_count_known_cells_only(tmp_path):
    task = task_of(4)
    rows = list(hidden(make_visits("train", 60, task=task), 0.7))
    found = positive_weights(make_cohort(tmp_path, rows, task=task))
    for label in range(4):
        known = [v.labels[label] for v in rows if v.labels[label] is not None]
        positives = sum(known)
        assert found[label] == pytest.approx(min((len(known) - positives) / positives, MOST) if positives else 1)


def test_scores_are_scikit_learns_on_the_known_cells_and_plain_ones_without_unknown_cells():
    rng = np.random.default_rng(0)
    logits, hard = rng.normal(size=(80, 40)), (rng.random((80, 40)) < 0.3).astype(np.float32)
    assert score("bce", [], logits, hard) == -float((np.logaddexp(0, logits) - logits * hard).mean())
    hard[rng.random(hard.shape) < 0.4] = np.nan
    known = ~np.isnan(hard)
    wanted = [average_precision_score(hard[known[:, n], n], logits[known[:, n], n]) for n in (3, 7)]
    assert score("macro_auprc", [3, 7], logits, hard) == pytest.approx(np.mean(wanted))
    assert score("bce", [], logits, hard) == pytest.approx(-log_loss(hard[known], 1 / (1 + np.exp(-logits[known]))))
    for junk in (50.0, -50.0):
        changed = np.where(known, logits, junk)
        assert score("macro_auprc", [3, 7], changed, hard) == score("macro_auprc", [3, 7], logits, hard)


def column(positives, negatives, unknown=0):
    return np.array([1.0] * positives + [0.0] * negatives + [np.nan] * unknown, np.float32)[:, None]


@pytest.mark.parametrize(
    ("hard", "metric"),
    [
        (column(50, 30), "macro_auprc"),
        (column(49, 31), "bce"),
        (column(49, 0, 31), "last_epoch"),
        (np.repeat(column(17, 60), 3, 1), "macro_auprc"),
        (np.repeat(column(16, 60), 3, 1), "bce"),
        (np.hstack([column(60, 20), column(4, 76)]), "bce"),
        (np.repeat(column(5, 20, 60), 500, 1), "macro_auprc"),
    ],
)
def test_few_labels_need_as_much_evidence_as_many(hard, metric):
    assert choose_metric(hard)[0] == metric


@pytest.mark.parametrize("count", [1, 40, 500])
def test_a_student_of_any_number_of_labels_is_trained_and_knows_their_names(tmp_path, base, count):
    task = task_of(count)
    visits = [v for split in ("train", "tuning") for v in hidden(make_visits(split, 55, task=task))]
    config = make_config(tmp_path, base, epochs=1, class_weighting="balanced")
    make_cohort(config.run.artifacts_root, [*visits, *make_visits("train", 5, labeled=False, task=task)], task=task)
    make_tokens(config)
    ear = run_train(config)
    assert ear.finished and all(np.isfinite(loss) for loss in ear.losses().values())
    settings = json.loads((Path(best_checkpoint(Run(config), print).fetched()) / "config.json").read_text())
    assert settings["id2label"] == {str(n): name for n, name in enumerate(task.names)}
    assert STUDENT.artifact(Run(config)).fields["task"] == task.identity


def test_the_value_that_a_hidden_cell_had_changes_no_weight_of_the_student(tmp_path, base):
    rows = [*make_visits("train", 30), *make_visits("tuning", 55)]
    kept = list(hidden(rows))
    other = [
        replace(v, labels=tuple(not f if m is None else f for f, m in zip(v.labels, k.labels, strict=True)))
        for v, k in zip(rows, kept, strict=True)
    ]
    losses = []
    for name, part in {"a": hidden(rows), "b": hidden(other), "c": rows, "d": other}.items():
        config = make_config(tmp_path / name, base, dropout=0.0, epochs=1)
        make_cohort(config.run.artifacts_root, list(part))
        make_tokens(config)
        losses.append(run_train(config).losses())
    assert losses[0] == losses[1] and losses[2] != losses[3]
