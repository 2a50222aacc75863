"""The distillation loss against a plain implementation, and its gradient at any division into micro-batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd.config import StudentConfig
from ckd.student.loss import Embeddings, Loss, SoftLabels, TrueLabels, micro_batch_loss, wanted
from ckd.student.order import deal


def plain_bce(z: float, q: float) -> float:
    p = 1 / (1 + math.exp(-z))
    return -(q * math.log(p) + (1 - q) * math.log(1 - p))


def plain_visit_loss(logits, hard, soft_logits, hard_weight, temperature) -> float:
    hard_loss = sum(plain_bce(z, y) for z, y in zip(logits, hard, strict=True)) / len(logits)
    pairs = zip(logits, soft_logits, strict=True)
    soft_loss = sum(plain_bce(z / temperature, 1 / (1 + math.exp(-t / temperature))) for z, t in pairs) / len(logits)
    return hard_weight * hard_loss + (1 - hard_weight) * soft_loss * temperature**2


def example(visits: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits, soft = torch.randn(2, visits, 25, generator=generator, dtype=torch.float32)
    hard = (torch.rand(visits, 25, generator=generator) < 0.2).float()
    return logits, hard, soft, torch.rand(visits, generator=generator)


def visit_loss(logits, hard, soft, share, temperature, positive_weight=None):
    """The loss of the labels."""
    loss = Loss((TrueLabels(positive_weight), SoftLabels(temperature)))
    return loss({"logits": logits}, {"hard": hard, "soft_logits": soft, "hard_weight": share})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_is_its_formula(temperature):
    logits, hard, soft, weight = example(6)
    found = visit_loss(logits, hard, soft, weight, temperature)
    wanted = [
        plain_visit_loss(*(x[i].tolist() for x in (logits, hard, soft)), weight[i].item(), temperature)
        for i in range(6)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_at_temperature_one_the_soft_part_is_bce_with_the_teachers_probabilities():
    logits, hard, soft, _ = example(4)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    found = visit_loss(logits, hard, soft, torch.zeros(4), 1.0).mean()
    assert torch.isclose(found, bce(logits, soft.sigmoid()))


def test_the_weight_of_one_is_plain_bce_whatever_the_teacher_says():
    logits, hard, soft, _ = example(4)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    assert torch.isclose(visit_loss(logits, hard, soft * 1e3, torch.ones(4), 2.0).mean(), bce(logits, hard))


def test_the_soft_gradient_keeps_its_size_when_the_temperature_changes():
    def gradient(temperature):
        logits, hard, soft, _ = example(8)
        logits = (logits * 0.1).requires_grad_()
        visit_loss(logits, hard, soft * 0.1, torch.zeros(8), temperature).sum().backward()
        return logits.grad.norm().item()

    assert gradient(10.0) == pytest.approx(gradient(1.0), rel=0.05)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 16), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3]))
def test_averaged_gradients_are_the_sum_over_visits_by_batch_size(visits, world, accumulation):
    batch_size = 16
    logits, hard, soft, hard_weight = example(visits)
    torch.manual_seed(1)
    matrix = torch.randn(25, 25)
    network = matrix.clone().requires_grad_()
    (visit_loss(logits @ network, hard, soft, hard_weight, 2.0).sum() / batch_size).backward()

    averaged = torch.zeros_like(matrix)
    for rank in deal([10] * visits, world, accumulation):
        for chosen in rank:
            copy = matrix.clone().requires_grad_()
            rows = chosen or [0]
            weight = torch.full((len(rows),), float(bool(chosen)))
            losses = visit_loss(logits[rows] @ copy, hard[rows], soft[rows], hard_weight[rows], 2.0)
            micro_batch_loss(losses, weight, micro_batches=world * accumulation, batch_size=batch_size).backward()
            averaged += copy.grad / (world * accumulation)
    assert torch.allclose(averaged, network.grad, atol=1e-6)


def in_one_piece(outputs, batch, temperature, positive_weight, weight, scale):
    """The same loss as one function, as it was written before each term had a class."""
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    logits, hard_weight = outputs["logits"].float(), batch["hard_weight"]
    hard = bce(logits, batch["hard"], reduction="none", pos_weight=positive_weight).mean(1)
    softened = (batch["soft_logits"] / temperature).sigmoid()
    soft = bce(logits / temperature, softened, reduction="none").mean(1) * temperature**2
    standardised = (batch["embeddings"].float() - scale[0]) / scale[1]
    apart = 1 - torch.nn.functional.cosine_similarity(outputs["projected"].float(), standardised, dim=1)
    return hard_weight * hard + (1 - hard_weight) * soft + weight * (apart * batch["embeddings"].float().any(dim=1))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_the_sum_of_the_terms_and_its_gradients_are_the_old_formula_s_to_the_last_bit(kind, seed):
    logits, hard, soft, share = example(9, seed)
    generator = torch.Generator().manual_seed(seed)
    projected, embedding = torch.randn(2, 9, 6, generator=generator)
    embedding[3] = 0
    scale = (torch.randn(6, generator=generator), torch.rand(6, generator=generator) + 0.5)
    batch = {"hard": hard, "soft_logits": soft, "hard_weight": share, "embeddings": embedding.half()}
    weights = torch.rand(25, generator=generator) * 9
    terms = Loss((TrueLabels(weights), SoftLabels(2.0), Embeddings(0.7, *scale))).on(torch.device("cpu"))

    found = []
    for loss in (terms, lambda outputs, batch: in_one_piece(outputs, batch, 2.0, weights, 0.7, scale)):
        outputs = {
            name: value.to(kind).requires_grad_() for name, value in (("logits", logits), ("projected", projected))
        }
        losses = loss(outputs, batch)
        losses.sum().backward()
        found.append((losses, outputs["logits"].grad, outputs["projected"].grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({}, [TrueLabels, SoftLabels]),
        ({"hard_weight": 1}, [TrueLabels]),
        ({"hard_weight": 1, "use_unlabeled": True}, [TrueLabels, SoftLabels]),
        ({"hard_weight": 1, "embedding_weight": 0.1}, [TrueLabels, Embeddings]),
        ({"hard_weight": 0, "embedding_weight": 1}, [TrueLabels, SoftLabels, Embeddings]),
    ],
)
def test_only_terms_with_a_weight_are_learned(settings, terms):
    assert wanted(StudentConfig(**settings)) == terms
