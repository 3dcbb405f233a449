"""What a step of a decoder is: many sequences' new positions at once, over a cache in pages. Kernels and their twin both do it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from danlu.kernels.packing import Precision

PAGE = 16  # positions

# The numbers that keys and values are kept in, by the precision of weights.
CACHES: dict[Precision, Precision] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8", "int4": "int8"}
WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}  # bytes


def key_bytes(kind: Precision, head_dim: int) -> int:
    """Of one head's keys in a page; in 8 bits with a scale for each 16 channels of a key."""
    return PAGE * head_dim * WIDTHS[kind] + (4 * head_dim if kind == "int8" else 0)


def page_bytes(kind: Precision, head_dim: int) -> int:
    """Of one head's page: keys, then values; in 8 bits with a scale for each value."""
    return key_bytes(kind, head_dim) + PAGE * head_dim * WIDTHS[kind] + (4 * PAGE if kind == "int8" else 0)


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Rows are new positions, those of one sequence one behind the other as a part.

    `pages` lists the parts' pages from `part_first_page` on, each from its sequence's beginning; `wanted`, rising, are the rows whose
    logits are asked for. The last `read` rows, whole parts, are of prompts: where there are tiles they are computed by these.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    part_rows: Sequence[int]
    part_first_page: Sequence[int]
    pages: Sequence[int]
    wanted: Sequence[int]
    read: int = 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a step found at the wanted rows: logits (wanted, V), the likeliest tokens, and whether a row's numbers are all finite."""

    logits: Tensor
    likeliest: list[int]
    finite: list[int]


class Steps(ABC):
    """Computes steps over one cache. Shapes: cache (layers, kv heads, pages, page_bytes), uint8, laid out as native/attention.h says."""

    tiles = False  # whether rows of prompts are computed otherwise than those of answers

    @abstractmethod
    def step(self, work: StepWork) -> Found:
        """Compute the rows, keep their keys and values, and say what comes next at those wanted."""

    def close(self) -> None:
        """Give back what it holds."""
        return
