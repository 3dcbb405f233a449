"""What turns gradients into steps. One more optimizer is one more branch here."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from danlu.base.device import Precision
from danlu.training.config import TrainingConfig
from danlu.training.muon import Muon

LOAD_THE_COMPILER = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def sparing(kind: Any) -> Any:
    """One of torch's optimizers, the same but that it does not load torch's compiler, which takes one to three seconds.

    `step` loads it to end a graph that nobody makes; some other methods to tell it not to look at them, unless an earlier call has left
    under this name what is to be called. Where another torch does otherwise, nothing changes.
    """
    for name in LOAD_THE_COMPILER:
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})


SGD, Adam, AdamW = sparing(torch.optim.SGD), sparing(torch.optim.Adam), sparing(torch.optim.AdamW)


def make_optimizers(module: nn.Module, config: TrainingConfig, precision: Precision = "float32") -> list[torch.optim.Optimizer]:
    """SGD with momentum, Adam or AdamW over all weights that learn; or Muon over the matrices within blocks and AdamW over the rest.

    `precision` is that of Muon's products. Each group keeps its highest rate under "peak"; the loop multiplies it by the schedule.
    Matrices decay under AdamW, vectors (norms, biases) do not.
    Source: Polyak 1964 (momentum); Kingma & Ba 2015, arXiv:1412.6980 (Adam); Loshchilov & Hutter 2019, arXiv:1711.05101 (AdamW);
    Jordan et al. 2024, "Muon: an optimizer for hidden layers".
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]  # what is frozen has no state
    hidden = [p for name, p in named if config.optimizer == "muon" and p.dim() == 2 and "blocks." in name]
    taken = {id(parameter) for parameter in hidden}
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "sgd":
        return [SGD([{"params": rest, "peak": config.rate}], lr=config.rate, momentum=config.momentum, fused=True)]
    if config.optimizer == "adam":
        return [Adam([{"params": rest, "peak": config.rate}], lr=config.rate, betas=betas, fused=True)]
    groups = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": config.weight_decay, "peak": config.rate},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0, "peak": config.rate},
    ]
    adam = AdamW(groups, lr=config.rate, betas=betas, fused=True)
    if not hidden:
        return [adam]
    numbers = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return [Muon([{"params": hidden, "peak": config.muon_rate}], lr=config.muon_rate, numbers=numbers), adam]
