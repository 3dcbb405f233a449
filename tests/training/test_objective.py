"""Each objective's loss is its definition, computed here another way, and a batch depends on the seed and the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danlu.data.batches import Batches
from danlu.data.masking import Masking
from danlu.data.supervised import Row, Rows
from danlu.models.base import Head, Inputs
from danlu.models.loading import families
from danlu.nn.loss import IGNORED
from danlu.training.objective import FromExamples, MaskedWords, SpanCorruption, held_out

V = 60
SHARDS = [np.random.default_rng(0).integers(10, V, 4000).astype(np.uint16)]


def module_of(family: str, head: Head | None = None) -> Any:
    torch.manual_seed(0)
    made = families()[family]
    config = made.sizes("nano", V, 64)
    return made.build(config if head is None else made.with_head(config, head)).eval()


def masked_words(next_sentence: bool) -> MaskedWords:
    masking = Masking(mask_id=4, vocabulary_size=V, special=np.arange(V) < 10)
    batches = Batches(SHARDS, 29 if next_sentence else 30, 5, seed=1)
    return MaskedWords(batches=batches, masking=masking, begin_id=2, end_id=3, next_sentence=next_sentence, seed=1)


@pytest.mark.parametrize("next_sentence", [False, True])
def test_hidden_words(next_sentence: bool) -> None:
    objective, module = masked_words(next_sentence), module_of("bert")
    batch = objective.batch(7)
    assert torch.equal(batch.inputs.tokens, masked_words(next_sentence).batch(7).inputs.tokens)
    assert not torch.equal(batch.inputs.tokens, objective.batch(8).inputs.tokens)
    assert (batch.inputs.tokens[:, 0] == 2).all() and (batch.inputs.tokens[:, -1] == 3).all()
    with torch.no_grad():
        found = objective.loss(module, batch)
        hidden = module(batch.inputs)
        words = F.cross_entropy(module.logits(hidden).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        expected = words + (F.cross_entropy(module.follows(hidden), batch.follows) if next_sentence else 0.0)
    assert float(found.total / found.count) == pytest.approx(float(expected), rel=1e-5)
    assert found.count == int((batch.targets != IGNORED).sum())
    if next_sentence:
        assert batch.inputs.segments is not None
        assert batch.inputs.segments.sum(1).tolist() == [16] * 5  # the second text and its separator
        assert (batch.inputs.tokens == 3).sum(1).ge(2).all()


def test_spans() -> None:
    objective = SpanCorruption(batches=Batches(SHARDS, 40, 4, seed=1), sentinels=(5, 6, 7, 8, 9), end_id=1, start_id=0, seed=1)
    module, batch = module_of("seq2seq"), objective.batch(3)
    assert batch.inputs.source is not None
    assert torch.equal(batch.inputs.tokens[:, 1:], batch.targets[:, :-1])
    assert (batch.inputs.tokens[:, 0] == 0).all()
    assert batch.tokens == batch.inputs.tokens.numel() + batch.inputs.source.numel()
    with torch.no_grad():
        found = objective.loss(module, batch)
        logits = module.logits(module(batch.inputs))
    assert float(found.total) == pytest.approx(
        float(F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")), rel=1e-5
    )


def rows(targets: list[Any], lengths: tuple[int, ...] = (9, 4, 9, 6)) -> Rows:
    draw = np.random.default_rng(5)
    made = [
        Row(ids=draw.integers(10, V, n), segments=np.zeros(n, dtype=np.int64), target=np.asarray(target))
        for n, target in zip(lengths, targets, strict=True)
    ]
    return Rows(made, 4, seed=0, pad_id=0)


@pytest.mark.parametrize(
    ("kind", "head", "targets"),
    [
        ("classify", Head(kind="classes", names=("a", "b", "c")), [0, 2, 1, 2]),
        ("regress", Head(kind="classes", names=("value",), regression=True), [np.float32(x) for x in (0.5, -1.0, 2.0, 0.0)]),
        ("label", Head(kind="labels", names=("x", "y")), [np.arange(n) % 2 for n in (9, 4, 9, 6)]),
        ("span", Head(kind="spans"), [[1, 3], [0, 0], [8, 8], [2, 5]]),
    ],
)
def test_examples_packed_or_padded_lose_what_each_alone_loses(kind: Any, head: Head, targets: list[Any]) -> None:
    module, given = module_of("bert", head), rows(targets)
    alone = 0.0
    with torch.no_grad():
        for row in given.rows:
            scores = module.logits(module(Inputs(tokens=torch.from_numpy(row.ids)[None])))
            target = torch.from_numpy(row.target)
            if kind == "regress":
                alone += float((scores[0, 0] - target) ** 2)
            elif kind == "span":
                alone += float(F.cross_entropy(scores[0].T, target, reduction="sum") / 2)
            else:
                alone += float(F.cross_entropy(scores.reshape(-1, scores.shape[-1]), target.reshape(-1), reduction="sum"))
        for packed in (True, False):
            objective = FromExamples(rows=given, kind=kind, packed=packed)
            found = objective.loss(module, objective.batch(0))
            assert float(found.total) == pytest.approx(alone, rel=1e-5)
            assert found.count == (28 if kind == "label" else 4)
            loss, right = held_out(objective, module, torch.no_grad)
            assert loss == pytest.approx(alone / found.count, rel=1e-5)
            assert 0 <= right <= 1


def test_other_texts_are_written_after_their_sources() -> None:
    given, module = rows([np.array([11, 12, 1]), np.array([13, 1]), np.array([14, 15, 16, 1]), np.array([17, 1])]), module_of("seq2seq")
    objective = FromExamples(rows=given, kind="translate", packed=False)
    alone = 0.0
    with torch.no_grad():
        for row in given.rows:
            target = torch.from_numpy(row.target)
            tokens = torch.cat((torch.tensor([0]), target[:-1]))[None]
            logits = module.logits(module(Inputs(tokens=tokens, source=torch.from_numpy(row.ids)[None])))
            alone += float(F.cross_entropy(logits[0], target, reduction="sum"))
        found = objective.loss(module, objective.batch(0))
    assert float(found.total) == pytest.approx(alone, rel=1e-5)
    assert found.count == 11


def test_recurrent_networks_tell_classes_from_the_last_real_position() -> None:
    module, given = module_of("rnn", Head(kind="classes", names=("a", "b"))), rows([0, 1, 0, 1])
    alone = 0.0
    with torch.no_grad():
        for row in given.rows:
            scores = module.logits(module(Inputs(tokens=torch.from_numpy(row.ids)[None])))
            alone += float(F.cross_entropy(scores, torch.from_numpy(row.target)[None]))
        objective = FromExamples(rows=given, kind="classify", packed=False)
        assert float(objective.loss(module, objective.batch(0)).total) == pytest.approx(alone, rel=1e-5)
