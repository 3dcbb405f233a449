"""Engines over each of the backends, and requests whose answers are gathered."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

from danlu.base.errors import DanluError
from danlu.inference.backends import paged
from danlu.inference.engine import Engine, Piece
from danlu.inference.padded import Padded
from danlu.inference.paged import Paged
from danlu.inference.request import Limits, Request
from danlu.inference.sampling import Sampling
from danlu.inference.text import Token
from danlu.kernels import native
from danlu.kernels.packing import Precision
from danlu.kernels.twin import TwinSteps

BACKENDS = ["module", "kernels", "twin"]


def backend_of(kind: str, module: Any, limits: Limits | None = None, precision: Precision = "float32") -> Padded | Paged:
    """What computes by the module itself, by kernels or by their twin; skips where no kernels were built."""
    if kind == "module":
        return Padded(module, limits or Limits())
    if kind == "kernels" and native.found() is None:
        pytest.skip("no kernels were built here")
    made = paged(module, limits, precision)
    if kind == "twin":
        made.steps.close()
        made.steps = TwinSteps(made.table, made.cache)
    return made


class Asked:
    """One request and what has come of it."""

    def __init__(self, engine: Engine, ids: list[int], owner: str = "", **sampling: Any) -> None:
        self.events: queue.SimpleQueue[Piece | DanluError] = queue.SimpleQueue()
        self.told = 0.0  # when the last event came
        self.request: Request = engine.submit(ids, Sampling(**sampling), self._note, owner=owner)
        self.reasons: dict[int, str] = {}

    def _note(self, event: Piece | DanluError) -> None:
        self.told = time.monotonic()
        self.events.put(event)

    def tokens(self) -> list[list[Token]]:
        said: list[list[Token]] = [[] for _ in range(self.request.sampling.n)]
        while len(self.reasons) < len(said):
            event = self.events.get(timeout=60)
            if isinstance(event, DanluError):
                raise event
            said[event.index] += event.tokens
            if event.finish_reason:
                self.reasons[event.index] = event.finish_reason
        return said

    def answers(self) -> list[list[int]]:
        return [[token.id for token in said] for said in self.tokens()]
