"""Which numbers a model answers in, and what computes them."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from danlu.base.errors import ConfigError
from danlu.base.memory import memory_returned
from danlu.inference.backend import Backend
from danlu.inference.padded import Padded
from danlu.inference.paged import Paged
from danlu.inference.request import Limits
from danlu.kernels import native
from danlu.kernels.packing import PRECISIONS, Precision, Quantised, from_gguf, widened
from danlu.kernels.table import Weight, can_walk, make_table, weights_of
from danlu.models.loading import Loaded, Opened

LARGE = 20_000_000  # weights from which 8 bits are worth it: below, products are not what a step waits for
FOUR_BITS = ("Q4_0", "Q4_1")


def choose_numbers(model: Opened | Loaded, wish: str = "auto") -> tuple[Precision, str]:
    """The numbers that a model's weights are kept and multiplied in, and why.

    Raises: ConfigError if the wish is none of auto and PRECISIONS, or the model's family answers in float32 alone.
    """
    check_precision(wish)
    if not can_walk(model.config):
        if wish not in ("auto", "float32"):
            what = f"{model.name}, of the family {model.family.name},"
            raise ConfigError(f"{what} has no shape that the kernels know and answers in float32; leave --precision {wish} out")
        return "float32", f"this shape of the family {model.family.name} is computed by its module"
    if wish != "auto":
        return wish, "as asked"  # type: ignore[return-value]
    if native.found() is None:
        return "float32", "no kernels were built here"
    if isinstance(model, Opened) and any(kind in FOUR_BITS for kind in model.tensors.kinds.values()):
        return "int4", "the file's own 4-bit weights, kept as they are"
    shapes = model.shapes if isinstance(model, Opened) else {name: tuple(p.shape) for name, p in model.module.named_parameters()}
    count = sum(map(prod, shapes.values()))
    if count >= LARGE:
        return "int8", f"a quarter of float32's memory for {count / 1e6:.0f} million weights"
    return "float32", f"{count / 1e6:.1f} million weights are few"


def check_precision(wish: str) -> None:
    """Raises: ConfigError if a precision is none of auto and PRECISIONS."""
    if wish not in ("auto", *PRECISIONS):
        raise ConfigError(f"--precision came as {wish!r}; expected auto, {', '.join(PRECISIONS)}")


def make_backend(model: Opened | Loaded, limits: Limits, precision: Precision, threads: int | None = None) -> Backend:
    """What computes a model's answers: kernels over pages for decoders, the module itself for all others."""
    if can_walk(model.config) and (native.found() is not None or precision != "float32"):
        weight = weights_of(model.module) if isinstance(model, Loaded) else _weights_in(model, precision)
        with memory_returned():  # packing takes more room than what is packed
            table = make_table(model.config, weight, precision)
        if isinstance(model, Opened):
            model.check_left()
        return Paged(table, limits, threads)
    return Padded((model.filled() if isinstance(model, Opened) else model).module, limits)


def paged(module: Any, limits: Limits | None = None, precision: Precision = "float32", threads: int | None = None) -> Paged:
    """The kernels' backend for a decoder in memory."""
    return Paged(make_table(module.config, weights_of(module), precision), limits or Limits(), threads)


def _weights_in(model: Opened, precision: Precision) -> Weight:
    """Weights where they lie; matrices that are packed as the kernels can read them stay as they are, where the precision allows."""

    def weight(name: str) -> torch.Tensor | Quantised | None:
        if name not in model.shapes:
            return None
        lying = model.packed(name) if precision in ("int8", "int4") else None
        kept = None if lying is None else from_gguf(*lying)
        if kept is None or kept.shape != model.shapes[name]:
            return model.weight(name)
        return widened(kept) if precision == "int8" else kept

    return weight
