"""Makes riddles of a text: words are hidden, to be guessed from what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.inputs.tokenizer import Tokenizer

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which tokens are hidden: a share of all; most become the mask, some another token, some stay as they are.

    `continues` says of each id whether it goes on with the word before it: then whole words are hidden.
    Source: Devlin et al. 2019, arXiv:1810.04805, appendix A.1.
    """

    mask_id: int
    vocabulary_size: int
    special: NDArray[np.bool_]  # (V,): never hidden, never put in another's place
    continues: NDArray[np.bool_] | None = None
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1

    def hide(self, tokens: Ids, draw: np.random.Generator) -> tuple[Ids, NDArray[np.bool_]]:
        """Tokens with some hidden, and where. Shapes: (B, T) -> (B, T), (B, T)."""
        words = np.arange(tokens.size).reshape(tokens.shape)
        if self.continues is not None:
            words = np.maximum.accumulate(np.where(self.continues[tokens], -1, words), axis=1)  # of each token the word's first
            words = np.maximum(words, 0)
        hidden = (draw.random(tokens.size) < self.share)[words] & ~self.special[tokens]
        fate = draw.random(tokens.shape)
        others = draw.integers(0, self.vocabulary_size, tokens.shape)
        replaced = np.where(fate < self.masked, self.mask_id, np.where(self.special[others], tokens, others))
        return np.where(hidden & (fate < self.masked + self.random), replaced, tokens), hidden

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocabulary_size: int, whole_words: bool = False) -> Masking:
        """Masking with a tokenizer's own mask."""
        assert tokenizer.mask_id is not None
        special = np.zeros(vocabulary_size, dtype=bool)
        special[sorted(tokenizer.special_ids)] = True
        special[tokenizer.vocabulary_size :] = True
        continues = np.array([tokenizer.continues_word(id) for id in range(vocabulary_size)]) if whole_words else None
        return cls(mask_id=tokenizer.mask_id, vocabulary_size=vocabulary_size, special=special, continues=continues)


def pair_sentences(first: Ids, second: Ids, others: Ids, draw: np.random.Generator) -> tuple[Ids, NDArray[np.int64]]:
    """Put behind each first text the one that follows it (answer 0) or, for half of the rows, another (answer 1).

    Shapes: (B, S) each -> (B, S), (B,).
    """
    is_other = draw.random(len(first)) < 0.5
    return np.where(is_other[:, None], others, second), is_other.astype(np.int64)


def corrupt_spans(
    tokens: Ids, draw: np.random.Generator, *, sentinels: Sequence[int], end_id: int, share: float = 0.15, mean_length: float = 3.0
) -> tuple[Ids, Ids]:
    """Cut spans out of each row: the source keeps a numbered gap for each, the target tells what stood there.

    Rows of one length give sources and targets of one length each, so nothing is padded.
    Shapes: (B, L) -> (B, L - hidden + gaps + 1), (B, hidden + gaps + 1), each ending in end_id.
    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4.
    """
    length = tokens.shape[1]
    hidden = min(max(round(length * share), 1), length - 1)
    gaps = min(max(round(hidden / mean_length), 1), hidden, length - hidden, len(sentinels))
    sources, targets = [], []
    for row in tokens:
        cut, kept = _parts(hidden, gaps, draw), _parts(length - hidden, gaps, draw)
        source, target, at = [], [], 0
        for sentinel, keep, take in zip(sentinels, kept, cut, strict=False):
            source += [row[at : at + keep], [sentinel]]
            target += [[sentinel], row[at + keep : at + keep + take]]
            at += keep + take
        sources.append(np.concatenate([*source, [end_id]]))
        targets.append(np.concatenate([*target, [end_id]]))
    return np.stack(sources), np.stack(targets)


def _parts(total: int, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """`total` cut into `count` random parts of at least one."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, dtype=np.int64)
    return np.diff(np.concatenate([[0], cuts, [total]]))
