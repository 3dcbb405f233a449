from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from danlu.base.errors import CheckpointError
from danlu.models.loading import load_model

from .gguf_files import write_gguf
from .shapes import distance, foreign_logits, own_logits, some_ids


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("shape", ["llama-grouped", "llama-untied", "qwen2", "qwen3"])
def test_small_files_give_the_logits_of_their_model(shape: str, quantization: str, tmp_path: Path) -> None:
    foreign = write_gguf(tmp_path / "model.gguf", shape, quantization)
    for name in ("model.gguf", ""):  # the file, or a folder that holds just it
        loaded = load_model(str(tmp_path / name))
        ids = some_ids(97)
        assert distance(own_logits(loaded.module, ids), foreign_logits(foreign, ids)) < 1e-4
        assert loaded.tokenizer is not None and loaded.tokenizer.end_of_text_id == 95


def test_smollm2_gives_the_logits_of_transformers() -> None:
    loaded = load_model("smollm2-135m-instruct")
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode("The capital of France is Paris; 1234 + 5 =\n\n  丹炉 😀, isn't it?")
    foreign = AutoModelForCausalLM.from_pretrained(loaded.path.parent, gguf_file=loaded.path.name, dtype=torch.float32).eval()
    batch = torch.tensor([ids])
    assert distance(own_logits(loaded.module, batch), foreign_logits(foreign, batch)) < 1e-3


def test_scaled_positions_and_unknown_cuttings_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "scaled.gguf", "llama-grouped", **{"llama.rope.scaling.type": "yarn"})
    with pytest.raises(CheckpointError, match="scaled rotary positions"):
        load_model(str(tmp_path / "scaled.gguf"))
    write_gguf(tmp_path / "cutting.gguf", "llama-grouped", **{"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(CheckpointError, match="kind 'rwkv'"):
        load_model(str(tmp_path / "cutting.gguf"))


def outcome(file: Path) -> bool:
    """True if it loads, False if it is refused in one line; anything else fails the test, and so does taking long."""
    began = time.monotonic()
    try:
        load_model(str(file))
    except CheckpointError as error:
        assert "\n" not in str(error)
        assert file.name in str(error)
        return False
    finally:
        assert time.monotonic() - began < 5
    return True


def test_files_cut_anywhere_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", "qwen3")
    whole = (tmp_path / "whole.gguf").read_bytes()
    last = len(whole) - 33  # the last tensor may be followed by padding
    for length in [0, 1, 4, 8, 23, 24, 25, *range(100, last, last // 40), last]:
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        assert not outcome(tmp_path / "cut.gguf"), length


@pytest.mark.parametrize("shape", ["llama-untied", "qwen2", "qwen3"])
def test_files_damaged_anywhere_are_read_or_refused(shape: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", shape)
    whole = (tmp_path / "whole.gguf").read_bytes()
    header = whole.index(b"ffn_down") + 2500  # most damage is done to settings and the table of tensors
    dice = random.Random(shape)
    results = []
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            place = dice.randrange(dice.choice([header, header, len(whole)]))
            count = dice.choice([1, 1, 4, 8])
            damaged[place : place + count] = dice.choice([dice.randbytes(count), b"\xff" * count, b"\0" * count])
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        results.append(outcome(tmp_path / "damaged.gguf"))
    assert len(set(results)) == 2  # some change a weight or a word, some break the file
