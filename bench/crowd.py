"""500 requests of mixed lengths that arrive at random: throughput beside a steady batch, waiting, memory, and answers beside those alone.

python -m bench.crowd [REQUESTS [MODEL]]
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from statistics import median

import psutil

import danlu
from danlu.base.errors import DanluError
from danlu.inference.engine import Piece
from danlu.inference.model import Model
from danlu.inference.request import Limits
from danlu.inference.sampling import Sampling
from danlu.inference.speed import Meter

PROMPTS, ANSWERS = (8, 32, 128, 400), (16, 64, 128)  # tokens
ALONE = 100  # answers that are compared with those given alone


@dataclass
class Asked:
    """One request: what it asks, and when it came, had its first token and ended."""

    ids: list[int]
    tokens: int
    came: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    said: list[int] = field(default_factory=list)


def ask(model: Model, asked: Asked, done: threading.Semaphore) -> None:
    """Submit it; its times and tokens arrive on the engine's thread."""

    def hear(event: Piece | DanluError) -> None:
        if isinstance(event, DanluError):
            raise SystemExit(f"a request failed: {event}")
        asked.first = asked.first or time.perf_counter()
        asked.said += event.token_ids
        if event.finish_reason:
            asked.ended = time.perf_counter()
            done.release()

    asked.came = time.perf_counter()
    model.submit(asked.ids, Sampling(temperature=0, max_tokens=asked.tokens), hear)


def main(count: int, name: str) -> None:
    """Print one JSON object."""
    draw = random.Random(0)
    with danlu.load(name, limits=Limits(waiting=count + 1)) as model:
        model.engine.end_ids = frozenset()
        meter = Meter(model)
        meter.decode(1, 8)
        steady = meter.decode(model.limits.sequences, 128).tokens_per_second
        crowd = [Asked(meter.prompt(draw.choice(PROMPTS)), draw.choice(ANSWERS)) for _ in range(count)]
        mean_tokens = sum(asked.tokens for asked in crowd) / count
        done, memory = threading.Semaphore(0), []
        began = time.perf_counter()
        for number, asked in enumerate(crowd):
            ask(model, asked, done)
            time.sleep(draw.expovariate((steady or 1) / mean_tokens) * 0.8)  # a little faster than can be answered
            if number % 25 == 0:
                memory.append(psutil.Process().memory_info().rss)
        for _ in crowd:
            done.acquire()
        seconds = max(asked.ended for asked in crowd) - began
        memory.append(psutil.Process().memory_info().rss)
        new, read = sum(asked.tokens for asked in crowd), sum(len(asked.ids) for asked in crowd)
        prefill = meter.prefill(400).tokens_per_second or 1
        ideal = new / (steady or 1) + read / prefill
        waits = {length: [asked.first - asked.came for asked in crowd if len(asked.ids) == length] for length in PROMPTS}
        same = 0
        for asked in crowd[:ALONE]:
            alone = Asked(asked.ids, asked.tokens)
            ask(model, alone, done)
            done.acquire()
            same += alone.said == asked.said
    print(
        json.dumps(
            {
                "requests": count,
                "new_tokens_per_second": round(new / seconds, 1),
                "steady_batch_tokens_per_second": round(steady or 0, 1),
                "share_of_steady": round(new / seconds / (steady or 1), 3),
                "share_of_steady_with_prompts": round(ideal / seconds, 3),
                "wait_seconds": {
                    length: {"median": round(median(found), 3), "longest": round(max(found), 3)} for length, found in waits.items()
                },
                "memory_mb": {
                    "middle": round(memory[len(memory) // 2] / 1e6),
                    "end": round(memory[-1] / 1e6),
                    "most": round(max(memory) / 1e6),
                },
                "equal_to_alone": f"{same} of {min(ALONE, count)}",
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct")
