"""What an engine asks of whatever computes for it: steps over some sequences, and the memory of what they have read."""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from danlu.inference.request import Sequence


@dataclass(frozen=True)
class Part:
    """The next `count` tokens of one sequence."""

    sequence: Sequence
    count: int

    @property
    def asked(self) -> int:
        """Of how many of its tokens, the last ones, the logits are wanted."""
        end = self.sequence.computed + self.count
        return min(max(end - self.sequence.asked_from, 0), self.count)


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What a part found: logits (asked, V), the likeliest token of each row, and whether its numbers are finite."""

    values: Tensor
    likeliest: Several[int]
    finite: Several[int]

    @cached_property
    def totals(self) -> list[float]:
        """The logarithm of each row's summed exponentials: what makes of a logit a log-probability."""
        found: list[float] = self.values.logsumexp(-1).tolist()
        return found


class Backend(Protocol):
    """Computes for one engine, on its thread alone."""

    vocabulary_size: int
    context_length: int
    flat: bool  # prompts and answers go in one pass, each as long as it is; if not, those of one length together

    @property
    def retries(self) -> bool:
        """Whether a pass that failed may be tried again, since what it wrote is written over."""

    @property
    def sound(self) -> bool:
        """False after a failure that left the memory in doubt."""

    def fits(self, lengths: Several[int]) -> bool:
        """Whether sequences of these lengths can be remembered together."""

    def join(self, sequence: Sequence) -> None:
        """Take a sequence in; `computed` tells then how many of its tokens are known already."""

    def leave(self, sequence: Sequence) -> None:
        """Let a sequence go."""

    def fork(self, source: Sequence, sibling: Sequence) -> None:
        """Take in another answer that knows what `source` has read."""

    def group(self, reading: Several[Sequence], chunk: int) -> list[Part]:
        """Which prompts go on in one pass, the most urgent first, by about `chunk` tokens in all."""

    def compute(self, parts: Several[Part]) -> list[Logits | None]:
        """Read the parts; logits for those that ask."""

    def forget(self, sequence: Sequence) -> None:
        """A sequence's numbers went wrong: what it left must not reach another."""

    def rest(self) -> None:
        """Nobody runs any more."""

    def clear(self) -> None:
        """Forget everything, whatever state it is in."""

    def close(self) -> None:
        """Give back what it holds."""
