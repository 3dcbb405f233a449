"""Who answers examples: the protocol that heads, prompted language models, remote endpoints, ensembles and baselines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from danlu.data.answers import Answer, Refused
from danlu.data.examples import Example


class Answerer(Protocol):
    """Answers examples of one task. `labels` are the classes or tags that it knows, in the order of an answer's scores."""

    name: str
    labels: tuple[str, ...]

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """An answer, or why there is none, for each of the examples, in their order; their own answers are not looked at."""
