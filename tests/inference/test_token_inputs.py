from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.base.errors import RequestError
from danlu.inference.model import load
from danlu.models.base import Head
from danlu.models.loading import save_model
from danlu.models.rnn import FAMILY, RNN, RNNConfig
from tests.models.shapes import distance, foreign_logits, make_foreign, some_ids, write_foreign

VISIBLE = torch.tensor([[1] * 17, [1] * 9 + [0] * 8, [1] + [0] * 16]).bool()
READERS = ["bert-words", "bert-classes", "bert-labels", "bert-spans", "roberta-words", "roberta-classes", "llama-grouped", "gpt2"]


@pytest.mark.parametrize("name", READERS)
def test_padded_texts_answer_as_in_transformers(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path)
    model = load(str(tmp_path))
    pad = getattr(foreign.config, "pad_token_id", None) or 0
    ids = some_ids(90).clamp(min=4).where(VISIBLE, pad)
    with torch.inference_mode():
        theirs = foreign(input_ids=ids, attention_mask=VISIBLE.long())
    expected = torch.stack((theirs.start_logits, theirs.end_logits), -1) if "start_logits" in theirs else theirs.logits
    found = model.logits(ids, visible=VISIBLE)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    seen = slice(None) if expected.ndim == 2 else VISIBLE  # what is said of padding counts for nothing
    assert distance(found[seen], expected[seen]) < 1e-4
    if not model.generates:
        assert distance(model.logits(ids)[seen], expected[seen]) > 1e-2  # the mask is what makes them equal
    assert model.hidden(ids, visible=VISIBLE).shape == (3, 17, model.config.width)
    assert distance(model.logits(ids[0].tolist(), visible=[True] * 17)[0], found[0]) < 1e-4


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_read_a_source_and_go_on_from_targets(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path)
    model, source, targets = load(str(tmp_path)), some_ids(97), some_ids(97, length=6)
    assert distance(model.logits(source, targets), foreign_logits(foreign, targets, source)) < 1e-4
    with torch.inference_mode():
        expected = foreign(input_ids=source, attention_mask=VISIBLE.long(), decoder_input_ids=targets).logits
    assert distance(model.logits(source, targets, visible=VISIBLE), expected) < 1e-4
    with pytest.raises(RequestError, match="target_ids"):
        model.logits(source)


def test_recurrent_classes_stand_at_each_texts_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = Head(kind="classes", names=("a", "b", "c"))
    save_model(RNN(RNNConfig(cell="gru", vocabulary_size=90, context_length=64, width=24, num_layers=1, head=head)), FAMILY, None, tmp_path)
    model, ids = load(str(tmp_path)), some_ids(90)
    expected = torch.cat([model.logits(row[: int(shown.sum())]) for row, shown in zip(ids, VISIBLE, strict=True)])
    assert distance(model.logits(ids, visible=VISIBLE), expected) < 1e-5


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"ids": [[]]}, "ids"),
        ({"ids": [[[1]]]}, "ids"),
        ({"ids": [[-1]]}, "ids"),
        ({"ids": [[1], [1, 2]]}, "ids"),
        ({"ids": "text"}, "ids"),
        ({"ids": [[2**70]]}, "ids"),
        ({"ids": [[97]]}, "ids"),
        ({"ids": [[1] * 65]}, "ids"),
        ({"ids": [[1]], "target_ids": [[1]]}, "target_ids"),
        ({"ids": [[1, 2]], "visible": [[True]]}, "visible"),
        ({"ids": [[1, 2]], "visible": [[False, True]]}, "visible"),
        ({"ids": [[1, 2]], "visible": [[False, False]]}, "visible"),
        ({"ids": [[1, 2, 3]], "visible": [[True, False, True]]}, "visible"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    model = load(str(write_foreign("bert-words", tmp_path)))
    for ask in (model.logits, model.hidden):
        with pytest.raises(RequestError) as caught:
            ask(**given)
        assert caught.value.param == named


def test_an_encoder_reads_and_does_not_generate(tmp_path: Path) -> None:
    with load(str(write_foreign("bert-plain", tmp_path))) as model:
        asks = (
            lambda: model.generate([1]),
            lambda: model.stream([1]),
            lambda: model.chat([{"role": "user", "content": "x"}]),
            lambda: model.chat_stream([{"role": "user", "content": "x"}]),
            lambda: model.engine,
        )
        for ask in asks:
            with pytest.raises(RequestError, match="encoder: it reads texts and does not generate; use embed") as caught:
                ask()
            assert caught.value.code == "not_supported"
        with pytest.raises(RequestError, match="use embed or hidden"):
            model.logits([[1]])


def test_a_closed_model_makes_no_engine(tmp_path: Path) -> None:
    model = load(str(write_foreign("gpt2", tmp_path)))
    model.close()
    with pytest.raises(RequestError, match="was closed") as caught:
        model.generate([1])
    assert caught.value.code == "engine_stopped"
