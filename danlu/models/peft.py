"""An adapter on disk, in the format of the peft library: what was learnt beside a base, and what that base was.

adapter_config.json and adapter_model.safetensors are peft's own; danlu_adapter.json beside them says what peft does not ask: the SHA-256
of the base's weights, and the head if the base has another.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.base.errors import CheckpointError
from danlu.base.storage import write_whole
from danlu.base.weights import Tensors, open_file, save_safetensors
from danlu.models.base import Family, Head
from danlu.models.naming import Names
from danlu.nn.lora import LoRALinear, adapted, is_added, projections, put

CONFIG, WEIGHTS, OWN = "adapter_config.json", "adapter_model.safetensors", "danlu_adapter.json"
PREFIX = "base_model.model."
FORMAT = 1
CLASSES = "classifier"  # what peft takes as a whole, of however many layers it is
TASKS = {"classes": "SEQ_CLS", "labels": "TOKEN_CLS", "spans": "QUESTION_ANS"}

# Settings of peft that change what is computed, and the only values that are understood.
FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "use_dora": (False, None), "lora_bias": (False, None), "layer_replication": (None,),
    "target_parameters": (None, []), "trainable_token_indices": (None, [], {}), "use_bdlora": (False, None), "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []), "arrow_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),  # others change the base's own matrices
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Where an adapter comes from. `whole` are parameters that are not the base's but its own, such as a new head's.

    `base` is the base's name as it was given, `place` where it then was; `base_sha256` is over the weights that are the base's, and
    empty for an adapter that peft wrote. `head` is None where the base's own is kept.
    """

    base: str
    place: str = ""
    base_sha256: str = ""
    rank: int = 8
    alpha: float = 16.0
    head: Head | None = None
    whole: tuple[str, ...] = ()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> tuple[Adapter, Mapping[str, Any]]:
    """An adapter's origin, and peft's settings. Raises: CheckpointError if it is damaged, or peft did what is not understood."""
    settings, own = _read(folder / CONFIG), _read(folder / OWN) if (folder / OWN).is_file() else {}
    for name, known in FIXED.items():
        if settings.get(name, known[0]) not in known:
            raise CheckpointError(f"{folder / CONFIG} came with {name} = {settings[name]!r}; this version knows {known[0]!r} only")
    try:
        head = own.get("head")
        return Adapter(
            base=str(own.get("base") or settings.get("base_model_name_or_path") or ""),
            place=str(settings.get("base_model_name_or_path") or ""),
            base_sha256=str(own.get("base_sha256", "")),
            rank=int(settings["r"]),
            alpha=float(settings["lora_alpha"]),
            head=None if head is None else Head(**head | {"names": tuple(head["names"])}),
            whole=tuple(own.get("whole", ())),
        ), settings
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} holds a damaged adapter ({error!r}); fetch or train it again") from None


