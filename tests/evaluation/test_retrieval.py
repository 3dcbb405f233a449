from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from danlu.base.errors import DataError, RequestError
from danlu.data.choices import RetrieveExample
from danlu.evaluation.answerers.retrieval import Retriever
from danlu.inference.model import load
from tests.inference.encoder import LONGEST, write_encoder

WORDS = ["river", "mountain", "old", "model", "data", "one", "two", "three", "city", "water", "丹炉", "light"]


def rows(count: int, longest: int) -> list[RetrieveExample]:
    draw = np.random.default_rng(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(1, longest)))

    return [RetrieveExample(query=text(), document=text()) for _ in range(count)]


def test_ranks_are_those_of_all_cosines_and_what_is_cut_is_counted(tmp_path: Path) -> None:
    model = load(write_encoder(tmp_path / "encoder", {}, max_seq_length=LONGEST))
    examples = rows(40, 30)
    documents = list(dict.fromkeys(example.document for example in examples))
    retriever = Retriever(model, truncate=True)
    retriever.fit(examples)
    queries, found = (model.embed([*texts], truncate=True).numpy() for texts in ((e.query for e in examples), documents))
    cut = 0
    for example, query, answer in zip(examples, queries, retriever.answer(examples), strict=True):
        near = found @ query
        assert answer.value == 1 + int((near > near[documents.index(example.document)] + 1e-6).sum())
        lengths = [len(model.tokenizer.raw.encode(text).ids) for text in (example.query, example.document)]
        assert answer.cut == sum(max(length - LONGEST, 0) for length in lengths)
        cut += answer.cut > 0
    assert 0 < cut < len(examples)


def test_what_is_too_long_is_refused_unless_it_is_to_be_cut(tmp_path: Path) -> None:
    retriever = Retriever(load(write_encoder(tmp_path / "encoder", {}, max_seq_length=LONGEST)))
    with pytest.raises(RequestError, match=f"reads {LONGEST} tokens"):
        retriever.fit([*rows(1, 2), RetrieveExample(query="one", document="river " * 40)])
    retriever.fit(rows(9, 3))
    assert [answer.cut for answer in retriever.answer(rows(9, 3))] == [0] * 9
    with pytest.raises(DataError, match="no documents"):
        retriever.fit([])
