"""What a precision costs in quality: a text's perplexity, and how far the distributions are from those of float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from danlu.base.errors import ConfigError
from danlu.inference.backends import make_backend
from danlu.inference.paged import Paged
from danlu.inference.request import Limits
from danlu.kernels.packing import Precision
from danlu.kernels.steps import PAGE, StepWork
from danlu.models.loading import Loaded, Opened

WINDOW = 512  # tokens that are read together, each with those before it in its window


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """One precision beside float32, over all tokens of a text but the first of each window.

    kl_nats: mean of KL(float32 || precision) over positions; agreement: share of positions with the same likeliest token, 0 to 1.
    """

    precision: Precision
    perplexity: float
    perplexity_ratio: float
    kl_nats: float
    agreement: float
    tokens: int
    megabytes: float


def measure_fidelity(model: Opened | Loaded, ids: Sequence[int], precisions: Sequence[Precision], context: int = WINDOW) -> list[Fidelity]:
    """Float32 and each of `precisions` over the same windows of a text. Raises: ConfigError if the text is too short."""
    window = min(context, model.config.context_length)
    if len(ids) < 2:
        raise ConfigError(f"the text is {len(ids)} tokens long; expected at least 2")
    backends = {name: _paged(model, name) for name in dict.fromkeys(("float32", *precisions))}
    nats = dict.fromkeys(backends, 0.0)
    apart, same, count = dict.fromkeys(backends, 0.0), dict.fromkeys(backends, 0), 0
    for start in range(0, len(ids) - 1, window):
        part = list(ids[start : start + window])
        if len(part) < 2:
            break
        targets = torch.tensor(part[1:])[:, None]
        count += len(targets)
        reference = _logprobs(backends["float32"], part)
        for name, backend in backends.items():
            found = reference if name == "float32" else _logprobs(backend, part)
            nats[name] -= float(found.gather(1, targets).double().sum())
            apart[name] += float((reference.exp() * (reference - found)).sum(-1).double().sum())
            same[name] += int((reference.argmax(-1) == found.argmax(-1)).sum())
    for backend in backends.values():
        backend.close()
    return [
        Fidelity(
            precision=name,
            perplexity=math.exp(nats[name] / count),
            perplexity_ratio=math.exp((nats[name] - nats["float32"]) / count),
            kl_nats=apart[name] / count,
            agreement=same[name] / count,
            tokens=count,
            megabytes=backend.table.num_bytes / 1e6,
        )
        for name, backend in backends.items()
    ]


def _paged(model: Opened | Loaded, precision: Precision) -> Paged:
    backend = make_backend(model, Limits(cache_bytes=2**28), precision)
    if not isinstance(backend, Paged):
        raise ConfigError(f"{model.name} is of the family {model.family.name}, which answers in float32 alone; expected a decoder")
    return backend


@torch.inference_mode()
def _logprobs(backend: Paged, ids: Sequence[int]) -> torch.Tensor:
    """What each token but the last foretells, log-probabilities (T - 1, V)."""
    rows = len(ids) - 1
    work = StepWork(
        tokens=ids[:-1],
        positions=range(rows),
        part_rows=[rows],
        part_first_page=[0],
        pages=range(-(-rows // PAGE)),
        wanted=range(rows),
    )
    return backend.steps.step(work).logits.log_softmax(-1)
