"""The worker's part of the first pass: one chunk of raw pieces becomes cleaned, hashed documents in one file."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from danlu.base.storage import write_whole
from danlu.data.cleaning import clean
from danlu.data.encoding import decode
from danlu.data.fields import parse, render
from danlu.data.filters import Judge
from danlu.data.minhash import band_keys, signatures
from danlu.data.roff import plain_text
from danlu.data.rows import DOCUMENT_BYTES, BadRow, Chunk, Piece, line_end


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What is done to every document; part of a chunk's fingerprint."""

    field: str | None = None
    filters: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    bands: int = 0  # 0: no signatures, near duplicates stay


@dataclass(frozen=True, kw_only=True)
class CleanTask:
    """One chunk, what to do with it, and the file to leave the result in."""

    chunk: Chunk
    cleaning: Cleaning
    path: Path
    names: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class CleanReport:
    """What became of a chunk."""

    path: Path
    size: int
    counts: dict[str, int]


@dataclass
class _Documents:
    """Grows while a chunk is read."""

    texts: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def clean_chunk(task: CleanTask) -> CleanReport:
    """Clean the documents of one chunk and write them whole to `task.path`; a chunk that is there already is not done again."""
    if (done := _counts(task.path)) is not None:
        return CleanReport(path=task.path, size=task.chunk.size, counts=done)
    found = _Documents()
    judge = Judge(task.cleaning.filters, task.cleaning.languages)
    for piece in task.chunk.pieces:
        _take(piece, task, found, judge)
    packed = [text.encode() for text in found.texts]
    hashes = [xxhash.xxh3_128_digest(text) for text in packed]
    arrays: dict[str, NDArray[Any]] = {
        "text": np.frombuffer(b"".join(packed), dtype=np.uint8),
        "sizes": np.array([len(text) for text in packed], dtype=np.int64),
        "hashes": _pairs(hashes),
        "keys": _pairs([key or own for key, own in zip(found.keys, hashes, strict=True)]),
    }
    del packed
    if task.cleaning.bands:
        arrays["signatures"], arrays["signed"] = signatures(found.texts)
        arrays["bands"] = band_keys(arrays["signatures"], task.cleaning.bands)
    arrays["bad"] = np.frombuffer(b"".join(orjson.dumps(row) + b"\n" for row in found.bad), dtype=np.uint8)
    arrays["counts"] = np.frombuffer(orjson.dumps(found.counts), dtype=np.uint8)
    write_whole(task.path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return CleanReport(path=task.path, size=task.chunk.size, counts=dict(found.counts))


def _counts(path: Path) -> dict[str, int] | None:
    """The counts of a chunk that an earlier run finished, or None."""
    try:
        with np.load(path, allow_pickle=False) as done:
            counts: dict[str, int] = orjson.loads(done["counts"].tobytes())
            return counts
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
        return None


def _pairs(digests: list[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _take(piece: Piece, task: CleanTask, found: _Documents, judge: Judge) -> None:
    """Add what one piece holds to what was found so far."""
    if piece.kind == "rows":
        for line, content in piece.rows():
            _add(piece, line, content, task, found, judge)
    else:
        _add(piece, piece.line, piece.content, task, found, judge)


def _add(piece: Piece, line: int, content: bytes, task: CleanTask, found: _Documents, judge: Judge) -> None:
    found.counts["documents_in"] += 1
    try:
        if piece.kind == "bad":
            raise BadRow(content.decode("utf-8", errors="replace"))
        text, transcoded = decode(content)
        if piece.kind == "rows":
            text = render(parse(text), task.cleaning.field)
        elif piece.kind == "man":
            text = plain_text(text)
        if "\0" in text:
            raise BadRow("binary content (NUL characters); expected text")
        found.counts["transcoded"] += transcoded or piece.transcoded
        kept = clean(text, found.counts, html=piece.kind == "html")
        if not kept:
            found.counts["empty"] += 1
            return
        reason = judge(kept)
        if reason:
            found.counts[f"filter: {reason}"] += 1
            return
    except BadRow as error:
        found.counts["bad"] += 1
        found.bad.append({"file": task.names[piece.source], "line": line, "reason": str(error)})
        return
    if len(kept) <= DOCUMENT_BYTES // 4 or len(packed := kept.encode()) <= DOCUMENT_BYTES:
        found.texts.append(kept)
        found.keys.append(piece.key)
        return
    key = piece.key or xxhash.xxh3_128_digest(packed)  # a giant row is cut as a giant file is: its parts share a split
    begin = 0
    while begin < len(packed):
        end = begin + line_end(packed[begin : begin + DOCUMENT_BYTES + 1])
        found.texts.append(packed[begin:end].decode())
        found.keys.append(key)
        found.counts["documents_in"] += begin > 0
        begin = end
