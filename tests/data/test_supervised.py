"""Examples as rows of ids: each answer stands at its token, nothing is cut unasked, and the order is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.base.errors import DataError
from danlu.data.examples import Answer, ClassifyExample, LabelExample, RegressExample, SpanExample, TranslateExample
from danlu.data.supervised import Row, Rows, encode_examples
from danlu.inputs.vocabulary_training import train_unigram, train_wordpiece
from danlu.nn.loss import IGNORED

TOKENIZER = train_wordpiece(["Zhang lives in Peking and melts gold. who melts gold? 张三住在北京。"] * 9, 200)


def test_classes_and_numbers() -> None:
    examples = [ClassifyExample(text="gold", label="b"), ClassifyExample(text="gold", pair="Peking", label="a")]
    rows, cut = encode_examples(examples, TOKENIZER, ("a", "b"), 64)
    assert [int(row.target) for row in rows] == [1, 0]
    assert cut == 0
    assert rows[0].ids[0] == TOKENIZER.cls_id and rows[0].ids[-1] == TOKENIZER.sep_id
    assert set(rows[1].segments) == {0, 1}
    numbers, _ = encode_examples([RegressExample(text="gold", label=2.5)], TOKENIZER, (), 64)
    assert numbers[0].target == np.float32(2.5)
    with pytest.raises(DataError, match="the label 'c' came; the model knows a, b"):
        encode_examples([ClassifyExample(text="gold", label="c")], TOKENIZER, ("a", "b"), 64)


def test_a_words_first_token_answers_for_it() -> None:
    words, tags = ("张三", "住在", "Peking", "goldgold"), ("P", "O", "L", "O")
    [row], _ = encode_examples([LabelExample(tokens=words, tags=tags)], TOKENIZER, ("L", "O", "P"), 64)
    asked = row.target != IGNORED
    assert asked.sum() == 4
    assert row.target[asked].tolist() == [2, 1, 0, 1]
    first = [TOKENIZER.encode(word)[0] for word in words]
    assert row.ids[asked].tolist() == first
    [short], cut = encode_examples([LabelExample(tokens=words, tags=tags)], TOKENIZER, ("L", "O", "P"), 5, truncate=True)
    assert cut == 1 and len(short.ids) == len(short.target) == 5
    assert short.ids[-1] == TOKENIZER.sep_id


def test_a_span_is_found_again_in_the_text() -> None:
    context = "张三 lives in Peking and melts gold."
    example = SpanExample(context=context, question="who melts gold?", answers=(Answer(text="Peking", start=12),))
    [row], _ = encode_examples([example], TOKENIZER, (), 64)
    begin, end = row.target
    assert TOKENIZER.decode(row.ids[begin : end + 1]).replace(" ", "") == "Peking"
    assert (row.segments[begin : end + 1] == 1).all()
    none = SpanExample(context=context, question="who?", answers=())
    assert encode_examples([none], TOKENIZER, (), 64)[0][0].target.tolist() == [0, 0]
    assert encode_examples([example], TOKENIZER, (), 9, truncate=True)[0][0].target.tolist() == [0, 0]  # cut away


def test_nothing_is_cut_unasked() -> None:
    example = ClassifyExample(text="gold " * 50, label="a")
    with pytest.raises(DataError, match=r"example 1 is 52 tokens long and the model reads 20; shorten it, or .* --truncate"):
        encode_examples([example], TOKENIZER, ("a",), 20)
    rows, cut = encode_examples([example], TOKENIZER, ("a",), 20, truncate=True)
    assert (len(rows[0].ids), cut) == (20, 1)


def test_targets_of_another_text_end() -> None:
    tokenizer = train_unigram(["丹炉 furnace gold", "炼丹 and melting, made by hand of lead"] * 30, 512)
    [row], _ = encode_examples([TranslateExample(source="gold", target="丹炉")], tokenizer, (), 64)
    assert row.ids[-1] == row.target[-1] == tokenizer.end_of_text_id


def rows_of(lengths: list[int]) -> list[Row]:
    return [Row(ids=np.full(n, i), segments=np.zeros(n, dtype=np.int64), target=np.array(i)) for i, n in enumerate(lengths)]


def test_every_row_once_an_epoch_in_another_order_with_like_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 330).tolist()
    rows = Rows(rows_of(lengths), 16, seed=3, pad_id=0)
    epochs = [[int(target) for step in range(21) for target in rows.at(epoch * 21 + step).targets] for epoch in (0, 1)]
    assert rows.steps_an_epoch == 21
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(330))
    assert epochs[0] != epochs[1]
    spread = np.mean([np.ptp([len(ids) for ids in rows.at(step).ids]) for step in range(21)])
    assert spread < 20  # of 99
    again = Rows(rows_of(lengths), 16, seed=3, pad_id=0)
    assert [int(t) for t in again.at(40).targets] == [int(t) for t in rows.at(40).targets]
