"""MiniLM's vectors of 2,000 texts by Danlu and by sentence-transformers, float32, two threads, taking turns; medians of three.

SENTENCE_TRANSFORMERS_PYTHON=PATH python -m bench.embed

PATH is the python of an environment that holds sentence-transformers, which Danlu does not install; without it Danlu runs alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODEL, TEXTS = "minilm-l6", "wikipedia-leads"
COUNT, TURNS, THREADS = 2000, 3, 2
BATCH_SIZES = (8, 16, 32, 64, 128)  # of the peer, which computes with its best


def main() -> None:
    """Print one JSON object a set of texts: texts a second of each, their ratio, and the largest difference of two numbers."""
    import torch

    import danlu
    from danlu.base.fetching import path_of

    torch.set_num_threads(THREADS)
    model = danlu.load(MODEL)
    python = os.environ.get("SENTENCE_TRANSFORMERS_PYTHON")
    peer = Peer(python, path_of(MODEL)) if python else None
    for what, texts in workloads(path_of(TEXTS)).items():
        model.embed(texts[:100], truncate=True)
        batch_size = None if peer is None else max(BATCH_SIZES, key=lambda size: 1 / peer.seconds(texts[:256], size))
        ours, theirs = [], []
        for _ in range(TURNS):
            began = time.perf_counter()
            vectors = model.embed(texts, truncate=True).numpy()
            ours.append(len(texts) / (time.perf_counter() - began))
            if peer is not None:
                theirs.append(len(texts) / peer.seconds(texts, batch_size))
        told: dict[str, Any] = {"what": what, "danlu": round(statistics.median(ours), 1)}
        if peer is not None:
            pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            told |= {"sentence-transformers": round(statistics.median(theirs), 1), "their_batch_size": batch_size}
            told |= {"ratio": round(statistics.median(pairs), 2), "largest_difference": float(np.abs(vectors - peer.vectors()).max())}
        print(json.dumps(told), flush=True)


def workloads(file: Path) -> dict[str, list[str]]:
    """First sentences of articles, and the same with every fourth article's whole lead."""
    leads = [article["extract"] for article in json.loads(file.read_text(encoding="utf-8")).values() if article["extract"]][:COUNT]
    first = [lead.partition(". ")[0] for lead in leads]
    mixed = [lead if place % 4 == 0 else first[place] for place, lead in enumerate(leads)]
    return {"first sentences": first, "sentences and leads": mixed}


class Peer:
    """sentence-transformers in a process of its own."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.kept = Path(self.folder.name) / "vectors.npy"
        command = [python, __file__, str(folder), str(self.kept)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def seconds(self, texts: Sequence[str], batch_size: int | None) -> float:
        """Seconds that the vectors take."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([texts, batch_size]) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def vectors(self) -> np.ndarray:
        """The vectors that came last."""
        return np.load(self.kept, allow_pickle=False)


def compute(folder: str, kept: str) -> None:
    """What the peer's process does: a line of texts in, a line of seconds out."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    model.encode(["warm"])
    for line in sys.stdin:
        texts, batch_size = json.loads(line)
        began = time.perf_counter()
        vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        seconds = time.perf_counter() - began
        np.save(kept, vectors)
        print(seconds, flush=True)


if __name__ == "__main__":
    compute(*sys.argv[1:]) if len(sys.argv) > 1 else main()
