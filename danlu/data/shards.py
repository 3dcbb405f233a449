"""Writes tokens as memory-mappable shards, each whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from danlu.base.storage import PARTIAL, sync_folder, write_whole

SHARD_TOKENS = 1 << 27  # 256 MiB of 16-bit tokens


class ShardWriter:
    """Appends documents to the shards of one split; a document never crosses shards.

    `finish` gives what the manifest says about them.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], limit: int = SHARD_TOKENS) -> None:
        self.folder, self.split, self.dtype, self.limit = folder, split, dtype, limit
        self.shards: list[dict[str, Any]] = []
        self.file: BinaryIO | None = None
        self.tokens = 0
        self.rows: list[NDArray[np.int64]] = []

    def append(self, tokens: NDArray[Any], lengths: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Add documents: their tokens one after another, their numbers of tokens and of UTF-8 bytes."""
        ends = np.cumsum(lengths)
        done = 0
        while done < len(lengths):
            before = int(ends[done - 1]) if done else 0
            fit = int(np.searchsorted(ends, before + self.limit - self.tokens, side="right"))
            if fit <= done:  # the next document does not fit any more
                if self.tokens:
                    self._close()
                    continue
                fit = done + 1  # a document longer than a shard has one of its own
            starts = np.concatenate([[before], ends[done : fit - 1]]) - before + self.tokens
            self.rows.append(np.stack([starts, sizes[done:fit]], axis=1))
            self._write(tokens[before : int(ends[fit - 1])])
            done = fit

    def finish(self) -> dict[str, Any]:
        """Close the last shard and describe all of them."""
        if self.file:
            self._close()
        totals = {name: sum(shard[name] for shard in self.shards) for name in ("documents", "tokens", "bytes")}
        return {**totals, "shards": self.shards}

    def _name(self, what: str) -> str:
        return f"{self.split}-{len(self.shards):05d}.{what}.npy"

    def _write(self, tokens: NDArray[Any]) -> None:
        if self.file is None:
            self.file = (self.folder / f"{PARTIAL}{self._name('tokens')}").open("wb")
            self._header()
        self.file.write(np.ascontiguousarray(tokens).data)
        self.tokens += len(tokens)

    def _header(self) -> None:
        """numpy pads the header so that a larger length fits in place: it is written again when the length is known."""
        assert self.file is not None
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.tokens,)}
        npy.write_array_header_1_0(self.file, header)

    def _close(self) -> None:
        assert self.file is not None
        self.file.seek(0)
        self._header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        name, rows_name = self._name("tokens"), self._name("documents")
        path = self.folder / name
        os.replace(self.folder / f"{PARTIAL}{name}", path)
        sync_folder(self.folder)
        rows = np.concatenate(self.rows).astype(np.int64)
        write_whole(self.folder / rows_name, lambda file: np.save(file, rows, allow_pickle=False))
        files = {"tokens_file": describe(path), "documents_file": describe(self.folder / rows_name)}
        self.shards.append({"documents": len(rows), "tokens": self.tokens, "bytes": int(rows[:, 1].sum()), **files})
        self.file, self.tokens, self.rows = None, 0, []


def describe(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}