def write_adapter(module: nn.Module, family: Family, adapter: Adapter, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapter of a module into a folder that nobody reads yet; `weights` instead of the module's, if given."""
    config: Any = module.config
    names = family.names(config)
    values = dict(module.named_parameters()) if weights is None else weights
    tensors, parts = _to_foreign(values, names)
    bare = getattr(config, "head", ...) is None  # as transformers' model without a head, whose names have no prefix
    kept = {name: tensor for name, tensor in values.items() if name in adapter.whole}
    whole = names.to_foreign(kept, config)
    named = {f"{PREFIX}{name.removeprefix(names.prefix) if bare else name}": tensor for name, tensor in (tensors | whole).items()}
    targets = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    several = {_target(name, names): parts[name] for name in sorted(parts) if parts[name] > 1}
    settings = {
        "peft_type": "LORA",
        "task_type": _task(family, config),
        "base_model_name_or_path": adapter.place or adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": family.write_config(config).get("model_type") == "gpt2",  # whose matrices are kept turned
        "target_modules": sorted({_target(name, names) for name in targets}),
        "rank_pattern": {target: adapter.rank * count for target, count in several.items()},
        "alpha_pattern": {target: adapter.alpha * count for target, count in several.items()},
        "modules_to_save": sorted({CLASSES if name.startswith(f"{CLASSES}.") else name.rpartition(".")[0] for name in whole}) or None,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
    }
    head = None if adapter.head is None else asdict(adapter.head)
    own = {"format": FORMAT, "base": adapter.base, "base_sha256": adapter.base_sha256, "head": head, "whole": adapter.whole}
    save_safetensors(named, folder / WEIGHTS)
    write_whole(folder / CONFIG, json.dumps(settings, indent=2, ensure_ascii=False).encode())
    write_whole(folder / OWN, json.dumps(own, indent=2, ensure_ascii=False).encode())


@torch.no_grad()
def fill(module: nn.Module, names: Names, settings: Mapping[str, Any], folder: Path, in_place: bool = False) -> None:
    """Set an adapter's matrices beside a module's layers, or into those that are there, and its own weights in place of the base's.

    The base's tensors stay as they are, since others may share them; `in_place` writes into those that the adapter has of its own.
    Raises: CheckpointError if they do not fit.
    """
    tensors: Tensors = open_file(folder / WEIGHTS)
    if not tensors:
        raise CheckpointError(f"{folder / WEIGHTS} is empty; fetch or train the adapter again")
    layers: dict[str, nn.Linear | LoRALinear] = dict(projections(module)) | dict(adapted(module))
    rests = {name.removeprefix(PREFIX) for name in tensors}
    bare = bool(names.prefix) and not any(name.startswith(names.prefix) for name in rests)

    def find(own: str) -> tuple[str, Any]:
        other, form = names.find(own)
        return PREFIX + (other.removeprefix(names.prefix) if bare else other), form

    for own, layer in layers.items():
        other, form = find(f"{own}.weight")
        other = other.removesuffix(".weight")
        if f"{other}.lora_A.weight" not in tensors:
            continue
        down, up = (tensors[f"{other}.lora_{side}.weight"].float() for side in "AB")
        scale = _alpha(settings, other.removeprefix(PREFIX)) / (math.sqrt(len(down)) if settings.get("use_rslora") else len(down))
        down, up = _part(down, up, form.part, form.parts)
        if not isinstance(layer, LoRALinear):
            layer = LoRALinear(layer, len(down), scale * len(down))
            put(module, own, layer)
        if down.shape != (up.shape[1], layer.weight.shape[1]) or len(up) != len(layer.weight) or down.shape != layer.lora_A.shape:
            raise CheckpointError(
                f"{folder}: the adapter of {own} came with shapes {tuple(down.shape)} and {tuple(up.shape)}, "
                f"expected those of a layer of {tuple(layer.weight.shape)} and rank {len(layer.lora_A)}"
            )
        layer.lora_A.copy_(down)
        layer.lora_B.copy_(up)
    for own, parameter in list(module.named_parameters()):
        other, form = find(own)
        if is_added(own) or other not in tensors:
            continue
        value = form.to_own(tensors[other], getattr(module, "config", None))
        if value.shape != parameter.shape:
            raise CheckpointError(f"{folder}: {own} came with shape {tuple(value.shape)}, expected {tuple(parameter.shape)}")
        if in_place:
            parameter.copy_(value)
        else:
            owner, _, last = own.rpartition(".")
            setattr(module.get_submodule(owner), last, nn.Parameter(value.float().clone()))
    if left := sorted(set(tensors) - tensors.used):
        raise CheckpointError(f"{folder / WEIGHTS} holds tensors for which this base has no place: {', '.join(left[:3])}")


def _task(family: Family, config: Any) -> str | None:
    """What peft calls the model's task; it has no word for guessing hidden words."""
    if family.pretraining != "masked-words":
        return "CAUSAL_LM" if family.pretraining == "next-token" else "SEQ_2_SEQ_LM"
    return "FEATURE_EXTRACTION" if config.head is None else TASKS.get(config.head.kind)


def _to_foreign(values: Mapping[str, Tensor], names: Names) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The two matrices of each foreign layer; several of ours that are one there stand beside each other, in blocks."""
    gathered: dict[str, list[tuple[int, str]]] = {}
    for own in (name.removesuffix(".lora_A") for name in values if name.endswith(".lora_A")):
        other, form = names.find(f"{own}.weight")
        gathered.setdefault(other.removesuffix(".weight"), []).append((form.part, own))
    tensors = {}
    for other, layers in gathered.items():
        ordered = [own for _, own in sorted(layers)]
        tensors[f"{other}.lora_A.weight"] = torch.cat([values[f"{own}.lora_A"].detach() for own in ordered])
        tensors[f"{other}.lora_B.weight"] = torch.block_diag(*(values[f"{own}.lora_B"].detach() for own in ordered))
    return tensors, {other: len(layers) for other, layers in gathered.items()}


def _part(down: Tensor, up: Tensor, part: int, parts: int) -> tuple[Tensor, Tensor]:
    """One of several layers' own matrices: its block where there are blocks, else all of A, which they share, with its rows of B."""
    if parts == 1 or len(up) % parts:
        return down, up
    rank, rows = len(down) // parts, up.chunk(parts)
    apart = len(down) % parts == 0 and all(
        not block.any() for i, row in enumerate(rows) for j, block in enumerate(row.split(rank, 1)) if i != j
    )
    if not apart:
        return down, rows[part]
    return down[part * rank : (part + 1) * rank], rows[part][:, part * rank : (part + 1) * rank]


def _target(name: str, names: Names) -> str:
    """How peft finds a layer: by its last name, or as much more as other layers do not end in."""
    pieces = name.split(".")
    adaptable = ("query", "key", "value", "output", "gate", "up", "down")
    others = [other for own, other in names.table.items() if own.rpartition(".")[2] not in adaptable]
    for count in range(1, len(pieces)):
        ending = ".".join(pieces[-count:])
        if not any(f".{other}".endswith(f".{ending}") for other in others):
            return ending
    return name


def _alpha(settings: Mapping[str, Any], name: str) -> float:
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", name)  # as peft looks for it
        except re.error as error:
            raise CheckpointError(f"{CONFIG}: alpha_pattern came with {pattern!r}, which is no regular expression ({error})") from None
        if found:
            return float(alpha)
    return float(settings["lora_alpha"])


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); fetch or train the adapter again") from None
