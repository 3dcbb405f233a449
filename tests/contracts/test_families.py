"""What every model family promises, whichever it is: a new one is tested here unedited."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danlu.base.storage import whole_folder
from danlu.models.base import Family, Inputs
from danlu.models.loading import families, load_model, save_model
from danlu.models.seq2seq import Seq2Seq
from danlu.nn.attention import Packing, watched_attention
from danlu.nn.loss import token_loss
from tests.models.shapes import distance, some_ids, write_foreign

VOCABULARY = 97
SAME = 5e-5  # of the largest logit: sums in another order differ in their last bits
# Each way in which a model can differ, once.
SOME_SHAPES = [
    "gpt2",
    "gpt2-relu-untied",
    "llama-one-head-for-all",
    "llama-wide-heads",
    "llama-all-bias",
    "llama-scaled-as-llama3",
    "qwen2",
    "bert-pretraining",
    "roberta-words",
    "t5-gated",
    "bart",
    "marian",
]
RECURRENT = ["rnn/tanh-nano", "rnn/gru-nano", "rnn/lstm-nano"]
CASES = [f"{family}/{size}" for family in families() for size in ("nano", "tiny")] + RECURRENT + SOME_SHAPES


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A model by its case: a family's size with its own first weights, or a shape with weights that all count."""
    made: dict[str, nn.Module] = {}

    def module_of(case: str) -> nn.Module:
        if case not in made:
            family, _, size = case.partition("/")
            torch.manual_seed(0)
            if size:
                made[case] = families()[family].build(families()[family].sizes(size, VOCABULARY, None)).eval()
            else:
                made[case] = load_model(str(write_foreign(case, tmp_path_factory.mktemp("contracts") / case))).module
        return made[case]

    return module_of


@pytest.fixture(params=CASES)
def module(request: pytest.FixtureRequest, make: Callable[[str], nn.Module]) -> nn.Module:
    return make(request.param)


def family_of(module: Any) -> Family:
    return next(family for family in families().values() if isinstance(module, family.build))


def needs(module: Any, memory: tuple[str, ...]) -> None:
    if family_of(module).memory not in memory:
        pytest.skip(f"a family of memory {family_of(module).memory!r}")


def source_for(module: Any, rows: int) -> Tensor | None:
    """An encoder-decoder reads the same source whatever is asked."""
    return some_ids(module.config.vocabulary_size, 11, 1).expand(rows, -1) if isinstance(module, Seq2Seq) else None


