"""What a run needs to go on as if it had never stopped: weights, optimizer, position and random state."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.base.device import Precision
from danlu.base.errors import CheckpointError
from danlu.base.storage import write_whole
from danlu.base.weights import Tensors, open_file, save_safetensors
from danlu.training.average import Average
from danlu.training.health import Health

OPTIMIZER = "training/optimizer.safetensors"
STATE = "training/state.json"
RANDOM, AVERAGE = "#random", "average"


@dataclass(kw_only=True)
class Progress:
    """How far a run has come; what was chosen automatically belongs to it too, or resuming would not be exact.

    Where the data stands follows from `step` alone. `rate_share` is below 1 after a setback; `best` is the lowest held-out loss so far (or
    minus the highest figure, as a goal has it), reached at `best_step`, and `worse` how many measurements have not been better since; the
    last was made at `measured_step`.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    precision: Precision = "float32"
    processes: int = 1
    threads: int = 0
    rate_share: float = 1.0
    best: float = math.inf
    best_step: int = 0
    worse: int = 0
    measured_step: int = -1
    health: Health = field(default_factory=Health)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Progress:
        """From what state.json holds."""
        return cls(**{**content, "health": Health(**content.get("health", {}))})


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of everything between two steps, so that it can be written while the next steps change the original."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    progress: dict[str, Any]

    @classmethod
    def take(
        cls, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Progress, average: Average | None = None
    ) -> Snapshot:  # fmt: skip
        """Copy weights, optimizers' tensors (as name#kind), the average, random state and progress."""
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        tensors = {
            f"{names[id(parameter)]}#{kind}": value.clone()
            for optimizer in optimizers
            for parameter, state in optimizer.state.items()
            for kind, value in state.items()
            if isinstance(value, Tensor)
        }
        if average is not None:
            tensors |= {f"{name}#{AVERAGE}": tensor.clone() for name, tensor in average.state().items()}
        tensors[RANDOM] = torch.get_rng_state()
        # What is frozen does not change, and is not copied.
        named = [(name, weight.detach(), weight.requires_grad) for name, weight in module.named_parameters()]
        weights = {name: weight.clone() if learns else weight for name, weight, learns in named}
        return cls(weights=weights, tensors=tensors, progress=asdict(progress))

    def write(self, folder: Path) -> None:
        """Write all but the weights, which the model's own format holds, into a checkpoint's folder that nobody reads yet."""
        (folder / OPTIMIZER).parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(self.tensors, folder / OPTIMIZER)
        write_whole(folder / STATE, json.dumps(self.progress, indent=2).encode())

    def restore(self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: Average | None = None) -> Progress:
        """Put everything back as it was."""
        with torch.no_grad():
            for name, weight in module.named_parameters():
                weight.copy_(self.weights[name])
        _restore(self.tensors, module, optimizers, average, "the snapshot")
        return Progress.read(self.progress)


def load_training_state(
    folder: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: Average | None = None
) -> Progress:  # fmt: skip
    """Put optimizer, average and random state back, and tell the progress.

    Raises: CheckpointError if the state belongs to another model.
    """
    _restore(open_file(folder / OPTIMIZER), module, optimizers, average, str(folder / OPTIMIZER))
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """How far the run had come when the checkpoint was written."""
    return Progress.read(json.loads((folder / STATE).read_text()))


def _restore(
    tensors: Tensors | Mapping[str, Tensor], module: nn.Module, optimizers: Sequence[torch.optim.Optimizer],
    average: Average | None, source: str,
) -> None:  # fmt: skip
    parameters = dict(module.named_parameters())
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    torch.set_rng_state(tensors[RANDOM])
    averaged = {}
    for key in tensors:
        name, kind = key.split("#")
        if not name:
            continue
        if name not in parameters:
            raise CheckpointError(f"{source} belongs to another model: it has {name}")
        if kind == AVERAGE:
            averaged[name] = tensors[key]
        else:
            owners[id(parameters[name])].state[parameters[name]][kind] = tensors[key].clone()
    if average is not None and averaged:
        average.restore(averaged)
