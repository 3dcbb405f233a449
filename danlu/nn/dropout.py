"""Dropout, whose random numbers a processor draws four at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 2**16  # into which shares are rounded


def dropout(x: Tensor, share: float) -> Tensor:
    """x with each number gone at this probability, and the others larger by as much, so that what is expected stays.

    torch draws one random number after the other, by one thread, and spends more time on it than a layer's norm takes. A number of
    64 bits serves four places here: a place is dropped if its 16 bits are below the share, which is so rounded to 1 / 65,536.
    Source: Srivastava et al. 2014.
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = min(round(share * STEPS), STEPS - 1)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[: x.numel()].view(x.shape) >= dropped - STEPS // 2
    return x * kept.to(x.dtype).mul_(STEPS / (STEPS - dropped))
