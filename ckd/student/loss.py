"""The distillation loss of a micro-batch. R visits, L=25 labels; everything in float32."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def visit_loss(
    logits_rl: "torch.Tensor",
    hard_rl: "torch.Tensor",
    soft_logits_rl: "torch.Tensor",
    hard_weight_r: "torch.Tensor",
    temperature: float,
    *,
    positive_weight_l: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """One loss per visit [R], the mean over its labels.

    hard_weight · BCE(z, y) + (1 - hard_weight) · T² · BCE(z/T, sigmoid(t/T)), with student logits z, teacher logits t, true labels y. The factor T²
    keeps the soft gradient's size when T changes (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2). At T=1 the
    soft part is plain BCE against the teacher's probabilities.

    `positive_weight_l` [L] multiplies the hard part's terms with y (see weighting).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    logits_rl = logits_rl.float()
    hard_r = bce(logits_rl, hard_rl, reduction="none", pos_weight=positive_weight_l).mean(1)
    soft_r = (
        bce(logits_rl / temperature, (soft_logits_rl / temperature).sigmoid(), reduction="none").mean(1)
        * temperature**2
    )
    return hard_weight_r * hard_r + (1 - hard_weight_r) * soft_r


def micro_batch_loss(
    visit_loss_r: "torch.Tensor", weight_r: "torch.Tensor", *, micro_batches: int, batch_size: int
) -> "torch.Tensor":
    """The scalar to differentiate: Σ weight · loss · micro_batches / batch_size.

    `micro_batches` = world × accumulation. Ranks and slots average their gradients over that many micro-batches, so what remains is
    Σ over the global batch / batch_size at any world size and accumulation, whatever number of visits each micro-batch has.
    """
    return (weight_r * visit_loss_r).sum() * (micro_batches / batch_size)
