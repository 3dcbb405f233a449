"""Damaged GGUF and safetensors files: each loads or is refused in one line, and none takes long.

python -m tests.faults.mutants [COUNT]     10,000 by default; prints what became of them
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from danlu.base.errors import CheckpointError, ConfigError
from danlu.models.loading import load_model
from tests.models.gguf_files import write_gguf
from tests.models.shapes import write_foreign

LONGEST_SECONDS = 5.0
GGUF = ("llama-untied", "qwen2", "qwen3")
FOLDERS = ("gpt2", "llama-grouped", "bert-pretraining", "t5-gated", "bart")


def damage(whole: bytes, header: int, dice: random.Random) -> bytes:
    """A few bytes changed, a stretch repeated or left out, or the end cut off; mostly within the header."""
    changed = bytearray(whole)
    for _ in range(dice.choice([1, 1, 2, 4])):
        place = dice.randrange(dice.choice([header, header, header, len(whole)]))
        count = dice.choice([1, 1, 2, 4, 8, 32])
        changed[place : place + count] = dice.choice(
            [dice.randbytes(count), b"\xff" * count, b"\0" * count, b"", bytes(changed[place : place + count]) * 2]
        )
    return bytes(changed[: dice.randrange(len(changed))] if dice.random() < 0.1 else changed)


def outcome(path: Path) -> str:
    """ "loaded" or "refused". Raises: AssertionError if a refusal is no single line, or it took too long; whatever a bug raises."""
    began = time.monotonic()
    try:
        load_model(str(path))
        result = "loaded"
    except (CheckpointError, ConfigError) as error:
        assert "\n" not in str(error), str(error)
        result = "refused"
    assert time.monotonic() - began < LONGEST_SECONDS, f"{path} took {time.monotonic() - began:.1f} s"
    return result


def run(count: int, folder: Path, seed: int = 0) -> dict[str, Counter[str]]:
    """Try `count` mutants, spread evenly over the kinds of file."""
    dice = random.Random(seed)
    sources: list[tuple[str, Path, int]] = []
    for shape in GGUF:
        write_gguf(folder / f"{shape}.gguf", shape)
        content = (folder / f"{shape}.gguf").read_bytes()
        sources.append((f"gguf {shape}", folder / f"{shape}.gguf", content.index(b"ffn_down") + 2500))
    for shape in FOLDERS:
        weights = write_foreign(shape, folder / shape) / "model.safetensors"
        sources.append((f"safetensors {shape}", weights, 8 + int.from_bytes(weights.read_bytes()[:8], "little")))
    originals = {path: path.read_bytes() for _, path, _ in sources}
    found: dict[str, Counter[str]] = {name: Counter() for name, _, _ in sources}
    for number in range(count):
        name, path, header = sources[number % len(sources)]
        path.write_bytes(damage(originals[path], min(header, len(originals[path])), dice))
        try:
            found[name][outcome(path if path.suffix == ".gguf" else path.parent)] += 1
        except BaseException:
            kept = Path(tempfile.gettempdir()) / f"mutant-{number}{path.suffix}"
            kept.write_bytes(path.read_bytes())
            print(f"mutant {number} of {name} is kept as {kept}", file=sys.stderr)
            raise
        path.write_bytes(originals[path])
    return found


def main() -> None:
    """Print one JSON object: outcomes by kind of file."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = run(count, Path(folder))
    print(
        json.dumps({"mutants": count, "seconds": round(time.monotonic() - began, 1)} | {name: dict(each) for name, each in found.items()})
    )


if __name__ == "__main__":
    main()
