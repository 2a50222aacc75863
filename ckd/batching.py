"""The order in which visits go through a model's forward pass: windows of similar text length, then batches by tokens.

One window is tokenised while another is computed. The longest come first: then too little memory shows at once.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def windows(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Positions by decreasing text length in groups of at most `size`; every position once, ties in input order."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def token_batches(lengths: Sequence[int], budget: int, overhead: int = 0) -> list[list[int]]:
    """Positions by decreasing token count, cut so that (longest + overhead) × rows <= budget.

    A prompt above the budget is a batch of its own. `overhead` is what a row costs beside its padded tokens, in tokens.
    """
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (longest + overhead) * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = lengths[i]
    return batches


def pad(rows: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids padded on the right to the longest row, and their attention mask, both int64 [R, T]."""
    ids = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
