"""How the next token is drawn: every parameter is one field here, with its bounds, its words and its transform.

The command line's flags (`spread`), the HTTP fields (server/schema.py) and the engine all derive from these fields.
The transforms act in the order of the fields.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.base.errors import RequestError
from danlu.base.options import option
from danlu.kernels import native

MOST_ANSWERS = 16
MOST_ALTERNATIVES = 20
MOST_STOPS = 16
MOST_STOP_LENGTH = 256
MOST_BIASES = 1024
NEGLIGIBLE = 25.0  # nats below the likeliest: all such tokens together have less than a millionth of the probability
COLDEST = 1e-5  # below this temperature the division overflows float32, and the best token has all the probability anyway

Transform = Callable[[Tensor, Any, Sequence[int]], Tensor]
Check = Callable[[str, Any], Any]


class Parameter(NamedTuple):
    """What one field of Sampling carries beside its value and its words."""

    check: Check
    neutral: Any
    transform: Transform | None


def parameter(default: Any, meaning: str, check: Check, transform: Transform | None = None, *, flag: bool = True) -> Any:
    """One sampling parameter; while it has its default value the transform is left out."""
    return option(default, meaning, flag=flag, parameter=Parameter(check, default, transform))


def number(least: float, most: float) -> Check:
    """A finite number between two bounds."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise RequestError(f"{name} came as {told(value)}; expected a number from {least:g} to {most:g}", param=name)
        return float(value)

    return check


def whole(least: int, most: int) -> Check:
    """An integer between two bounds."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise RequestError(f"{name} came as {told(value)}; expected a whole number from {least} to {most}", param=name)
        return value

    return check


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return lambda name, value: None if value is None else check(name, value)


def strings(name: str, value: Any) -> tuple[str, ...]:
    """A few short stop strings, or one."""
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise RequestError(f"{name} came as {told(value)}; expected a string or a list of strings, none of them empty", param=name)
    if len(value) > MOST_STOPS or any(len(item) > MOST_STOP_LENGTH for item in value):
        raise RequestError(
            f"{name} came with {len(value)} strings, the longest of {max(map(len, value))} characters; "
            f"expected at most {MOST_STOPS} of at most {MOST_STOP_LENGTH}",
            param=name,
        )
    return tuple(value)


def biases(name: str, value: Any) -> dict[int, float]:
    """Token ids (as integers, or strings as JSON has them) with what is added to their logits."""
    if not isinstance(value, Mapping) or len(value) > MOST_BIASES:
        raise RequestError(f"{name} came as {told(value)}; expected at most {MOST_BIASES} pairs of token id and number", param=name)
    checked = {}
    for key, bias in value.items():
        digits = str(key)
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise RequestError(f"{name} came with the key {told(key)}; expected token ids", param=name)
        checked[int(digits)] = number(-100, 100)(name, bias)
    return checked


def yes_or_no(name: str, value: Any) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise RequestError(f"{name} came as {told(value)}; expected true or false", param=name)
    return value


def told(value: Any) -> str:
    """A value as an error message shows it: short, on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a very long number"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def add_bias(logits: Tensor, value: Mapping[int, float], _history: Sequence[int]) -> Tensor:
    return logits.index_add(0, torch.tensor(list(value)), torch.tensor(list(value.values()), dtype=logits.dtype))


def penalise_presence(logits: Tensor, value: float, history: Sequence[int]) -> Tensor:
    seen = torch.tensor(sorted(set(history)), dtype=torch.long)
    return logits.index_add(0, seen, torch.full((len(seen),), -value, dtype=logits.dtype))


def penalise_frequency(logits: Tensor, value: float, history: Sequence[int]) -> Tensor:
    counts = Counter(history)
    return logits.index_add(
        0, torch.tensor(list(counts), dtype=torch.long), -value * torch.tensor(list(counts.values()), dtype=logits.dtype)
    )


def apply_temperature(logits: Tensor, value: float, _history: Sequence[int]) -> Tensor:
    return (logits - logits.max()) / max(value, COLDEST)


def keep_top_k(logits: Tensor, value: int, _history: Sequence[int]) -> Tensor:
    least = logits.topk(min(value, len(logits))).values[-1]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, value: float, _history: Sequence[int]) -> Tensor:
    """Keep the fewest likeliest tokens that hold the share `value`, and those as likely as the last of them.

    Source: Holtzman et al. 2020, arXiv:1904.09751.
    """
    probabilities = logits.softmax(-1)
    count = min(256, len(logits))  # few tokens hold nearly everything: sorting all of a large vocabulary costs milliseconds
    while True:
        top, order = probabilities.topk(count)
        before = top.cumsum(-1) - top
        if count == len(logits) or before[-1] >= value:
            break
        count = min(count * 8, len(logits))
    kept = before < value
    kept[0] = True
    return logits.masked_fill(logits < logits[order[kept]].min(), -math.inf)


