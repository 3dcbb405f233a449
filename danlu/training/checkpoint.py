"""What a run needs to go on as if it had never stopped: weights, optimizer, position and random state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from danlu.base.device import Precision
from danlu.base.errors import CheckpointError
from danlu.base.storage import write_whole
from danlu.base.weights import Tensors, open_file, save_safetensors

OPTIMIZER = "training/optimizer.safetensors"
STATE = "training/state.json"


@dataclass(kw_only=True)
class Progress:
    """How far a run has come; what was chosen automatically belongs to it too, or resuming would not be exact."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    precision: Precision = "float32"


def save_training_state(folder: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Progress) -> None:
    """Write the optimizer's tensors and the progress into a checkpoint's folder that nobody reads yet."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    tensors = {
        f"{names[id(parameter)]}#{kind}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }
    (folder / OPTIMIZER).parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(tensors | {"#random": torch.get_rng_state()}, folder / OPTIMIZER)
    write_whole(folder / STATE, json.dumps(asdict(progress), indent=2).encode())


def load_training_state(folder: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Put optimizer and random state back, and tell the progress.

    Raises: CheckpointError if the state belongs to another model.
    """
    tensors: Tensors = open_file(folder / OPTIMIZER)
    parameters = dict(module.named_parameters())
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    torch.set_rng_state(tensors["#random"])
    for key in tensors:
        name, kind = key.split("#")
        if not name:
            continue
        if name not in parameters:
            raise CheckpointError(f"{folder / OPTIMIZER} belongs to another model: it has {name}")
        owners[id(parameters[name])].state[parameters[name]][kind] = tensors[key].clone()
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return Progress(**state)
