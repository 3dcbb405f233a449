from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from danlu.base.errors import CheckpointError, RequestError
from danlu.base.fetching import path_of
from danlu.inference import embedding
from danlu.inference.embedding import BATCH_TOKENS, batches
from danlu.inference.model import Model, load
from tests.models.shapes import make_foreign

from .encoder import LONGEST, SENTENCES, foreign_states, wordpiece, write_encoder, write_json

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0).values,
    "lasttoken": lambda states: states[-1],
}
OLD = {
    "pooling_mode_cls_token": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_lasttoken": False,
}


def pooled(states: list[Tensor], *ways: str) -> Tensor:
    return torch.stack([torch.cat([WAYS[way](each) for way in ways]) for each in states])


def test_without_files_a_vector_is_the_mean_of_unit_length(tmp_path: Path) -> None:
    model = load(str(write_encoder(tmp_path)))
    found = model.embed(SENTENCES)
    expected = F.normalize(pooled(foreign_states(tmp_path, SENTENCES), "mean"), dim=-1)
    assert found.shape == (len(SENTENCES), 32) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert model.embedder.longest == 40


@pytest.mark.parametrize(
    ("said", "ways"),
    [
        ({"pooling_mode": "cls"}, ["cls"]),
        ({"pooling_mode": ["max", "mean"]}, ["max", "mean"]),
        ({"pooling_mode": "lasttoken"}, ["lasttoken"]),
        (OLD | {"pooling_mode_max_tokens": True}, ["max"]),
        (OLD | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ["cls", "mean"]),
        (OLD | {"pooling_mode_lasttoken": True}, ["lasttoken"]),
        (OLD, ["mean"]),
    ],
)
@pytest.mark.parametrize("unit", [True, False])
def test_pooling_and_length_are_what_the_files_say(tmp_path: Path, said: dict[str, Any], ways: list[str], unit: bool) -> None:
    modules = ("Transformer", "Pooling", "Normalize")[: 3 if unit else 2]
    found = load(str(write_encoder(tmp_path, said, modules))).embed(SENTENCES)
    expected = pooled(foreign_states(tmp_path, SENTENCES), *ways)
    torch.testing.assert_close(found, F.normalize(expected, dim=-1) if unit else expected, atol=1e-5, rtol=1e-5)