def keep_min_p(logits: Tensor, value: float, _history: Sequence[int]) -> Tensor:
    """Keep tokens at least `value` times as likely as the likeliest. Source: Nguyen et al. 2024, arXiv:2407.01082."""
    return logits.masked_fill(logits < logits.max() + math.log(value), -math.inf)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request is to be answered.

    Raises: RequestError naming the field if a value is out of bounds.
    """

    max_tokens: int | None = parameter(128, "most new tokens; none: until the context ends", optional(whole(0, 2**31 - 1)))
    n: int = parameter(1, "number of answers", whole(1, MOST_ANSWERS))
    seed: int | None = parameter(None, "same seed, same answer", optional(whole(-(2**63), 2**63 - 1)))
    stop: tuple[str, ...] = parameter((), "text that ends the answer, not part of it; may be given several times", strings)
    logprobs: int | None = parameter(
        None, "report log-probabilities, and those of so many likeliest tokens", optional(whole(0, MOST_ALTERNATIVES)), flag=False
    )
    prompt_logprobs: bool = parameter(False, "report the log-probabilities of the prompt's tokens too", yes_or_no, flag=False)
    logit_bias: Mapping[int, float] = parameter({}, "added to the logits of tokens by id", biases, add_bias, flag=False)
    presence_penalty: float = parameter(0.0, "taken from the logits of tokens already in the answer", number(-2, 2), penalise_presence)
    frequency_penalty: float = parameter(0.0, "the same, for each time a token occurs", number(-2, 2), penalise_frequency)
    temperature: float = parameter(1.0, "0: always the likeliest token; higher: more surprise", number(0, 100), apply_temperature)
    top_k: int = parameter(0, "draw among so many likeliest tokens; 0: all", whole(0, 2**31 - 1), keep_top_k)
    top_p: float = parameter(1.0, "draw among the likeliest tokens that hold this share of the probability", number(0, 1), keep_top_p)
    min_p: float = parameter(0.0, "leave out tokens less likely than this times the likeliest", number(0, 1), keep_min_p)

    def __post_init__(self) -> None:
        for name, told_of in parameters().items():
            object.__setattr__(self, name, told_of.check(name, getattr(self, name)))

    def transforms(self) -> list[tuple[Transform, Any]]:
        """The transforms that have something to do, with their values, in the order of the fields."""
        values = ((told_of, getattr(self, name)) for name, told_of in parameters().items())
        return [(told_of.transform, value) for told_of, value in values if told_of.transform is not None and value != told_of.neutral]


@functools.cache
def parameters() -> dict[str, Parameter]:
    """Every sampling parameter by name, in order."""
    return {field.name: field.metadata["parameter"] for field in dataclasses.fields(Sampling)}


LIMITS = (apply_temperature, keep_top_k, keep_top_p, keep_min_p)


class Sampler:
    """Draws one answer's tokens; its draws depend on nothing but the request, its seed and the answer's number."""

    def __init__(self, sampling: Sampling, seed: int, index: int) -> None:
        self.sampling, self.greedy = sampling, sampling.temperature < COLDEST
        self.changes = [pair for pair in sampling.transforms() if pair[0] not in LIMITS]
        self.random = random.Random(f"{seed}/{index}")

    def choose(self, logits: Tensor, history: Sequence[int]) -> int:
        """Draw one token from logits (V,); `history` are the answer's tokens so far."""
        for transform, value in self.changes:
            logits = transform(logits, value, history)
        if self.greedy:
            return int(logits.argmax())
        how, key = self.sampling, self.random.getrandbits(63)
        if native.found() is None:
            return draw(logits, key, how)
        return native.draw(logits, key, how.temperature, how.top_k, how.top_p, how.min_p)


def draw(logits: Tensor, key: int, how: Sampling) -> int:
    """What the kernel draws (native/drawing.h), in PyTorch's operations."""
    for transform, value in how.transforms():
        if transform in LIMITS:
            logits = transform(logits, value, ())
    candidates = (logits > logits.max() - NEGLIGIBLE).nonzero()[:, 0]
    waits = exponentials(key, candidates)
    return int(candidates[(logits[candidates] - waits.log()).argmax()])


def exponentials(key: int, tokens: Tensor) -> Tensor:
    """One exponentially distributed number for each token, the same whatever other tokens are asked for.

    The token with the least wait / probability is then drawn with that probability. Unlike one number looked up among
    cumulated probabilities, this hardly ever turns out otherwise when logits differ in their last bits or top_p keeps one
    token more: answers stay the same amid other neighbours.
    Shapes: tokens (N,), int64 -> (N,).
    Source: Gumbel 1954; Steele et al. 2014, doi:10.1145/2714064.2660195 (SplitMix64).
    """
    mixed = tokens * _signed(0x9E3779B97F4A7C15) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    uniform = ((mixed >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53).float()
    return -torch.log1p(-uniform.clamp(max=1 - 2.0**-24))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
