"""What an engine's forward passes cost: counts that add up, and the formula for floating-point operations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What `Engine.encode` did over some calls. Sums, except peak_bytes, which is a maximum."""

    prompts: int = 0
    tokens: int = 0  # useful: every token of every prompt, computed or not
    computed: int = 0  # pushed through the model: what follows the shared prefix, with padding, and each prefix once
    padding: int = 0  # of `computed`
    # Tokens that a shared prefix saved: computed == tokens - prefix_saved + padding, unless a batch was repeated.
    prefix_saved: int = 0
    busy_s: float = 0.0  # seconds the device worked on forward passes
    flops: float = 0.0  # of `computed`, see forward_flops
    ooms: int = 0  # times a batch was halved for want of memory; its repeated tokens are not counted twice
    peak_bytes: int = 0  # most device memory allocated by this process (0 on a CPU)

    def __add__(self, other: "Work") -> "Work":
        sums = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Work(**{**sums, "peak_bytes": max(self.peak_bytes, other.peak_bytes)})


@dataclass(frozen=True)
class Geometry:
    """What the FLOP formula needs of a decoder."""

    parameters: int  # weights outside the embedding table
    layers: int
    width: int  # of attention: heads × head size


def forward_flops(model: Geometry, rows: int, computed: int, prefix: int) -> float:
    """Model FLOPs of a forward pass over `rows` rows of `computed` tokens each, behind `prefix` computed ones.

    2 × parameters × tokens for the matrix products and 4 × layers × width × Σ attended for attention (scores and
    weighted values, 2 × width multiply-adds each per attended position), where token t attends to prefix + t positions.
    Kaplan et al. 2020, "Scaling Laws for Neural Language Models", table 1 (C_forward = 2N + 2·n_layer·n_ctx·d_attn per
    token, which is this at n_ctx/2 attended positions), and Chowdhery et al. 2022, "PaLM", appendix B. Norms, rotations
    and softmax are left out there too. In a mixture of experts it counts every expert, which is too much.
    """
    attended = computed * prefix + computed * (computed + 1) // 2
    return float(rows) * (2.0 * model.parameters * computed + 4.0 * model.layers * model.width * attended)
