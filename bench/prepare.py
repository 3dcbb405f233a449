"""How fast `danlu prepare` is on the kernel documentation, and how much memory it takes on ten times as many documents.

    python bench/prepare.py [--tokenizer NAME] [--times 3] [--copies 10] [--workers 2] [--skip speed|memory]

One JSON line a measurement. Speed: megabytes of cleaned text a second of wall time, cleaning, deduplication, splitting and
tokenizing together, from the call to the written manifest; the whole process with its imports beside it. Memory: the
largest sum of resident memory of the process and all its children, sampled every 50 ms (shared pages are counted in each),
on `copies` times the documents, each copy with the paragraphs of every document shuffled differently.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from danlu.base.fetching import path_of

CODE = (
    "import sys; from danlu.recipes.prepare import prepare; "
    "prepare(sys.argv[1], out=sys.argv[2], tokenizer=sys.argv[3], workers=int(sys.argv[4]), json=True)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="smollm2-135m-instruct")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip", choices=("speed", "memory"))
    arguments = parser.parse_args()
    source = path_of("linux-doc")
    if arguments.skip != "speed":
        for _ in range(arguments.times):
            show("speed", run(source, arguments.tokenizer, arguments.workers))
    if arguments.skip != "memory":
        with tempfile.TemporaryDirectory() as folder:
            copies = shuffle(source, Path(folder), arguments.copies)
            show("memory", run(copies, arguments.tokenizer, arguments.workers))


def show(what: str, measured: dict[str, object]) -> None:
    """Print one measurement."""
    print(json.dumps({"what": what, **measured}), flush=True)


def run(source: Path, tokenizer: str, workers: int) -> dict[str, object]:
    """Prepare in a process of its own, and watch the memory of all its processes."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as told:
        begin = time.monotonic()
        arguments = [sys.executable, "-c", CODE, str(source), f"{folder}/out", tokenizer, str(workers)]
        process = psutil.Popen(arguments, stdout=told, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
        seconds = time.monotonic() - begin
        if process.returncode:
            raise SystemExit(f"danlu prepare ended with {process.returncode}")
        told.seek(0)
        result = json.loads(told.readlines()[-1])
    return {
        "documents_in": result["counts"]["documents_in"],
        "documents_kept": result["counts"]["documents_kept"],
        "megabytes": round(result["bytes_cleaned"] / 1e6, 1),
        "megabytes_per_second": round(result["bytes_cleaned"] / 1e6 / result["seconds"], 2),
        "seconds": round(result["seconds"], 2),
        "seconds_with_imports": round(seconds, 2),
        "stages": {name: round(value, 2) for name, value in result["stages"].items()},
        "peak_resident_mebibytes": round(peak / 2**20),
    }


def resident(process: psutil.Process) -> int:
    """Resident memory of a process and all its children, in bytes."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def shuffle(source: Path, folder: Path, copies: int) -> Path:
    """Write JSON lines of every document `copies` times, its paragraphs in another order each time."""
    texts = []
    for path in sorted(source.rglob("*.rst*")):
        content = path.read_bytes()
        texts.append((gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", errors="replace"))
    for copy in range(copies):
        chance = random.Random(copy)
        with (folder / f"{copy:03d}.jsonl").open("w", encoding="utf-8") as file:
            for text in texts:
                paragraphs = text.split("\n\n")
                chance.shuffle(paragraphs)
                file.write(json.dumps({"text": "\n\n".join(paragraphs)}, ensure_ascii=False) + "\n")
    return folder


if __name__ == "__main__":
    main()
