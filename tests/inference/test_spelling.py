from __future__ import annotations

import queue
from typing import Any

import pytest
import torch

from danlu.inference.engine import Engine
from danlu.inference.sampling import Sampling
from danlu.inference.spelling import Spelling

from .asking import BACKENDS, backend_of
from .tiny import tiny_module, tiny_tokenizer

PAD = 7  # logits behind the vocabulary's end


def decodes(text: bytes) -> bool:
    """Whether some bytes may follow that make it text, found by trying them: at most three are missing."""
    tails = [b"", *(bytes([a]) + b"\x80" * n for a in (0x80, 0x90, 0xA0) for n in range(3))]
    for tail in tails:
        try:
            (text + tail).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def test_what_fits_is_what_some_text_goes_on_with() -> None:
    tokenizer = tiny_tokenizer()
    spelling, size = Spelling(tokenizer), tokenizer.vocabulary_size
    for begun in ("", "龍", "é", "\ud7ff", "\u0800", "🐉", "\U0010ffff"):
        whole = begun.encode()
        for length in range(len(whole) or 1):
            given = torch.randn(size + PAD)
            kept = spelling.fitting(whole[:length], given)
            assert kept[size:].equal(given[size:])
            for token in range(size):
                expected = decodes(whole[:length] + tokenizer.token_bytes(token))
                assert spelling.fits(whole[:length], token) == expected == bool(kept[token] == given[token])


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_model_that_draws_any_byte_writes_whole_characters(kind: str) -> None:
    tokenizer = tiny_tokenizer(template=None)
    module = tiny_module(tokenizer.vocabulary_size)
    with torch.no_grad():
        module.embedding.weight.mul_(0.01)  # every token nearly as likely as the others
    engine = Engine(backend_of(kind, module), tokenizer)
    pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for seed in range(5):
        engine.submit(tokenizer.encode("丹炉"), Sampling(max_tokens=100, seed=seed), pieces.put)
        text = ""
        while not text.endswith("\n\n"):
            piece = pieces.get(timeout=60)
            text += piece.text + "\n\n" * (piece.finish_reason is not None)
        assert "\ufffd" not in text
        assert any(ord(character) > 127 for character in text)
    engine.close()