def test_the_files_lower_case_and_prompt_go_before_the_tokenizer(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, {"pooling_mode": "mean"}, do_lower_case=True)
    general = {"prompts": {"query": "one: ", "document": ""}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", general)
    model = load(str(folder))
    expected = pooled(foreign_states(folder, ["one: the river"]), "mean")
    torch.testing.assert_close(model.embed("THE River"), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_minilm_equals_transformers_and_cuts_as_sentence_transformers_does() -> None:
    model = load("minilm-l6")
    texts = ["The furnace is hot.", "丹炉里炼出来的", "", "😀 e\u0301 ﬁ", "a river " * 200, *(f"number {n} " * n for n in range(40))]
    found = model.embed(texts, truncate=True)
    expected = F.normalize(pooled(foreign_states(path_of("minilm-l6"), texts, longest=256), "mean"), dim=-1)
    assert (found - expected).abs().max() < 1e-5
    assert torch.cosine_similarity(*model.embed(["a fast car", "a quick automobile"]), dim=0) > 0.7
    assert torch.cosine_similarity(*model.embed(["a fast car", "boiled potatoes"]), dim=0) < 0.3


def test_order_and_neighbours_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BATCH_TOKENS", 50)
    model = load(str(write_encoder(tmp_path)))
    texts = [("river " * (number * 7 % 17)).strip() for number in range(60)]
    alone = torch.cat([model.embed(text) for text in texts])
    torch.testing.assert_close(model.embed(texts), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.embed(texts[::-1]), alone.flip(0), atol=1e-6, rtol=0)
    assert model.embed([]).shape == (0, 32)


def test_token_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    model = load(str(write_encoder(tmp_path)))
    ids = wordpiece().encode_model_input("The river").ids
    given = [ids.tolist(), ids, torch.from_numpy(ids), "The river"]
    assert (model.embed(given) - model.embed("The river")).abs().max() < 1e-6
    for bad in ([], [-1], [10**5], [2**63], [2**70], [1.5], [[1]], ["x"], None, 3):
        with pytest.raises(RequestError, match="token ids"):
            model.embed([bad])
    model.embedder.tokenizer = None
    assert model.embed([[2, 3]]).shape == (1, 32)
    with pytest.raises(RequestError, match="no tokenizer"):
        model.embed("text")


def test_a_text_too_long_is_refused_with_both_lengths_or_cut_when_asked(tmp_path: Path) -> None:
    model = load(str(write_encoder(tmp_path, {"pooling_mode": "mean"})))
    long = "river " * LONGEST
    with pytest.raises(RequestError, match=rf"text 1 is {LONGEST + 2} tokens .* reads {LONGEST} ") as caught:
        model.embed(["short", long])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(RequestError, match=f"text 0 is {LONGEST + 1} tokens"):
        model.embed([[5] * (LONGEST + 1)])
    torch.testing.assert_close(model.embed(long, truncate=True), model.embed("river " * (LONGEST - 2)), atol=1e-6, rtol=0)
    assert model.embed([[5] * 99], truncate=True).shape == (1, 32)
    with pytest.raises(RequestError, match="characters long"):  # without tokenizing it
        model.embed("a" * (LONGEST * 1024 + 1))
    huge = "river " * 10**6
    torch.testing.assert_close(model.embed([huge, "x"], truncate=True)[:1], model.embed(long, truncate=True), atol=1e-6, rtol=0)


def test_texts_are_tokenized_in_portions_that_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(write_encoder(tmp_path)))
    whole = model.embedder.read(SENTENCES)
    monkeypatch.setattr(embedding, "PORTION", 20)
    assert all(map(np.array_equal, model.embedder.read(SENTENCES), whole))


def test_control_tokens_written_in_a_text_stay_text(tmp_path: Path) -> None:
    rows = load(str(write_encoder(tmp_path))).embedder.read(["[SEP] x [CLS]"])
    sep, cls = wordpiece().sep_id, wordpiece().cls_id
    assert rows[0].tolist().count(sep) == 1 and rows[0].tolist().count(cls) == 1


@pytest.mark.parametrize(
    ("pooling", "modules", "named"),
    [
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"), "Dense"),
        ({"pooling_mode": "weightedmean"}, ("Transformer", "Pooling"), "pooling by weightedmean"),
        (OLD | {"pooling_mode_mean_sqrt_len_tokens": True}, ("Transformer", "Pooling"), "pooling by mean_sqrt_len_tokens"),
    ],
)
def test_what_is_not_computed_here_is_named(tmp_path: Path, pooling: dict[str, Any], modules: tuple[str, ...], named: str) -> None:
    model = load(str(write_encoder(tmp_path, pooling, modules)))
    with pytest.raises(RequestError, match=f"ask for {named}, which") as caught:
        model.embed("x")
    assert caught.value.code == "not_supported"
    assert model.hidden([[1, 2]]).shape == (1, 2, 32)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", '{"type": '),
        ("modules.json", "[" * 100_000),
        ("modules.json", '[{"path": ""}]'),
        ("modules.json", "[3]"),
        ("modules.json", json.dumps([{"type": "x.Pooling", "path": "../.."}])),
        ("modules.json", json.dumps([{"type": "x.Pooling", "path": "/etc"}])),
        ("modules.json", b"\xff\xfe"),
        ("1_Pooling/config.json", '{"pooling_mode": 3}'),
        ("1_Pooling/config.json", "[]"),
        ("sentence_bert_config.json", "[]"),
        ("config_sentence_transformers.json", '{"prompts": 3}'),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path: Path, file: str, content: str | bytes) -> None:
    folder = write_encoder(tmp_path, {"pooling_mode": "mean"})
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(str(folder)).embed("x")


def test_decoders_give_the_mean_of_their_last_states(model: Model) -> None:
    texts = ["The river and the mountain", "大模型", "one"]
    states = [model.hidden(model.tokenizer.encode(text))[0] for text in texts]
    torch.testing.assert_close(model.embed(texts), F.normalize(pooled(states, "mean"), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed(""), model.embed([[model.tokenizer.bos_id]]), atol=1e-6, rtol=0)


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    make_foreign("t5").save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="seq2seq"):
        load(str(tmp_path)).embed([[1, 2]])


@example([1, 1, 1, 1, 2, 10], 3)
@example([1] * 11, 5)
@given(st.lists(st.integers(1, 3000), max_size=200), st.integers(1, 5))
def test_batches_hold_every_text_once_and_no_more_than_fits(lengths: list[int], parts: int) -> None:
    found = batches(lengths, parts)
    assert len(found) >= parts or max(lengths, default=1) > sum(lengths) // parts
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[place] for place in batch) <= BATCH_TOKENS for batch in found)
    flat = [lengths[place] for batch in found for place in batch]
    assert flat == sorted(flat)
