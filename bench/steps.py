"""Training steps of a small GPT-2 beside transformers' and beside their own matrix products alone, taking turns.

python -m bench.steps [ROUNDS]

6 layers, width 384, 6 heads, vocabulary 8,192, context 256, 16 rows, AdamW, float32 on both sides, and Danlu in the numbers that it would
choose here. The ceiling: the time that the step's matrix products (two for each weight matrix on the way back) take alone, each at
its shape, in the same numbers, in the same round. All in one process whose memory is kept (base/memory.py), as Danlu trains: so
transformers and the products get theirs as quickly.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from danlu.base.device import Precision, choose_precision, computing_in
from danlu.base.memory import memory_kept
from danlu.data.batches import Batches
from danlu.models.gpt import GPT, GPTConfig
from danlu.nn.attention import AttentionConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.linear import for_weights, linear
from danlu.nn.norm import NormConfig
from danlu.training.checkpoint import Progress
from danlu.training.config import Extent, TrainingConfig
from danlu.training.loop import train_steps
from danlu.training.objective import NextToken
from danlu.training.optimizer import make_optimizers
from danlu.training.team import Team

LAYERS, WIDTH, HEADS, WORDS, CONTEXT, ROWS, STEPS = 6, 384, 6, 8192, 256, 16, 3
CPU = torch.device("cpu")


def danlus(precision: Precision) -> tuple[Callable[[], None], nn.Module]:
    """STEPS steps of the real loop on a GPT-2 of Danlu's."""
    torch.manual_seed(0)
    module = GPT(
        GPTConfig(
            vocabulary_size=WORDS, context_length=CONTEXT, width=WIDTH, num_layers=LAYERS,
            attention=AttentionConfig.biased(HEADS, WIDTH, causal=True),
            feedforward=FeedForwardConfig(hidden_width=4 * WIDTH, activation="gelu_tanh", gated=False, bias=True),
            norm=NormConfig(kind="layer", epsilon=1e-5), rotary=None,
        )
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(WORDS, size=ROWS * CONTEXT * 64)
    objective = NextToken(batches=Batches([ids], CONTEXT, ROWS, 0))
    config = TrainingConfig(rate=1e-4, batch_rows=ROWS, context_length=CONTEXT)
    optimizers, progress = make_optimizers(module, config), Progress(precision=precision)

    def steps() -> None:
        extent = Extent(steps=progress.step + STEPS)
        train_steps(module, optimizers, objective, config, extent, progress, Team(), lambda report: True)

    return steps, module


def theirs() -> Callable[[], None]:
    """The same number of transformers' steps."""
    torch.manual_seed(0)
    shape = {"vocab_size": WORDS, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    module = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def steps() -> None:
        for _ in range(STEPS):
            tokens = torch.randint(0, WORDS, (ROWS, CONTEXT))
            module(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def products(module: nn.Module, precision: Precision) -> Callable[[], None]:
    """The same number of steps' matrix products and nothing else: forward, for the input, for the weight."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    weights = [part.weight.detach().to(kind) for part in module.modules() if isinstance(part, nn.Linear)]
    weights.append(module.embedding.weight.detach().to(kind))  # tied: it scores words
    read = {weight.shape[1]: torch.randn(ROWS * CONTEXT, weight.shape[1]).to(kind) for weight in weights}
    given = {weight.shape[0]: torch.randn(ROWS * CONTEXT, weight.shape[0]).to(kind) for weight in weights}

    def steps() -> None:
        for _ in range(STEPS):
            for weight in weights:
                x, back = read[weight.shape[1]], given[weight.shape[0]]
                linear(x, weight)
                linear(back, weight.t())
                for_weights(back, x)

    return steps


@memory_kept()
def main() -> None:
    """Take turns and print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    chosen, _ = choose_precision("auto", CPU)
    sides: dict[str, Callable[[], None]] = {"transformers": theirs()}
    for precision in dict.fromkeys(("float32", chosen)):
        sides[precision], module = danlus(precision)  # type: ignore[arg-type]
        sides[f"products, {precision}"] = products(module, precision)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-1, rounds):  # one round to warm up
        for name, steps in sides.items():
            began = time.perf_counter()
            with computing_in("float32", CPU):
                steps()
            if round_ >= 0:
                times[name].append(time.perf_counter() - began)
    speed = {name: round(STEPS * ROWS * CONTEXT / statistics.median(found)) for name, found in times.items()}
    told: dict[str, object] = {"what": "GPT-2 shape, tokens a second", "medians": speed, "rounds": rounds}
    for precision in dict.fromkeys(("float32", chosen)):
        pairs = list(zip(times[precision], times["transformers"], times[f"products, {precision}"], strict=True))
        told[f"{precision}: times transformers"] = round(statistics.median(theirs / own for own, theirs, _ in pairs), 2)
        told[f"{precision}: share of the ceiling"] = round(statistics.median(alone / own for own, _, alone in pairs), 2)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
