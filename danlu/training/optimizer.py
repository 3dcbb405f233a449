"""What turns gradients into steps."""

from __future__ import annotations

import torch
from torch import nn

from danlu.training.config import TrainingConfig


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over all weights; matrices decay, vectors (norms, biases) do not.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(config.beta1, config.beta2), fused=True)
