"""How weights are called elsewhere: one table a dialect, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from danlu.base.weights import Tensors

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")

Rows = Any  # a tensor, or numpy's array of a matrix's rows as a file packs them
Change = Callable[[Rows, Any], Rows]  # rows and the model's configuration to the rows in another form


@dataclass(frozen=True, kw_only=True)
class Form:
    """Another form in which a dialect keeps a tensor; `part` of `parts` if several of ours are one there, along the first axis."""

    to_own: Change = lambda tensor, config: tensor
    to_foreign: Change = lambda tensor, config: tensor
    part: int = 0
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class Names:
    """One dialect's names: own module or parameter -> foreign one, {i} counting layers; weight and bias keep their endings.

    `forms` (keyed as the table) tell which are kept in another form; `prefix` may be missing from all foreign names;
    tensors whose names end in one of `ignored` are computed or tied and not read.
    """

    table: Mapping[str, str]
    forms: Mapping[str, Form] = field(default_factory=dict)
    prefix: str = ""
    ignored: tuple[str, ...] = ()

    def to_own(self, foreign: Tensors, own_names: Iterable[str], config: Any) -> dict[str, Tensor]:
        """The module's state dictionary from tensors under foreign names. Raises: CheckpointError if one is missing."""
        return {name: self.read(foreign, name, config) for name in own_names}

    def read(self, foreign: Tensors, own: str, config: Any) -> Rows:
        """One own tensor. Raises: CheckpointError if it is missing."""
        other, form = self.find(own)
        rows = form.to_own(foreign[self.bared(foreign, other)], config)
        if form.parts == 1:
            return rows
        size, left = divmod(rows.shape[0], form.parts)
        if left:
            raise ValueError(f"{other} came with {rows.shape[0]} rows; expected {form.parts} parts of one length")
        return rows[form.part * size : (form.part + 1) * size]

    def bared(self, foreign: Tensors, other: str) -> str:
        """A foreign name as these tensors have it: the prefix may be missing from all of them."""
        return other if not self.prefix or any(name.startswith(self.prefix) for name in foreign) else other.removeprefix(self.prefix)

    def to_foreign(self, own: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Tensors under foreign names from the module's state dictionary."""
        gathered: dict[str, list[tuple[int, Tensor, Form]]] = {}
        for name, tensor in own.items():
            other, form = self.find(name)
            gathered.setdefault(other, []).append((form.part, tensor, form))
        return {
            other: parts[0][2].to_foreign(
                parts[0][1] if len(parts) == 1 else torch.cat([part[1] for part in sorted(parts, key=_place)]), config
            )
            for other, parts in gathered.items()
        }

    def find(self, own: str) -> tuple[str, Form]:
        """The foreign name of an own parameter, and its form there."""
        layer = LAYER.search(own)
        pattern = LAYER.sub("{i}", own, count=1)
        module, _, ending = pattern.rpartition(".")
        if pattern in self.table:
            other, form = self.table[pattern], self.forms.get(pattern, Form())
        else:
            other, form = f"{self.table[module]}.{ending}", self.forms.get(module, Form())
        return other.replace("{i}", layer[0]) if layer else other, form

    def is_ignored(self, foreign: str) -> bool:
        """Whether a tensor that nothing asked for may be there all the same."""
        return foreign.endswith(self.ignored)


def _place(part: tuple[int, Tensor, Form]) -> int:
    return part[0]
