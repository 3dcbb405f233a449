"""What running sequences remember, one row each: keys and values, kept side by side so that a step works on slices, or one state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

COLUMNS = 256  # the least length of a row; lengths double from here


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """What one model needs of a cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @property
    def bytes_per_token(self) -> int:
        """Float32 keys and values of all layers at one position."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * 4


class Cache:
    """Preallocated, growable rows of keys and values for every layer.

    Shapes: per layer keys and values (rows, K, columns, E). Memory that no token has touched costs no pages.
    """

    pads = True  # what stands behind a row's end is seen by nobody

    def __init__(self, shape: CacheShape, most_tokens: int) -> None:
        self.shape, self.most_tokens = shape, most_tokens
        self.rows = self.columns = 0
        self.broken = False  # memory ran out amid growing: layers disagree, and nothing in here can be used
        self.layers = [LayerRows(shape) for _ in range(shape.num_layers)]

    def fits(self, rows: int, columns: int) -> bool:
        """Whether so many rows of that length stay within the limit."""
        return rows * columns <= self.most_tokens

    def reserve(self, rows: int, columns: int, lengths: Sequence[int]) -> None:
        """Make room for `rows` rows of `columns` positions, keeping the first `lengths[i]` positions of each row in use."""
        if rows <= self.rows and columns <= self.columns:
            return
        wide = max(COLUMNS, self.columns if columns <= self.columns else 1 << (columns - 1).bit_length())
        high = self.rows if rows <= self.rows else 1 << (rows - 1).bit_length()
        if not self.fits(high, wide):
            high, wide = rows, min(wide, max(columns, self.most_tokens // rows))
        self._resize(high, wide, lengths)

    def release(self) -> None:
        """Give the memory back; nothing may be in use."""
        self._resize(0, 0, [])

    def _resize(self, rows: int, columns: int, lengths: Sequence[int]) -> None:
        self.rows, self.columns, self.broken = rows, columns, True
        for layer in self.layers:
            layer.resize(rows, columns, lengths)
        self.broken = False

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of one row to another."""
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def swap(self, first: int, second: int, length: int) -> None:
        """Exchange the first positions of two rows."""
        for layer in self.layers:
            for store in (layer.keys, layer.values):
                kept = store[first, :, :length].clone()
                store[first, :, :length] = store[second, :, :length]
                store[second, :, :length] = kept

    def clear(self, row: int) -> None:
        """Forget a row whose numbers went wrong: what is left in it must not reach the next sequence there."""
        for layer in self.layers:
            layer.keys[row] = 0
            layer.values[row] = 0

    def view(self, rows: Sequence[int], starts: Sequence[int], new: int) -> list[LayerView]:
        """One step's caches: `new` positions are stored from `starts[i]` on in `rows[i]`; all before are looked at too."""
        place = Place(rows, starts, new)
        return [LayerView(layer, place) for layer in self.layers]


class LayerRows:
    """One layer's keys and values."""

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.resize(0, 0, [])

    def resize(self, rows: int, columns: int, lengths: Sequence[int]) -> None:
        stores = []
        for name in ("keys", "values"):
            # Zeros, not empty: a masked position is multiplied by zero, and zero times a stray NaN is NaN.
            # numpy's zeros, not torch's, which would touch every page at once.
            store = torch.from_numpy(numpy.zeros((rows, self.shape.num_kv_heads, columns, self.shape.head_dim), numpy.float32))
            for row, length in enumerate(lengths):
                if length:  # a row that begins now was not there before
                    store[row, :, :length] = getattr(self, name)[row, :, :length]
            stores.append(store)
        self.keys, self.values = stores


class Place:
    """Where one step's positions go; the same for all layers."""

    def __init__(self, rows: Sequence[int], starts: Sequence[int], new: int) -> None:
        self.new, self.first, self.start = new, rows[0], starts[0]
        self.total = max(starts) + new
        self.side_by_side = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        self.even = min(starts) == max(starts)
        self.rows = torch.tensor(rows)
        self.columns = torch.tensor(starts)[:, None] + torch.arange(new)
        self.span = slice(rows[0], rows[0] + len(rows))


class LayerView:
    """One layer's cache during one step, as attention sees it."""

    def __init__(self, layer: LayerRows, place: Place) -> None:
        self.layer, self.place = layer, place

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, E); return all that are to be looked at (B, K, S, E)."""
        return self._store(self.layer.keys, key), self._store(self.layer.values, value)

    def _store(self, store: Tensor, new: Tensor) -> Tensor:
        place = self.place
        if place.side_by_side and place.even:
            store[place.span, :, place.start : place.total] = new
        else:
            store[place.rows[:, None], :, place.columns] = new.transpose(1, 2)
        if place.side_by_side:
            return store[place.span, :, : place.total]
        return store[place.rows, :, : place.total]


class States:
    """Recurrent states of running sequences; used as Cache is, but a row's size does not depend on its length.

    Shapes: per layer (rows, states * D).
    """

    pads = False  # a recurrent network would carry padding along
    columns = 2**31

    def __init__(self, num_layers: int, width: int, most_rows: int) -> None:
        self.num_layers, self.width, self.most_rows, self.broken = num_layers, width, most_rows, False
        self.states = torch.zeros(num_layers, 0, width)

    def fits(self, rows: int, columns: int) -> bool:
        """Whether so many rows stay within the limit."""
        return rows <= self.most_rows

    def reserve(self, rows: int, columns: int, lengths: Sequence[int]) -> None:
        """Make room for `rows` rows."""
        if rows > self.states.shape[1]:
            more = torch.zeros(self.num_layers, rows - self.states.shape[1], self.width)
            self.states = torch.cat((self.states, more), dim=1)

    def release(self) -> None:
        """Give the memory back; nothing may be in use."""
        self.states = torch.zeros(self.num_layers, 0, self.width)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy one row's state to another."""
        self.states[:, target] = self.states[:, source]

    def swap(self, first: int, second: int, length: int) -> None:
        """Exchange two rows' states."""
        self.states[:, [first, second]] = self.states[:, [second, first]]

    def clear(self, row: int) -> None:
        """Forget a row whose numbers went wrong."""
        self.states[:, row] = 0

    def view(self, rows: Sequence[int], starts: Sequence[int], new: int) -> list[StateView]:
        """One step's states, layer by layer; a row that starts at 0 begins from zeros."""
        fresh = [row for row, start in zip(rows, starts, strict=True) if start == 0]
        self.states[:, fresh] = 0
        return [StateView(layer, torch.tensor(rows)) for layer in self.states]


class StateView:
    """One layer's states during one step, as a recurrent layer sees them."""

    def __init__(self, states: Tensor, rows: Tensor) -> None:
        self.states, self.rows = states, rows

    def restore(self) -> Tensor:
        """The states so far (B, states * D)."""
        return self.states[self.rows]

    def keep(self, state: Tensor) -> None:
        """Store the states after this step."""
        self.states[self.rows] = state
