"""How soon gpt/tiny reaches a loss, beside nanoGPT's own recipe for a processor, on 1.2 MB of the Wikipedia leads.

python -m bench.loss_in_time [NANOGPT]     NANOGPT: a clone of its repository, to be run first; without it only Danlu runs

The split is nanoGPT's: the first 90% of the text to learn from, the last 10% to measure on. Wall times are those of whole commands, the
training of the tokenizer, all imports and the last evaluation counted. Bits per byte: nats over all held-out tokens / ln 2 / bytes.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from danlu.base.fetching import path_of

SIZE = 1_200_000
FLAGS = {
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64, "batch_size": 12, "n_layer": 4,
    "n_head": 4, "n_embd": 128, "max_iters": 2000, "lr_decay_iters": 2000, "dropout": 0.0,
}  # fmt: skip


def leads() -> str:
    """The first articles' leads, as many bytes of them as nanoGPT's example has."""
    articles = json.loads(Path(path_of("wikipedia-leads")).read_text())
    text = "\n\n".join(article["extract"] for article in articles.values())
    return text.encode()[:SIZE].decode(errors="ignore")


def nanogpt(clone: Path, text: str, folder: Path) -> tuple[float, float]:
    """Wall seconds and held-out bits per byte of its recipe, on characters."""
    data = clone / "data" / "leads_char"
    data.mkdir(exist_ok=True)
    characters = sorted(set(text))
    number = {character: index for index, character in enumerate(characters)}
    cut = int(len(text) * 0.9)
    for name, part in (("train", text[:cut]), ("val", text[cut:])):
        np.array([number[character] for character in part], dtype=np.uint16).tofile(data / f"{name}.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": number}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", "--dataset=leads_char", f"--out_dir={folder}/out", *flags]
    began = time.perf_counter()
    said = subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - began
    nats = float(re.findall(r"val loss (\d+\.\d+)", said)[-1])  # of a character
    return seconds, nats / math.log(2) * len(text[cut:]) / len(text[cut:].encode())


def danlu(text: Path, folder: Path, budget: float) -> tuple[float, dict[str, float]]:
    """Wall seconds of both commands, and what training said."""
    began = time.perf_counter()
    out = folder / f"text-{budget:g}"
    subprocess.run([sys.executable, "-m", "danlu", "prepare", str(text), "--out", str(out)], check=True, capture_output=True)
    left = budget - (time.perf_counter() - began)
    command = ["train", "gpt/tiny", "--data", str(out), f"--budget={left:.1f}s", f"--runs={folder}", f"--name=lit-{budget:g}", "--json"]
    done = subprocess.run([sys.executable, "-m", "danlu", *command], check=True, capture_output=True, text=True)
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one JSON object a run."""
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), leads()
        (folder / "leads.txt").write_text(text)
        whole = 67.0
        if len(sys.argv) > 1:
            whole, bits = nanogpt(Path(sys.argv[1]).resolve(), text, folder)
            print(json.dumps({"what": "nanoGPT", "wall_seconds": round(whole, 1), "val_bits_per_byte": round(bits, 3)}), flush=True)
        for share in (1 / 6, 1 / 4, 1):
            seconds, said = danlu(folder / "leads.txt", folder, whole * share)
            kept = {key: said[key] for key in ("val_bits_per_byte", "steps", "tokens", "train_tokens_per_second", "wall_seconds")}
            told = {"what": "danlu", "budget": round(whole * share, 1), "whole_seconds": round(seconds, 1)}
            print(json.dumps(told | kept), flush=True)


if __name__ == "__main__":
    main()
