"""Muon: steps of matrices whose directions all count alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from danlu.nn.linear import FEW, better_by_onednn, linear

# a x + b x^3 + c x^5, one polynomial an iteration: each the nearest to 1, in the worst case, over what the one before leaves of
# [0.003, 1], where singular values end between 0.8 and 1.2. Source: Amsel et al. 2025, arXiv:2505.16932 (the numbers are our own).
POLYNOMIALS = ((8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257), (2.4901, -1.8343, 0.4368))


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's), then the nearest matrix with orthogonal rows or columns, times the rate and max(1, rows / columns)^0.5.

    Matrices of one shape are computed together, in `numbers`: bfloat16 where the processor multiplies it.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, numbers: torch.dtype = torch.float32) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})
        self.numbers = numbers

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                steps = orthogonal(self._direction(weights, group["momentum"]).to(self.numbers))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(weights, list(steps.to(weights[0].dtype).unbind()), alpha=-rate)

    def _direction(self, weights: list[Tensor], momentum: float) -> Tensor:
        """Gradients and the momentum that they become part of: (N, rows, columns)."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        kept = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        return torch.stack(torch._foreach_lerp(gradients, kept, momentum))


def orthogonal(x: Tensor) -> Tensor:
    """U V^T of every x = U S V^T, nearly: (N, rows, columns) -> the same. Newton and Schulz's iteration, the steps chosen for speed."""
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / (x.flatten(1).float().norm(dim=1).to(x.dtype)[:, None, None] + 1e-7)
    if x.dtype == torch.float32 and x.device.type == "cpu" and x[0].numel() * x.shape[1] > FEW and better_by_onednn():
        x = torch.stack([_iterated(one) for one in x])
    else:
        for a, b, c in POLYNOMIALS:
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if turned else x


def _iterated(x: Tensor) -> Tensor:
    """The same polynomials of one matrix, its products made as a layer's are: oneDNN multiplies one at a time."""
    for a, b, c in POLYNOMIALS:
        square = linear(x, x)
        x = linear(square * b + linear(square, square) * c, x.mT) + x * a
    return x
