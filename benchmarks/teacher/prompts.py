"""Token ids with the measured lengths and without any visit: speed depends only on lengths and on the shared prefix."""

import numpy as np

# Real Qwen tokens of MIMIC-III visits in this project's prompt: template and instruction, which every visit shares,
# and quantiles of the whole. The quantile at 0 was not measured: it gives the prefix its measured share of the mean
# (30 %).
PREFIX = 201
KNOTS = ((0.0, 216), (0.5, 656), (0.915, 1024), (0.95, 1178), (1.0, 1421))
SHORTER = 8  # divides the lengths where code is only tried (--tiny)


def lengths(count: int) -> np.ndarray:
    """int [count], ascending: tokens per prompt at evenly spaced quantiles, so that a few prompts show them all."""
    quantiles = (np.arange(count) + 0.5) / count
    return np.interp(quantiles, *zip(*KNOTS, strict=True)).round().astype(int)


def make_prompts(count: int, vocabulary: int, seed: int = 0, shorter: int = 1) -> list[list[int]]:
    """`count` prompts in random order that share PREFIX tokens and not one more. `shorter` divides all lengths."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, vocabulary, PREFIX // shorter).tolist()
    prompts = []
    for number, length in enumerate(rng.permutation(lengths(count) // shorter)):
        body = rng.integers(0, vocabulary, length - len(prefix))
        body[0] = number % vocabulary
        prompts.append(prefix + body.tolist())
    return prompts


def described(prompts: list[list[int]]) -> dict[str, float]:
    """The figures of a set of prompts that decide its cost."""
    tokens = np.array([len(p) for p in prompts])
    # As `lengths` reads them: the n-th of N at (n - ½) / N.
    quantiles = {"median": float(np.median(tokens)), "p95": float(np.quantile(tokens, 0.95, method="hazen"))}
    ends = {"min": int(tokens.min()), "max": int(tokens.max()), "share_over_1024": float((tokens > 1024).mean())}
    return {"count": len(prompts), "mean": float(tokens.mean())} | quantiles | ends
