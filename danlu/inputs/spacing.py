"""Where words stand without spaces between them, and what that means for tokens that bring a space along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from danlu.inputs.model_text import ModelText
from danlu.inputs.pieces import SPACE


def between(last: str, first: str) -> str:
    """What stands between two words or lines: a space, but for scripts written without any, as Chinese is and Korean is not."""
    return " " if last and first and not (_is_unspaced(last) and _is_unspaced(first)) else ""


def without_spaces(
    text: ModelText,
    of_word: NDArray[np.int64],
    words: Sequence[str],
    token_of: Callable[[int], str | None],
    id_of: Callable[[str], int | None],
) -> tuple[ModelText, NDArray[np.int64]]:
    """Words that stand without a space, as Chinese characters do, without the space that a SentencePiece vocabulary sets before each.

    It knows such characters as parts of a stretch, not as words of their own; left in, a space of its own often stands for the character.
    """
    ids, kept = text.ids.copy(), np.ones(len(text.ids), dtype=bool)
    for place, word in enumerate(of_word):
        if word < 1 or of_word[place - 1] == word or between(words[word - 1][-1:], words[word][:1]):
            continue
        token = token_of(int(ids[place])) or ""
        if token == SPACE and place + 1 < len(of_word) and of_word[place + 1] == word:
            kept[place] = False
        elif token.startswith(SPACE) and (bare := id_of(token.removeprefix(SPACE))) is not None and len(token) > len(SPACE):
            ids[place] = bare
    changed = replace(text, ids=ids[kept], segments=text.segments[kept], offsets=text.offsets[kept], sequence=text.sequence[kept])
    return changed, of_word[kept]


def _is_unspaced(character: str) -> bool:
    return character >= "\u2e80" and not "\uac00" <= character <= "\ud7af"
