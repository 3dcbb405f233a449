"""Which rate fine-tuning needs: each way of adapting, at several rates, on what was held out of the training part.

python -m bench.rates [TASK ...] [--adapt WAY ...] [--rates RATE ...] [--steps N] [--seed N]

sentiment-en and topics-en, all ways at four rates each, unless given; half an hour on two cores.

All begin from minilm-l6 and take 150 steps (or N) of 32 rows, cut at LENGTH tokens. The test part is not looked at. Prints one JSON object
a training: loss in nats and accuracy of the tenth that was held out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import danlu

TASKS = ("sentiment-en", "topics-en")
RATES = {
    "all": (2e-5, 5.5e-5, 1.66e-4, 5e-4),
    "last:2": (5.5e-5, 1.66e-4, 5e-4, 1.5e-3),
    "lora": (1.66e-4, 5.5e-4, 1.66e-3, 5e-3),
    "head": (5.5e-5, 5e-4, 5e-3, 2e-2),
}
START, LENGTH = "minilm-l6", 64


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.rates")
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--adapt", nargs="*", default=list(RATES))
    parser.add_argument("--rates", nargs="*", type=float)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for task in asked.tasks:
            for way in asked.adapt:
                for rate in asked.rates or RATES[way]:
                    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                        made = danlu.train(
                            START, task=task, adapt=way, rate=rate, steps=asked.steps, context_length=LENGTH, truncate=True, batch_rows=32,
                            seed=asked.seed, runs=folder, name=f"{task}-{way}-{rate:g}".replace(":", "-"),
                        )  # fmt: skip
                    told = {"loss": round(made.val_loss_nats or 0, 4), "accuracy": made.val_accuracy, "seconds": made.wall_seconds}
                    given = {"task": task, "adapt": way, "rate": rate, "steps": asked.steps, "seed": asked.seed}
                    print(json.dumps(given | told), flush=True)


if __name__ == "__main__":
    main()
