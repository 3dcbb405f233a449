"""What gpt/tiny reaches on the Wikipedia leads in 90 seconds, from prepared text, validation not counted in the 90.

python -m bench.train [BUDGET]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import danlu


def main() -> None:
    """Print one JSON object: bits per byte on the validation split, tokens a second, wall seconds."""
    budget = sys.argv[1] if len(sys.argv) > 1 else "90s"
    with tempfile.TemporaryDirectory() as folder:
        danlu.prepare("wikipedia-leads", out=Path(folder) / "text")
        result = danlu.train("gpt/tiny", data=f"{folder}/text", budget=budget, runs=Path(folder), name="bench")
    kept = ("steps", "tokens", "train_tokens_per_second", "val_bits_per_byte", "wall_seconds", "precision", "parameters")
    print(json.dumps({"what": f"gpt/tiny, {budget}"} | {key: getattr(result, key) for key in kept}))


if __name__ == "__main__":
    main()
