"""A short training by the command line, in a fork: on a text so small that its steps go through several epochs."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from danlu.base.run import Run
from danlu.cli import main as danlu

from .child import Child

for slow in ("danlu.recipes.train", "torch._dynamo"):  # a training imports them, in seconds; forks of this process have them already
    importlib.import_module(slow)

OPTIONS = ["--batch-rows", "2", "--context-length", "32", "--precision", "float32", "--threads", "1"]
PATIENCE_SECONDS = 120.0


def command(text: Path, runs: Path, name: str, steps: int, every: int) -> list[str]:
    """What stands behind `danlu`."""
    start = ["train", "gpt/nano", "--data", str(text), "--runs", str(runs), "--name", name]
    return [*start, "--steps", str(steps), "--checkpoint-every", str(every), *OPTIONS]


def begin(arguments: Sequence[str], said: Path) -> Child:
    """`danlu ARGUMENTS`, under way."""
    child = Child(lambda: danlu(arguments), said)
    child.go()
    return child


def complete(arguments: Sequence[str], said: Path) -> int:
    """`danlu ARGUMENTS` to its end; returns its exit code."""
    return begin(arguments, said).wait()


def steps_logged(run: Path) -> int:
    """Rows of losses so far, counted without reading them as JSON, so that watching costs little."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b'"loss_nats"')
    except OSError:
        return 0


def wait_until(holds: Callable[[], bool], child: Child, what: str) -> None:
    """Raises: AssertionError if it does not come to hold while the child lives."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert not child.over(), f"the training ended before {what}: {child.said and child.said.read_text()}"
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:.0f} s in vain until {what}"
        time.sleep(0.0005)


def losses(run: Path) -> list[tuple[int, str]]:
    """Steps and their losses, to the bit."""
    return [(row["step"], float(row["loss_nats"]).hex()) for row in Run(run).metrics() if "loss_nats" in row]


def steps_an_epoch(text: Path) -> int:
    """How many steps of OPTIONS read the text once."""
    from danlu.data.batches import Batches
    from danlu.data.prepared import open_prepared

    return Batches(open_prepared(text).split("train"), 32, 2, 0).steps_an_epoch


def last_line(said: Path) -> str:
    """What the command said last."""
    return said.read_text().strip().splitlines()[-1]


def weights(run: Path) -> bytes:
    """The final model's weights, as bytes."""
    return (run / "final" / "model.safetensors").read_bytes()


def print_json(found: dict[str, object], began: float) -> None:
    """One JSON object, with the seconds it took."""
    print(json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}))
