"""Loss on a text, against transformers' own loss on the same windows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.base.errors import DataError
from danlu.evaluation.perplexity.loss import measure_text
from danlu.models.gpt import FAMILY, GPT, size
from danlu.models.loading import save_model

CONTEXT = 32


@pytest.fixture(scope="module")
def module() -> GPT:
    torch.manual_seed(0)
    return GPT(size("nano", 300, CONTEXT)).eval()


def _pieces(length: int) -> list[np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 300, length).astype(np.uint16)
    return [tokens[: length // 3], tokens[length // 3 :]]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 16 * CONTEXT, 16 * CONTEXT + 5])
def test_every_token_counts_once(module: GPT, length: int, tmp_path: Path) -> None:
    measured = measure_text(module, _pieces(length), 1000, start_id=7, show=False)
    assert measured.tokens == length
    save_model(module, FAMILY, None, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    stream = torch.tensor([7, *np.concatenate(_pieces(length)).tolist()])
    nats = 0.0
    with torch.inference_mode():
        for begin in range(0, length, CONTEXT):
            window = stream[begin : begin + CONTEXT + 1]
            nats += torch.nn.functional.cross_entropy(theirs(window[None, :-1]).logits[0], window[1:], reduction="sum").item()
    assert measured.loss_nats == pytest.approx(nats / length, rel=1e-5)
    assert measured.bits_per_byte == pytest.approx(nats / math.log(2) / 1000, rel=1e-5)
    assert measured.perplexity == pytest.approx(math.exp(nats / length), rel=1e-4)


def test_how_the_stream_is_cut_changes_nothing(module: GPT) -> None:
    tokens = np.concatenate(_pieces(700))
    whole = measure_text(module, [tokens], 700, start_id=0, show=False)
    parts = measure_text(module, [tokens[i : i + 9] for i in range(0, 700, 9)], 700, start_id=0, show=False)
    assert parts.loss_nats == pytest.approx(whole.loss_nats, rel=1e-6)
    assert module.training is False


def test_a_share_of_windows_is_spread_and_counts_for_its_bytes(module: GPT) -> None:
    [tokens] = [np.concatenate(_pieces(40 * CONTEXT))]
    part = measure_text(module, [tokens[:300], tokens[300:]], 80 * CONTEXT, start_id=7, show=False, share=0.25)
    assert part.tokens == 10 * CONTEXT and part.bytes == 20 * CONTEXT
    nats = []
    for begin in range(0, 40 * CONTEXT, 4 * CONTEXT):
        before = int(tokens[begin - 1]) if begin else 7
        nats.append(measure_text(module, [tokens[begin : begin + CONTEXT]], 1, start_id=before, show=False).loss_nats)
    assert part.loss_nats == pytest.approx(sum(nats) / 10, rel=1e-5)
    assert part.bits_per_byte == pytest.approx(sum(nats) / 10 / math.log(2) / 2, rel=1e-5)
    assert measure_text(module, [tokens], 80 * CONTEXT, start_id=0, show=False, share=1e-9).tokens == CONTEXT  # never nothing


def test_nothing_to_measure(module: GPT) -> None:
    with pytest.raises(DataError, match="no tokens"):
        measure_text(module, [], 0, start_id=0, show=False)
