"""What layers do in training only."""

from __future__ import annotations

from torch import nn


def set_habits(module: nn.Module, *, dropout: float, recompute: bool) -> None:
    """Tell every layer what share of what it adds to drop, and whether to compute its inner numbers again on the way back.

    Source: Srivastava et al. 2014 (dropout); Chen et al. 2016, arXiv:1604.06174 (recomputing).
    """
    for part in module.modules():
        if hasattr(part, "dropout"):
            part.dropout = dropout  # type: ignore[assignment]
        if hasattr(part, "recompute"):
            part.recompute = recompute  # type: ignore[assignment]