def own_logits(module: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return module.logits(module(Inputs(tokens=ids, source=source_for(module, len(ids)))))


class Grown:
    """The simplest cache: all keys and values so far, or the last state."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.state: Tensor | None = None

    def restore(self) -> Tensor | None:
        return self.state

    def keep(self, state: Tensor) -> None:
        self.state = state

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        self.parts.append((key, value))
        keys, values = zip(*self.parts, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def ids_for(module: Any, length: int = 13, rows: int = 3) -> Tensor:
    ids = some_ids(module.config.vocabulary_size, length, rows)
    padding = getattr(module.config, "pad_id", None)  # has no position of its own in RoBERTa
    return ids if padding is None else torch.where(ids == padding, padding + 1, ids) % module.config.vocabulary_size


def test_logits_have_the_promised_shape(module: Any) -> None:
    config = module.config
    for rows, length in ((1, 1), (2, 5), (1, config.context_length)):
        assert own_logits(module, ids_for(module, length, rows)).shape == (rows, length, config.vocabulary_size)


def test_no_position_sees_the_future(module: Any) -> None:
    needs(module, ("keys", "state"))
    ids = ids_for(module)
    before = own_logits(module, ids)
    for last in (0, 6, 11):
        changed = ids.clone()
        changed[:, last + 1 :] = (changed[:, last + 1 :] + 1) % module.config.vocabulary_size
        after = own_logits(module, changed)
        assert distance(after[:, : last + 1], before[:, : last + 1]) < SAME
        assert distance(after[:, last + 1 :], before[:, last + 1 :]) > 1e-3


def test_every_position_sees_its_past(module: Any) -> None:
    ids = ids_for(module)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % module.config.vocabulary_size
    differences = (own_logits(module, changed) - own_logits(module, ids)).abs().amax(dim=(0, 2))
    assert (differences > 1e-5).all()


def test_an_encoder_sees_what_comes(module: Any) -> None:
    needs(module, ("none",))
    ids = ids_for(module)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % module.config.vocabulary_size
    differences = (own_logits(module, changed) - own_logits(module, ids)).abs().amax(dim=(0, 2))
    assert (differences > 1e-5).all()


def test_packed_sequences_are_as_each_alone(module: Any) -> None:
    if not family_of(module).packs:
        pytest.skip("reads no packed rows")
    ids = ids_for(module, length=12, rows=1)
    packing = Packing((5, 3, 3, 1))
    with torch.no_grad():
        found = module.logits(
            module(Inputs(tokens=ids, visible=packing)), **({} if family_of(module).name == "gpt" else {"visible": packing})
        )
    expected = torch.cat([own_logits(module, part) for part in ids.split(packing.lengths, dim=1)], dim=1)
    assert distance(found, expected) < SAME


def test_attention_can_be_watched_and_says_the_same(module: Any) -> None:
    needs(module, ("keys", "none"))
    ids = ids_for(module)
    with watched_attention(module) as weights:
        watched = own_logits(module, ids)
    assert distance(watched, own_logits(module, ids)) < SAME
    assert len(weights) >= module.config.num_layers
    for each in weights:
        assert torch.allclose(each.sum(-1), torch.ones(()), atol=1e-5)
    if family_of(module).memory == "keys":
        assert all(torch.equal(each, each.tril()) for each in weights if each.shape[2] == each.shape[3] == ids.shape[1])


def test_rows_of_a_batch_do_not_meet(module: Any) -> None:
    ids = ids_for(module)
    assert distance(own_logits(module, ids[1:2]), own_logits(module, ids)[1:2]) < SAME


@pytest.mark.parametrize("cuts", [[13], [5, 1, 1, 6], [1] * 13], ids=str)
def test_cached_decoding_equals_the_full_pass(module: Any, cuts: list[int]) -> None:
    needs(module, ("keys", "state"))
    ids = ids_for(module)
    expected = own_logits(module, ids)
    caches = [Grown() for _ in range(module.config.num_layers)]
    done, found = 0, []
    with torch.no_grad():
        for count in cuts:
            positions = torch.arange(done, done + count)
            visible = (torch.arange(done + count) <= positions[:, None])[None, None]
            given = {"tokens": ids[:, done : done + count], "positions": positions.expand(3, -1), "source": source_for(module, 3)}
            part = Inputs(**given, visible=visible)
            found.append(module.logits(module(part, caches)))
            done += count
    assert distance(torch.cat(found, dim=1), expected) < SAME


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(module: Any, side: str) -> None:
    if side == "left":
        needs(module, ("keys", "none"))  # a recurrent network would carry it along
    ids = ids_for(module, length=9)
    expected = own_logits(module, ids)
    padding = torch.zeros(3, 4, dtype=torch.long)
    tokens = torch.cat((padding, ids) if side == "left" else (ids, padding), dim=1)
    real = slice(4, 13) if side == "left" else slice(0, 9)
    positions = torch.zeros(3, 13, dtype=torch.long)
    positions[:, real] = torch.arange(9)
    visible = torch.ones(13, 13, dtype=torch.bool)
    if family_of(module).memory == "keys":
        visible = visible.tril()
    is_real = torch.zeros(13, dtype=torch.bool)
    is_real[real] = True
    visible = (visible & is_real | torch.eye(13, dtype=torch.bool)).expand(3, 1, 13, 13)  # padding sees itself: no row is blind
    with torch.no_grad():
        inputs = Inputs(tokens=tokens, positions=positions, visible=visible, source=source_for(module, 3))
        found = module.logits(module(inputs))[:, real]
    assert distance(found, expected) < SAME


def test_saved_then_loaded_is_the_same(module: Any, tmp_path: Path) -> None:
    family = family_of(module)
    with whole_folder(tmp_path / "model") as folder:
        save_model(module, family, None, folder)
    again = load_model(str(tmp_path / "model"))
    assert again.family is family
    assert family.write_config(again.config) == family.write_config(module.config)
    before, after = module.state_dict(), again.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(own_logits(module, ids_for(module)), own_logits(again.module, ids_for(module)))


def guess(module: Any, ids: Tensor) -> Tensor:
    """Nats a token: what comes next, or (of an encoder) what stands there."""
    following = family_of(module).memory != "none"
    tokens, targets = (ids[:, :-1], ids[:, 1:]) if following else (ids, ids)
    hidden = module(Inputs(tokens=tokens, source=source_for(module, len(ids))))
    return token_loss(module.logits, hidden, targets, VOCABULARY) / targets.numel()


@pytest.mark.parametrize("case", [case for case in CASES if "/" in case])
def test_the_first_loss_is_near_that_of_guessing(case: str, make: Callable[[str], nn.Module]) -> None:
    module: Any = make(case)
    with torch.no_grad():
        assert abs(float(guess(module, ids_for(module, length=64))) - math.log(VOCABULARY)) < 0.1


@pytest.mark.parametrize("case", [f"{family}/nano" for family in families()] + RECURRENT)
def test_one_batch_can_be_learnt_by_heart(case: str) -> None:
    torch.manual_seed(0)
    family, _, size = case.partition("/")
    module: Any = families()[family].build(families()[family].sizes(size, VOCABULARY, None))
    ids = ids_for(module, length=33, rows=4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(400):
        loss = guess(module, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < 0.1 < math.log(VOCABULARY) - 0.5 < losses[0]
    unused = {"next_sentence.weight", "next_sentence.bias", "pooler.weight", "pooler.bias"}  # asked only about pairs of texts
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in module.named_parameters() if name not in unused)
