"""An adapter over a base: twins that share the base's weights, and whether it is the base that the adapter was trained over."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from torch import nn

from danlu.base.errors import CheckpointError
from danlu.models.peft import Adapter
from danlu.nn.lora import LoRALinear, adapted, is_added, projections, put

Module = TypeVar("Module", bound=nn.Module)


def add_lora(module: nn.Module, rank: int, alpha: float) -> None:
    """Set two fresh matrices beside every projection of attention and feed-forward layers."""
    for name, linear in projections(module):
        put(module, name, LoRALinear(linear, rank, alpha))


def merge(module: nn.Module) -> None:
    """Add every adapter to its layer's own matrix, so that it costs no time."""
    for name, layer in adapted(module):
        put(module, name, layer.merged())


def twin(module: Module) -> Module:
    """A module of its own over the same tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def base_digest(module: nn.Module, whole: Collection[str] = ()) -> str:
    """SHA-256 over the names, shapes and values of a module's weights, without what an adapter brought (`whole` names its own)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if not is_added(name) and name not in whole:
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            digest.update(parameter.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def check_base(module: nn.Module, name: str, adapter: Adapter, folder: Path) -> None:
    """Raises: CheckpointError if a base is not the one that an adapter was trained over, as far as the adapter says which."""
    if adapter.base_sha256 and base_digest(module, adapter.whole) != adapter.base_sha256:
        raise CheckpointError(
            f"{folder} was trained over {adapter.base}, and {name} has other weights (or has changed since); "
            f"give the base that it was trained over, whose weights have the SHA-256 {adapter.base_sha256[:16]}..."
        )
