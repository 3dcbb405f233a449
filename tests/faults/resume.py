"""Trainings that are killed or asked to stop at random steps, and gone on with: the same to the bit as one that was left alone.

python -m tests.faults.resume [KILLS STOPS STEPS]     20 and 10 of 200 steps by default; prints where they were hit
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .small_run import prepare_text
from .training import begin, command, complete, last_line, losses, print_json, steps_an_epoch, steps_logged, wait_until, weights

EVERY = 17  # checkpoints lie everywhere in an epoch


def places(kills: int, steps: int, epoch: int, dice: random.Random) -> list[int]:
    """Steps to kill at: one before the first checkpoint, a third right around epochs' ends, the others anywhere."""
    ends = [end + shift for end in range(epoch, steps - 1, epoch) for shift in (-1, 0, 1)]
    special = [dice.randrange(1, EVERY), *dice.sample(ends, min(len(ends), kills // 3))]
    return special[:kills] + [dice.randrange(1, steps - 1) for _ in range(kills - len(special))]


@dataclass(frozen=True)
class Trial:
    """One training and what is done to it."""

    text: Path
    runs: Path
    steps: int
    name: str

    @property
    def said(self) -> Path:
        return self.runs / f"{self.name}.log"

    @property
    def arguments(self) -> list[str]:
        return command(self.text, self.runs, self.name, self.steps, EVERY)

    def hit(self, step: int, number: int) -> int:
        """Begin, and send a signal once so many steps are done; returns how many were done in the end."""
        run = self.runs / self.name
        child = begin(self.arguments, self.said)
        wait_until(lambda: steps_logged(run) >= step, child, f"{self.name} had done {step} steps")
        child.kill(number)
        code = child.wait()
        done = steps_logged(run)
        assert step <= done < self.steps, f"{self.name} was to be hit after step {step} and had done {done}: {last_line(self.said)}"
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL, f"{self.name} ended with {code}"
        else:
            assert code == 2, f"{self.name} ended with {code}: {last_line(self.said)}"
            promise = f"danlu: saved after step {done}; go on with: danlu train {run} --resume"
            assert last_line(self.said) == promise, last_line(self.said)
        return done

    def go_on(self, whole: Path) -> None:
        """Raises: AssertionError if what comes out differs in a bit from a training that was left alone."""
        code = complete([*self.arguments, "--resume"], self.said)
        assert code == 0, f"{self.name} went on and ended with {code}: {last_line(self.said)}"
        ours, theirs = losses(self.runs / self.name), losses(whole)
        different = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
        assert ours == theirs, f"{self.name}: {len(ours)} and {len(theirs)} losses, first different: {different[:1]}"
        assert weights(self.runs / self.name) == weights(whole), f"{self.name}: other final weights"


def main() -> None:
    """Print one JSON object."""
    kills, stops, steps = map(int, sys.argv[1:4]) if len(sys.argv) > 3 else (20, 10, 200)
    dice, began = random.Random(kills), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        text = prepare_text(runs / "text", lines=steps * 3 // 20)
        epoch = steps_an_epoch(text)
        assert 3 * epoch < steps, f"{epoch} steps an epoch are too many"
        whole = Trial(text, runs, steps, "whole")
        assert complete(whole.arguments, whole.said) == 0, last_line(whole.said)
        assert [step for step, _ in losses(runs / "whole")] == list(range(1, steps + 1))
        hits = [(step, signal.SIGKILL) for step in places(kills, steps, epoch, dice)]
        # The first come while samples are drawn.
        asked = [steps * (number + 1) // 5 if number < 4 else dice.randrange(1, steps - 10) for number in range(stops)]
        hits += [(step, (signal.SIGTERM, signal.SIGINT)[number % 2]) for number, step in enumerate(asked)]
        done = []
        for number, (step, sign) in enumerate(hits):
            trial = Trial(text, runs, steps, f"hit-{number}")
            done.append(trial.hit(step, sign))
            trial.go_on(runs / "whole")
    print_json({"steps an epoch": epoch, "killed after": done[:kills], "stopped after": done[kills:]}, began)


if __name__ == "__main__":
    main()
