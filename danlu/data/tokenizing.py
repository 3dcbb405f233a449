"""The worker's part of the last pass: kept documents of one cleaned chunk become token ids in one file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.base.storage import write_whole
from danlu.data.splitting import SPLITS, align
from danlu.inputs.tokenizer import END_OF_TEXT, Tokenizer

WIDE = 1 << 16  # vocabularies up to this size fit 16-bit token ids


@dataclass(frozen=True, kw_only=True)
class TokenTask:
    """The segments (document, begin, end, split) of one cleaned chunk to tokenize, and the file to leave the result in."""

    cleaned: Path
    segments: NDArray[np.int64]
    tokenizer: Tokenizer
    path: Path


@dataclass(frozen=True, kw_only=True)
class TokenReport:
    """Which chunk is done, and how many bytes of text it held."""

    path: Path
    size: int


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= WIDE else np.dtype("<u4")


def separator_id(tokenizer: Tokenizer) -> int | None:
    """The token behind each document: the end of text, which for a chat model's tokenizer is not what ends a turn; BERT's separator."""
    named: int | None = tokenizer.raw.token_to_id(END_OF_TEXT)
    if named in tokenizer.special_ids:
        return named
    return tokenizer.sep_id if tokenizer.end_of_text_id is None else tokenizer.end_of_text_id


def tokenize_chunk(task: TokenTask) -> TokenReport:
    """Tokenize one chunk and write it whole; a chunk that is there already is not done again."""
    size = int((task.segments[:, 2] - task.segments[:, 1]).sum())
    if _is_whole(task.path):
        return TokenReport(path=task.path, size=size)
    tokenizer = task.tokenizer
    dtype = token_dtype(tokenizer.vocabulary_size)
    end = np.array([separator_id(tokenizer)], dtype=dtype)
    arrays: dict[str, NDArray[Any]] = {}
    texts = list(read_segments(task.cleaned, task.segments))
    for number, split in enumerate(SPLITS):
        chosen = [text for text, segment in zip(texts, task.segments, strict=True) if segment[3] == number and text]
        if not chosen:
            continue
        pieces: list[NDArray[Any]] = []
        lengths = []
        for ids in tokenizer.encode_batch([text.decode() for text in chosen]):
            pieces += (np.asarray(ids, dtype=dtype), end)
            lengths.append(len(ids) + 1)
        arrays[f"{split}.tokens"] = np.concatenate(pieces)
        arrays[f"{split}.lengths"] = np.array(lengths, dtype=np.int64)
        arrays[f"{split}.sizes"] = np.array([len(text) for text in chosen], dtype=np.int64)
    arrays["whole"] = np.ones(1, dtype=np.uint8)
    write_whole(task.path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return TokenReport(path=task.path, size=size)


def read_segments(cleaned: Path, segments: NDArray[np.int64]) -> Iterator[bytes]:
    """The text of each segment; cuts inside a document are moved to the end of a line."""
    with np.load(cleaned, allow_pickle=False) as chunk:
        text = chunk["text"].tobytes()
        sizes = chunk["sizes"]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for document, begin, end, _ in segments.tolist():
        start = int(starts[document])
        if begin == 0 and end == sizes[document]:
            yield text[start : start + end]
        else:
            whole = text[start : int(starts[document + 1])]
            yield whole[align(whole, begin) : align(whole, end)]


def _is_whole(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as done:
            return "whole" in done
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return False
