"""The order in which visits go through a model that only reads: windows by text length (so that one window can be tokenised while another
is in the forward pass), then batches of similar token counts under a padded-token budget. Longest first: an out-of-memory shows at once."""

from collections.abc import Iterator, Sequence


def windows(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Positions by decreasing text length in groups of at most `size`; every position once, ties in input order."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def token_batches(lengths: Sequence[int], budget: int, overhead: int = 0) -> list[list[int]]:
    """Positions by decreasing token count, cut so that (longest + overhead) × rows <= budget (a prompt above the budget stands alone).

    `overhead` is what a row costs beside its own padded tokens, in tokens.
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
