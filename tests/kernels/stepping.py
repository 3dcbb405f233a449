"""Small decoders of every shape that steps walk through, and prompts read by them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from danlu.inference.paged import Paged
from danlu.inference.request import Limits
from danlu.kernels import native
from danlu.kernels.packing import Precision
from danlu.kernels.steps import PAGE, Found, Steps, StepWork
from danlu.kernels.table import Table, make_table, weights_of
from danlu.kernels.twin import TwinSteps
from danlu.models.base import Inputs
from danlu.models.gpt import GPT, GPTConfig
from danlu.nn.attention import AttentionConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.norm import NormConfig
from danlu.nn.position import RotaryConfig

LLAMA = GPTConfig(
    vocabulary_size=96,
    context_length=80,
    width=64,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=32),
    feedforward=FeedForwardConfig(hidden_width=96),
    norm=NormConfig(kind="rms", epsilon=1e-6),
    rotary=RotaryConfig(base=10_000.0),
)
GPT2 = replace(
    LLAMA,
    attention=AttentionConfig.biased(4, 64, causal=True),
    feedforward=FeedForwardConfig(hidden_width=128, activation="gelu_tanh", gated=False, bias=True),
    norm=NormConfig(kind="layer", epsilon=1e-5),
    rotary=None,
)


def _attending(config: GPTConfig, **changes: Any) -> GPTConfig:
    return replace(config, attention=replace(config.attention, **changes))


def _feeding(config: GPTConfig, **changes: Any) -> GPTConfig:
    return replace(config, feedforward=replace(config.feedforward, **changes))


SHAPES: dict[str, GPTConfig] = {
    "llama": LLAMA,
    "llama-untied": replace(LLAMA, tied=False),
    "llama-all-bias": _feeding(_attending(LLAMA, input_bias=True, output_bias=True), bias=True),
    "llama-scaled": replace(LLAMA, rotary=RotaryConfig(scaling={"rope_type": "linear", "factor": 2.5})),
    "every-head-its-own": _attending(LLAMA, num_kv_heads=4),
    "fourteen-heads-for-one": _attending(LLAMA, num_heads=14, num_kv_heads=1, head_dim=16),  # more than are asked at once
    "odd-sizes": _feeding(replace(LLAMA, vocabulary_size=61, width=35, tied=False), hidden_width=41),
    "heads-of-64": _attending(LLAMA, num_heads=2, num_kv_heads=1, head_dim=64),
    "heads-of-80": _attending(LLAMA, num_heads=2, num_kv_heads=2, head_dim=80),
    "heads-of-128": _attending(LLAMA, num_heads=3, num_kv_heads=1, head_dim=128),
    "qwen2": _attending(LLAMA, input_bias=True),
    "qwen3": _attending(LLAMA, query_key_norm=True),
    "unscaled": _attending(LLAMA, scaled=False, query_key_norm=True),
    "gated-gelu": _feeding(LLAMA, activation="gelu", hidden_width=50),
    "gpt2": GPT2,
    "gpt2-gelu": _feeding(GPT2, activation="gelu", hidden_width=50),
    "gpt2-relu": replace(_feeding(GPT2, activation="relu"), vocabulary_size=101, tied=False),
    "gpt2-silu": _feeding(GPT2, activation="silu"),
}


def decoder(config: GPTConfig, seed: int = 0) -> GPT:
    """A model in which every weight, bias and norm counts."""
    torch.manual_seed(seed)
    module = GPT(config)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() == 1:
                weight.copy_(0.2 * torch.randn(len(weight)) + ("norm" in name and name.endswith("weight")))
            else:
                weight.copy_(torch.randn(weight.shape) / weight.shape[1] ** 0.5)
    return module.eval().requires_grad_(False)


def table_of(module: GPT, precision: Precision) -> Table:
    return make_table(module.config, weights_of(module), precision)


def empty_cache(table: Table) -> Tensor:
    """A cache of more pages than the prompts below need."""
    backend = Paged(table, Limits(sequences=16), threads=1)
    backend.close()
    return backend.cache


def steps_of(table: Table, library: Any, threads: int = 1) -> Steps:
    """Steps over a cache of their own: a build's, or (without a library) those of the twin."""
    cache = empty_cache(table)
    return TwinSteps(table, cache) if library is None else native.NativeSteps(table, cache, threads, library)


@dataclass
class Reader:
    """One sequence on its way through steps."""

    ids: Sequence[int]
    pages: Sequence[int]
    done: int = 0


def prompts_of(config: GPTConfig, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(config.vocabulary_size) for _ in range(length)] for length in lengths]


def readers_of(prompts: Sequence[Sequence[int]], num_pages: int, seed: int = 0) -> list[Reader]:
    """Readers whose pages lie in no order."""
    free = random.Random(seed).sample(range(num_pages), num_pages)
    return [Reader(ids, [free.pop() for _ in range(-(-len(ids) // PAGE))]) for ids in prompts]


def step(steps: Steps, parts: Sequence[tuple[Reader, int]], wanted: Sequence[int] | None = None, prompts: int = 0) -> Found:
    """Read the next tokens of some readers, the last `prompts` of them as prompts; logits of all rows, or of those wanted."""
    work: dict[str, list[int]] = {name: [] for name in ("tokens", "positions", "part_rows", "part_first_page", "pages")}
    for reader, count in parts:
        work["tokens"] += reader.ids[reader.done : reader.done + count]
        work["positions"] += range(reader.done, reader.done + count)
        work["part_rows"].append(count)
        work["part_first_page"].append(len(work["pages"]))
        work["pages"] += reader.pages
        reader.done += count
    rows = sum(count for _, count in parts[len(parts) - prompts :])
    return steps.step(StepWork(**work, wanted=range(len(work["tokens"])) if wanted is None else wanted, read=rows))


def read(steps: Steps, readers: Sequence[Reader], chunk: int = 1000) -> list[Tensor]:
    """All readers side by side to their ends, each by a chunk of its own size; logits (T, V) of each."""
    found: list[list[Tensor]] = [[] for _ in readers]
    while any(reader.done < len(reader.ids) for reader in readers):
        parts = [
            (number, reader, min(chunk + number, len(reader.ids) - reader.done))
            for number, reader in enumerate(readers)
            if reader.done < len(reader.ids)
        ]
        logits = step(steps, [(reader, count) for _, reader, count in parts]).logits
        for (number, *_), part in zip(parts, logits.split([count for *_, count in parts]), strict=True):
            found[number].append(part)
    return [torch.cat(parts) for parts in found]


@torch.inference_mode()
def by_module(module: GPT, ids: Sequence[int]) -> Tensor:
    """Logits (T, V) of a full pass."""
    return module.logits(module(Inputs(tokens=torch.tensor([list(ids)]))))[0]
