"""Which of a model's weights learn: all, its last part, or two thin matrices beside the others, which stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from danlu.base.errors import ConfigError
from danlu.data.examples import Kind
from danlu.models.adapters import add_lora, base_digest
from danlu.models.loading import Loaded, locate
from danlu.models.peft import Adapter, is_adapter
from danlu.nn.lora import adapted, is_added
from danlu.training.config import Options

# Times the rate at which a model's weights go on learning text; measured: bench/rates.py, docs/experiments.md.
FRESH_HEAD: dict[Kind, float] = {"classify": 2.0, "regress": 2.0, "label": 3.0, "span": 3.0}  # kinds that a head of fresh weights answers
HEAD_RATE = 50.0  # on top of that, where nothing else learns
LORA_RATE, LORA_BESIDE_HEAD = 10.0, 15.0  # on top of that, for two thin matrices. Source: Schulman et al. 2025, "LoRA without regret": ten
ANSWERS = ("classes_dense", "classes", "labels", "spans")  # heads of tasks: they learn beside lora, as in peft
HEADS = ("head", "bias", "words", "next_sentence", "pooler", *ANSWERS)


def adapt(loaded: Loaded, wish: Options) -> Loaded:
    """The model with those weights frozen that are not to learn, and an adapter where one was asked for.

    Raises: ConfigError if it has no layers to adapt, or fewer blocks than asked.
    """
    if wish.adapt == "all":
        return loaded
    module: Any = loaded.module
    if wish.adapt == "lora":
        if is_adapter(locate(loaded.name)):
            raise ConfigError(
                f"{loaded.name} is an adapter itself, and others could not tell over what a second one stands; "
                f"write it merged first: danlu export {loaded.name} --format hf --out FOLDER"
            )
        add_lora(module, wish.lora_rank, wish.lora_alpha)
        if not any(adapted(module)):
            raise ConfigError(f"{loaded.name} has no attention, whose matrices --adapt lora works beside; use --adapt last:N or head")
        answers = {name for name, _ in module.named_parameters() if name.partition(".")[0] in ANSWERS}
        whole = tuple(sorted(answers | set(loaded.fresh)))
        _learn_only(module, lambda name: is_added(name) or name in whole)
        adapter = Adapter(
            base=loaded.name,
            place=str(loaded.path.resolve()) if loaded.path.exists() else loaded.name,
            base_sha256=base_digest(module, whole),
            rank=wish.lora_rank,
            alpha=wish.lora_alpha,
            head=loaded.config.head if loaded.fresh else None,
            whole=whole,
        )
        return replace(loaded, adapter=adapter)
    learning = head_names(module) | set(loaded.fresh)
    if wish.adapt != "head":
        learning |= _last_names(module, int(wish.adapt.removeprefix("last:")))
    _learn_only(module, lambda name: name in learning)
    return loaded


def rate_factor(adapt: str, kind: Kind | None, blocks: int) -> float:
    """How many times the rate of all weights on text is right for this way of adapting; `kind` is a task's, None that of text.

    Where some of the blocks learn, the rate is as many times larger as they are fewer.
    """
    factor = 1.0 if kind is None else FRESH_HEAD.get(kind, 1.0)
    if adapt == "lora":
        return factor * (LORA_BESIDE_HEAD if kind in FRESH_HEAD else LORA_RATE)
    if kind in FRESH_HEAD and adapt == "head":
        return HEAD_RATE * factor
    if kind in FRESH_HEAD and adapt != "all":
        return factor * max(1.0, blocks / int(adapt.removeprefix("last:")))
    return factor


def head_names(module: nn.Module) -> set[str]:
    """The parameters of a model's head; the embedding where it has no other."""
    found = {name for name, _ in module.named_parameters() if name.partition(".")[0] in HEADS}
    return found if any(name.endswith("weight") for name in found) else found | {"embedding.weight"}


def _last_names(module: Any, count: int) -> set[str]:
    """The parameters of the last blocks, in an encoder-decoder the decoder's, and of the norm behind them."""
    side = "decoder." if hasattr(module, "decoder") else ""
    owner = module.decoder if side else module
    kind = "blocks" if hasattr(owner, "blocks") else "layers"
    blocks = len(getattr(owner, kind))
    if count > blocks:
        raise ConfigError(f"--adapt came as last:{count}; the model has {blocks} blocks")
    begins = (f"{side}norm.", *(f"{side}{kind}.{index}." for index in range(blocks - count, blocks)))
    return {name for name, _ in module.named_parameters() if name.startswith(begins)}


def _learn_only(module: nn.Module, learns: Any) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(learns(name))
