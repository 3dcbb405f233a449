"""What a model reads of one or two texts, token by token, and how it is cut to a length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from danlu.base.errors import ConfigError

NO_TEXT = -1  # the text of a token that the tokenizer set around the texts


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelText:
    """One input with the control tokens around it.

    Shapes: ids, segments, sequence (T,) int64; offsets (T, 2), begin and end in characters of the text that the token is from.
    `sequence` says which text that is: 0, 1, or -1 for control tokens, whose offsets are (0, 0).
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sequence: NDArray[np.int64]
    num_cut: int = 0  # tokens that were left out to keep to a length

    @property
    def is_special(self) -> NDArray[np.bool_]:
        """True where a token is from neither text."""
        return self.sequence == NO_TEXT

    @classmethod
    def of(cls, encoding: Encoding) -> ModelText:
        """Take over what the library found."""
        return cls(
            ids=np.array(encoding.ids, dtype=np.int64),
            segments=np.array(encoding.type_ids, dtype=np.int64),
            offsets=np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            sequence=np.array([NO_TEXT if text is None else text for text in encoding.sequence_ids], dtype=np.int64),
        )

    def cut_to(self, max_tokens: int) -> ModelText:
        """Leave out the last tokens of the longer text, then of both; the control tokens stay.

        Done here and not by the library, whose setting for it is shared by all threads; the result is the same ("longest_first").
        Raises: ConfigError if there is no room for the control tokens.
        """
        room = max_tokens - int(self.is_special.sum())
        if room < 0:
            raise ConfigError(f"max_tokens came as {max_tokens}; expected at least {max_tokens - room}, the control tokens alone")
        first, second = (int((self.sequence == text).sum()) for text in (0, 1))
        if first + second <= room:
            return self
        kept = dict(zip((0, 1), _longest_first(first, second, room), strict=True))
        chosen = self.is_special.copy()
        for text, count in kept.items():
            chosen[np.flatnonzero(self.sequence == text)[:count]] = True
        return replace(
            self,
            ids=self.ids[chosen],
            segments=self.segments[chosen],
            offsets=self.offsets[chosen],
            sequence=self.sequence[chosen],
            num_cut=int((~chosen).sum()),
        )


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay: the longer is cut to the shorter's length, then both are halved; an odd one goes to the longer."""
    if not second:
        return min(first, room), 0
    shorter, longer = sorted((first, second))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)
