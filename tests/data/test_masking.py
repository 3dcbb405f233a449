"""Riddles made of text: what is hidden, how, and that nothing is lost by cutting spans out."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.data.masking import Masking, corrupt_spans, pair_sentences
from danlu.inputs.vocabulary_training import train_wordpiece

V, MASK = 1000, 4
SPECIAL = np.arange(V) < 5


def masking(**changes: object) -> Masking:
    return Masking(mask_id=MASK, vocabulary_size=V, special=SPECIAL, **changes)  # type: ignore[arg-type]


def test_shares_are_those_of_bert() -> None:
    tokens = np.random.default_rng(0).integers(5, V, (400, 250))
    found, hidden = masking().hide(tokens, np.random.default_rng(1))
    assert hidden.mean() == pytest.approx(0.15, abs=0.005)
    assert (found[~hidden] == tokens[~hidden]).all()
    assert (found[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (found[hidden] == tokens[hidden]).mean() == pytest.approx(0.1, abs=0.01)
    other = found[hidden & (found != MASK) & (found != tokens)]
    assert len(other) / hidden.sum() == pytest.approx(0.1, abs=0.01)
    assert not SPECIAL[other].any()


def test_control_tokens_are_never_hidden() -> None:
    tokens = np.random.default_rng(0).integers(0, 8, (50, 100))
    found, hidden = masking(share=0.9).hide(tokens, np.random.default_rng(1))
    assert not hidden[tokens < 5].any()
    assert (found[tokens < 5] == tokens[tokens < 5]).all()
    assert hidden[tokens >= 5].mean() > 0.8


def test_whole_words_are_hidden_or_seen_together() -> None:
    continues = np.arange(V) % 2 == 1  # odd ids go on with a word
    tokens = np.random.default_rng(0).integers(5, V, (60, 80))
    _, hidden = masking(share=0.3, continues=continues).hide(tokens, np.random.default_rng(2))
    within = continues[tokens[:, 1:]]
    assert (hidden[:, 1:] == hidden[:, :-1])[within].all()
    assert not (hidden[:, 1:] == hidden[:, :-1])[~within].all()
    assert hidden.mean() == pytest.approx(0.3, abs=0.05)


def test_a_tokenizers_own_words_are_known() -> None:
    tokenizer = train_wordpiece(["the furnace furnaces melted melting gold 丹炉"] * 9, 128)
    made = Masking.of(tokenizer, tokenizer.vocabulary_size, whole_words=True)
    ids = tokenizer.encode("furnaces 丹炉")
    assert made.continues is not None
    assert [bool(made.continues[id]) for id in ids] == [tokenizer.raw.id_to_token(id).startswith("##") for id in ids]
    assert made.special[tokenizer.mask_id]
    assert not made.special[ids].any()


def test_half_of_the_second_texts_follow() -> None:
    first, second, others = (np.full((2000, 3), number) for number in (1, 2, 3))
    chosen, follows = pair_sentences(first, second, others, np.random.default_rng(0))
    assert follows.mean() == pytest.approx(0.5, abs=0.05)
    assert (chosen[follows == 0] == 2).all()
    assert (chosen[follows == 1] == 3).all()


@pytest.mark.parametrize("length", [2, 3, 7, 64, 500])
def test_spans_put_back_give_the_text(length: int) -> None:
    tokens = np.random.default_rng(0).integers(200, V, (8, length))
    sentinels, end = tuple(range(100, 200)), 1
    source, target = corrupt_spans(tokens, np.random.default_rng(1), sentinels=sentinels, end_id=end)
    assert source.shape[1] + target.shape[1] == length + 2 + 2 * int((source[0] >= 100).sum() - (source[0] >= 200).sum())
    for row, asked, told in zip(tokens, source, target, strict=True):
        assert asked[-1] == told[-1] == end
        spans: dict[int, list[int]] = {}
        for id in told[:-1]:
            if id in sentinels:
                spans[int(id)] = []
            else:
                spans[max(spans)].append(int(id))
        back: list[int] = []
        for id in asked[:-1]:
            back += spans.pop(int(id)) if id in sentinels else [int(id)]
        assert back == row.tolist()
        assert not spans
    if length == 500:
        hidden = (target >= 200).sum(1)
        assert (hidden == 75).all()
        assert ((source >= 100) & (source < 200)).sum(1).tolist() == [25] * 8
        assert len({tuple(np.flatnonzero((row >= 100) & (row < 200))) for row in source}) == 8  # each row is cut elsewhere
