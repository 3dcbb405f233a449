"""Two minutes of a small GPT-2 with everything counted: a whole command of Danlu's beside a plain loop of transformers', taking turns.

python -m bench.two_minutes [TURNS]

The shape of bench.steps, the same 8,192 words and the same tokens of the Wikipedia leads, AdamW, from the same random weights. Imports,
the last evaluation and saving count for Danlu; for transformers, which does not evaluate here, imports and saving.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import danlu
from bench.steps import CONTEXT, HEADS, LAYERS, ROWS, WIDTH, WORDS

SECONDS = 120.0
RATE = 1e-3
PEER = """
import sys, time
began = time.perf_counter()
import numpy as np, torch
from transformers import GPT2LMHeadModel

folder, tokens, context, rows, seconds, rate, out = sys.argv[1:]
context, rows, seconds = int(context), int(rows), float(seconds)
ids = np.load(tokens, mmap_mode="r")
model = GPT2LMHeadModel.from_pretrained(folder)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=float(rate))
draw, seen = np.random.default_rng(0), 0
while time.perf_counter() - began < seconds:
    starts = draw.integers(len(ids) - context, size=rows)
    batch = torch.from_numpy(np.stack([ids[start : start + context] for start in starts]).astype(np.int64))
    model(input_ids=batch, labels=batch).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seen += batch.numel()
model.save_pretrained(out)
print(seen)
"""


def main() -> None:
    """Print one JSON object a run, and the ratio of each turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, start = folder / "text", folder / "start"
        danlu.prepare("wikipedia-leads", out=text, vocabulary_size=WORDS)
        shutil.copytree(text / "tokenizer", start)
        torch.manual_seed(0)
        shape = {"vocab_size": WORDS, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
        GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)).save_pretrained(
            start
        )
        for turn in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            options = f"--budget={SECONDS:g}s --batch-rows={ROWS} --context-length={CONTEXT} --optimizer=adamw --rate={RATE} --json".split()
            mine = [sys.executable, "-m", "danlu", "train", str(start), f"--data={text}", f"--runs={folder}", f"--name=t{turn}", *options]
            ours = told("danlu", mine, lambda said: json.loads(said)["tokens"])
            numbers = [str(CONTEXT), str(ROWS), str(SECONDS), str(RATE)]
            peer = [sys.executable, "-c", PEER, str(start), str(next(text.glob("train-*.tokens.npy"))), *numbers, str(folder / "out")]
            print(json.dumps({"turn": turn, "ratio": round(ours / told("transformers", peer, int), 2)}), flush=True)


def told(who: str, command: list[str], tokens_in: Callable[[str], int]) -> float:
    """Tokens a second of a whole command, read from the last line that it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{who} ended with {done.returncode}: {done.stderr[-600:]}")
    seconds = time.perf_counter() - began
    speed = tokens_in(done.stdout.splitlines()[-1]) / seconds
    print(json.dumps({"who": who, "tokens_per_second": round(speed, 1), "whole_seconds": round(seconds, 1)}), flush=True)
    return speed


if __name__ == "__main__":
    main()
