"""Danlu's engine and its peers take turns on SmolLM2-135M-Instruct: tokens per second of each, and Danlu's share of the best.

python -m bench.peers FOLDER SCRIPT [TURNS]: FOLDER is what the peers' setup made (its venv, hf, ct2, ov4, ov8, q4_0.gguf), SCRIPT the
peers' decode.py. Run nothing beside it. The last lines are JSON: the best figure of each engine over the turns, and the ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
PEERS = ("llama.cpp", "openvino4", "openvino8")
LONG = 2000  # tokens behind each of 8 answers

Key = tuple[str, int, int]  # what, batch, context
Figures = dict[Key, dict[str, float]]


def main(folder: Path, script: Path, turns: int) -> None:
    """Let everybody run `turns` times, one after the other, and print what they reached."""
    python, here = folder / "venv" / "bin" / "python", Path(__file__)
    figures: Figures = {}
    for _ in range(turns):
        danlu = [sys.executable, "-m", "danlu", "bench", "decode", MODEL, "--json"]
        note(figures, "danlu", run(danlu))
        note(figures, "danlu", run([*danlu, "--batch", "8", "--context", str(LONG), "--tokens", "128", "--prompt", "0"]))
        for peer in PEERS:
            note(figures, peer, run([str(python), str(script), str(folder), peer]))
            note(figures, peer, run([str(python), str(here.with_name("long_context.py")), str(folder), peer, str(LONG), "8"]))
    for (what, batch, context), found in sorted(figures.items()):
        others = {name: speed for name, speed in found.items() if name != "danlu"}
        if not others:
            continue
        best = max(others, key=lambda name: others[name])
        told = {"what": what, "batch": batch, "context": context} | found
        print(json.dumps(told | {"best_peer": best, "ratio": round(found["danlu"] / others[best], 2)}))


def run(command: list[str]) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def note(figures: Figures, name: str, lines: list[dict[str, Any]]) -> None:
    """Keep the best figure of each kind, and show it as it comes."""
    for line in lines:
        if "tokens_per_second" in line:
            key = (line["what"], line["batch"], line.get("context", 0))
            kept = figures.setdefault(key, {})
            kept[name] = max(kept.get(name, 0.0), line["tokens_per_second"])
        print(json.dumps({"from": name} | line), file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 2)
