"""Last-token pooling, right for either padding side."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def last_token(states_BTH: "torch.Tensor", mask_BT: "torch.Tensor") -> "torch.Tensor":
    """[B, H]: each row's state at its last real token. `mask.sum(1) - 1` would be wrong for left padding."""
    import torch

    positions_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    last_B = (mask_BT.long() * positions_T).argmax(1)
    return states_BTH[torch.arange(states_BTH.shape[0], device=mask_BT.device), last_B]
