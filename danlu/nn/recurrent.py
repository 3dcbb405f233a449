"""Networks that read one position after the other and carry a state along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from danlu.nn.dropout import dropout
from danlu.nn.linear import Linear

Cell = Literal["tanh", "gru", "lstm"]


class StateCache(Protocol):
    """One layer's state of running sequences."""

    def restore(self) -> Tensor | None:
        """The states (B, states * D) so far, or None where all sequences begin."""

    def keep(self, state: Tensor) -> None:
        """Store the states (B, states * D) after this step's positions."""


class Recurrent(nn.Module):
    """One recurrent layer: every position's state follows from its input and the state before.

    What the input adds is one product over all positions; only what the state adds goes step by step.
    Shapes: x (B, T, D) -> states h (B, T, D).
    tanh: h' = tanh(W_xh x + W_hh h + b).                            Source: Elman 1990, doi:10.1207/s15516709cog1402_1.
    gru:  r, z = sigmoid(W_x x + W_h h + b); n = tanh(W_xn x + b_n + r * (W_hn h + c_n)); h' = (1 - z) * n + z * h.
                                                                     Source: Cho et al. 2014, arXiv:1406.1078.
    lstm: i, f, o = sigmoid(W_x x + W_h h + b); g = tanh(W_xg x + W_hg h + b_g); c' = f * c + i * g; h' = o * tanh(c').
                                                                     Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000.
    """

    def __init__(self, cell: Cell, width: int) -> None:
        super().__init__()
        gates, self.states, self.advance = CELLS[cell]
        self.cell, self.width, self.dropout = cell, width, 0.0
        self.input = Linear(width, gates * width)
        self.hidden = Linear(width, gates * width, bias=cell == "gru")  # the others' biases would be the same one twice

    def forward(self, x: Tensor, cache: StateCache | None = None) -> Tensor:
        given = self.input(x).unbind(1)  # T of (B, gates * D)
        before = None if cache is None else cache.restore()
        if before is None:
            before = x.new_zeros(len(x), self.states * self.width)
        state = before.split(self.width, dim=-1)
        weight, bias = self.hidden.weight.t(), self.hidden.bias
        outputs = []
        for at_input in given:
            state = self.advance(at_input, state, weight, bias)
            outputs.append(state[0])
        if cache is not None:
            cache.keep(torch.cat(state, dim=-1))
        x = torch.stack(outputs, dim=1)
        return dropout(x, self.dropout) if self.dropout and self.training else x


State = tuple[Tensor, ...]  # h, or h and c; each (B, D)


def tanh_step(given: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """The plain network: h' = tanh(W_xh x + b + W_hh h)."""
    return (torch.addmm(given, state[0], weight).tanh(),)


def gru_step(given: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Gates decide how much of the state is seen (r) and kept (z)."""
    (h,) = state
    assert bias is not None
    given_gates, given_new = given.tensor_split((2 * h.shape[-1],), -1)
    hidden_gates, hidden_new = torch.addmm(bias, h, weight).tensor_split((2 * h.shape[-1],), -1)
    reset, keep = (given_gates + hidden_gates).sigmoid().chunk(2, -1)
    new = (given_new + reset * hidden_new).tanh()
    new, keep = new.to(h.dtype), keep.to(h.dtype)  # products may be in half precision, the state is not
    return (torch.lerp(new, h, keep),)


def lstm_step(given: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """A second state c that gates add to (i), keep (f) and show (o)."""
    h, c = state
    enter, forget, new, show = torch.addmm(given, h, weight).chunk(4, -1)
    c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
    return show.sigmoid() * c.tanh(), c


Step = Callable[[Tensor, State, Tensor, Tensor | None], State]
CELLS: dict[str, tuple[int, int, Step]] = {"tanh": (1, 1, tanh_step), "gru": (3, 1, gru_step), "lstm": (4, 2, lstm_step)}
