"""What a checkpoint costs a training: SmolLM2's 135 M weights with AdamW's state, one every two minutes; and how soon a run goes on.

python -m bench.checkpoint [ROUNDS]     4 rounds unless given

The cost: how much longer twenty steps take with a checkpoint being written beside them, and the copy before. Going on: from the start of
`danlu train RUN --resume` to the end of its first step, gpt/tiny.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import danlu
from danlu.base.run import Run
from danlu.data.batches import Batches
from danlu.models.loading import load_model, save_model
from danlu.training.beside import Beside
from danlu.training.checkpoint import Progress, Snapshot
from danlu.training.config import Extent, TrainingConfig
from danlu.training.loop import train_steps
from danlu.training.objective import NextToken
from danlu.training.optimizer import make_optimizers
from danlu.training.team import Team

STEPS, EVERY_SECONDS = 20, 120.0


def cost(folder: Path, rounds: int) -> dict[str, object]:
    """Seconds that one checkpoint takes from the training, and their share of two minutes."""
    loaded = load_model("smollm2-135m-instruct")
    ids = np.random.default_rng(0).integers(loaded.config.vocabulary_size, size=200_000)
    objective = NextToken(batches=Batches([ids], 128, 2, 0))
    config = TrainingConfig(rate=1e-5, batch_rows=2, context_length=128)
    optimizers, progress, run = make_optimizers(loaded.module, config), Progress(), Run.create(folder, "cost", {})

    def steps() -> float:
        began = time.perf_counter()
        extent = Extent(steps=progress.step + STEPS)
        train_steps(loaded.module, optimizers, objective, config, extent, progress, Team(), lambda report: True)
        return time.perf_counter() - began

    steps()
    found, copies, writes = [], [], []
    for _ in range(rounds):
        plain, beside = steps(), Beside()
        began = time.perf_counter()
        snapshot = Snapshot.take(loaded.module, optimizers, progress)
        copies.append(time.perf_counter() - began)

        def work(snapshot: Snapshot = snapshot, began: float = began) -> None:
            def write(place: Path) -> None:
                save_model(loaded.module, loaded.family, loaded.tokenizer, place, snapshot.weights)
                snapshot.write(place)

            run.save_checkpoint(progress.step, write)
            writes.append(time.perf_counter() - began)

        beside.begin(work)
        found.append(copies[-1] + steps() - plain)
        beside.close()
    seconds = statistics.median(found)
    return {
        "each_cost_seconds": [round(one, 2) for one in found],
        "copy_seconds": round(statistics.median(copies), 2), "written_after_seconds": round(statistics.median(writes), 2),
        "steps_seconds": round(plain, 1), "cost_seconds": round(seconds, 2), "share_of_two_minutes": round(seconds / EVERY_SECONDS, 4),
    }  # fmt: skip


def going_on(folder: Path) -> float:
    """Seconds from the start of the process to the end of its first step."""
    danlu.prepare("wikipedia-leads", out=folder / "text")
    danlu.train("gpt/tiny", data=folder / "text", steps=5, runs=folder, name="a")
    before = sum("kind" not in row for row in Run(folder / "a").metrics())
    began = time.perf_counter()
    command = [sys.executable, "-m", "danlu", "train", str(folder / "a"), "--resume", "--steps", "40"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum("kind" not in row for row in Run(folder / "a").metrics()) <= before and process.poll() is None:
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    return seconds


def main() -> None:
    """Print one JSON object."""
    with tempfile.TemporaryDirectory() as name:
        told = cost(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 4)
        print(json.dumps({"what": "a checkpoint"} | told | {"first_step_after_resume_seconds": round(going_on(Path(name)), 2)}))


if __name__ == "__main__":
    main()
