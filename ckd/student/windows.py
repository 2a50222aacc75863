"""What becomes of a text that is longer than the student reads: its beginning, its beginning and end, or windows over all of it; and how the
windows' figures become the visit's. Tokenising belongs to tokens, padding to batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

LongText = Literal["head", "head_tail", "windows"]
MOST = 8  # windows of one visit: over 3,000 tokens at max_length 512; a visit's windows share a micro-batch, so they bound its memory
_HEAD = (
    128 / 510
)  # share of the beginning: the best split of Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1
_OVERLAP = 1 / 4  # of a window that the next one repeats, so that what one border cuts stands whole in a neighbour

LOST = {  # what a truncated visit has lost
    "head": "lost text from their end",
    "head_tail": "lost text from their middle",
    "windows": f"lost text beyond {MOST} windows",
}


def told(long_text: LongText, max_length: int) -> str:
    """For people who have the model and not this code: how a text over `max_length` tokens is read, exactly enough to do the same."""
    if long_text == "head":
        return "`truncation=True` cuts longer visits at their end, as in training."
    content = f"{max_length} tokens less the tokenizer's special tokens, which go around each piece"
    alone = "**`truncation=True` cuts at the end instead, so for longer visits `pipeline` and the code above give other figures; `ckd predict` reads them"
    if long_text == "head_tail":
        how = f"Of a longer visit it reads beginning and end as one sequence: round(n · {_HEAD:.6f}) tokens and the last ones up to n = {content}."
    else:
        how = (
            f"A longer visit is read in windows of n = {content}. Each begins n - floor(n · {_OVERLAP:g}) tokens after the one before; the last "
            f"begins earlier, to end with the text; only the first {MOST} are read. The visit's logits are the mean of its windows' logits, before "
            "the sigmoid."
        )
    return f"{how} {alone} as training did.**"


def cut(content: list[int], room: int, long_text: LongText) -> tuple[list[list[int]], bool]:
    """Pieces of at most `room` token ids each, in order, and whether ids were lost. One piece unless `long_text` is "windows".

    Windows are full ones: the last begins early enough to end with the text. Of more than MOST the first are kept.
    """
    if len(content) <= room:
        return [content], False
    if long_text == "head":
        return [content[:room]], True
    if long_text == "head_tail":
        head = max(round(room * _HEAD), 1)
        return [content[:head] + content[len(content) - (room - head) :]], True
    step = max(room - int(room * _OVERLAP), 1)
    starts = [*range(0, len(content) - room, step), len(content) - room]
    return [content[start : start + room] for start in starts[:MOST]], len(starts) > MOST


def mean_per_visit(values_WX: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The mean [R, X] over each visit's windows, which follow each other in `values_WX`; `counts` [R] says how many each visit has.

    The mean of logits, since it stays the size of one window's whatever the length of the text, while a maximum over more windows is higher by
    chance alone; and every window learns. Sun et al. 2019 (section 5.3.1) saw no pooling that was better throughout.
    """
    counts = np.asarray(counts)
    if (counts == 1).all():
        return values_WX
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found: np.ndarray = np.add.reduceat(values_WX, starts, axis=0) / counts[:, None].astype(values_WX.dtype)
    return found


def mean_with_gradient(values_WX: "torch.Tensor", visit_W: "torch.Tensor", visits: int) -> "torch.Tensor":
    """The same in training: `visit_W` is the place of each window's visit. A product of matrices, which adds in the same order on every run."""
    if len(visit_W) == visits:
        return values_WX
    import torch

    mine_RW = (torch.arange(visits, device=visit_W.device)[:, None] == visit_W).float()
    return (mine_RW / mine_RW.sum(1, keepdim=True)) @ values_WX.float()
