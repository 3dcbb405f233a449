"""What a model answers to an example; one shape for heads, prompted language models, ensembles and baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

OUTSIDE = "O"  # the tag of a token that belongs to no name


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Answer:
    """An answer; what is set depends on the kind of example.

    classify, choice: `label` (a class, or a choice's number) and `scores`, one for each class or choice, which add up to 1;
    regress: `value`; label: `tags`, one a token; span, translate, chat: `text`; retrieve: `value`, the rank of its document from 1.
    `cut` counts the tokens that were left out of what the model read.
    """

    label: str = ""
    scores: tuple[float, ...] = ()
    value: float = math.nan
    tags: tuple[str, ...] = ()
    text: str = ""
    cut: int = 0

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        told = (f"{name}={value!r}" for name, value in given.items() if value and value == value)  # what is not set is 0, "" or NaN
        return f"Answer({', '.join(told)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Why an example could not be answered: too long, or with a label that the model does not know."""

    reason: str
