"""A small run whose every weight is known: two checkpoints, a final model, measurements; and what must hold of it after any fault."""

from __future__ import annotations

import io
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.base.run import Run, find_fault
from danlu.data.prepared import open_prepared
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.loading import load_model, save_model
from danlu.models.starting import new_model
from danlu.training.checkpoint import Progress, Snapshot, load_training_state
from danlu.training.config import TrainingConfig
from danlu.training.optimizer import make_optimizers

OLD, NEW, NEXT = 2, 3, 4  # steps: what is there, what is being saved when the fault comes, what is saved afterwards
WORDS = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills", "while", "ships")


def prepare_text(folder: Path, lines: int = 200) -> Path:
    """A little text of one file, prepared."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 40)) for i in range(lines))
    (folder / "raw.txt").write_text(text)
    with redirect_stderr(io.StringIO()):
        danlu.prepare(str(folder / "raw.txt"), out=folder / "prepared", vocabulary_size=300, workers=1)
    return folder / "prepared"


class SmallRun:
    """The saving that a training does, without its training: weights and optimizer are drawn from the step's number."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        text = prepare_text(folder / "text")
        self.folder = folder
        self.loaded = new_model("gpt/nano", Tokenizer.load(open_prepared(text).tokenizer_folder), 32)
        self.module = self.loaded.module
        config = TrainingConfig(rate=0.001, batch_rows=2, context_length=32, optimizer="muon")
        self.optimizers = make_optimizers(self.module, config)
        for parameter in self.module.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in self.optimizers:
            optimizer.step()
        self.template = Run.create(folder, "template", {})
        for step in (OLD - 1, OLD):
            self.template.log(step=step, loss_nats=1 / step)
            self.save(self.template, step)
        self.finish(self.template, OLD)

    def draw(self, step: int) -> None:
        """Fill weights and optimizer with what belongs to a step."""
        generator = torch.Generator().manual_seed(step)
        for tensor in self._tensors().values():
            tensor.data.normal_(generator=generator)

    def save(self, run: Run, step: int) -> None:
        """A checkpoint, as a training saves it."""
        self.draw(step)
        snapshot = Snapshot.take(self.module, self.optimizers, Progress(step=step))

        def write(folder: Path) -> None:
            save_model(self.module, self.loaded.family, self.loaded.tokenizer, folder, snapshot.weights)
            snapshot.write(folder)

        run.save_checkpoint(step, write)

    def finish(self, run: Run, step: int) -> None:
        """The model to take away."""
        self.draw(step)
        run.save_final(lambda folder: save_model(self.module, self.loaded.family, self.loaded.tokenizer, folder))

    def copy(self) -> Run:
        """A fresh copy of the run as it was before the fault; whole files are shared, since nobody writes into them."""
        place = self.folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.template.folder, place, copy_function=os.link)
        (place / "metrics.jsonl").unlink()
        shutil.copy(self.template.folder / "metrics.jsonl", place / "metrics.jsonl")
        return Run.open(place)

    def check(self, run: Run) -> int:
        """The step of the newest checkpoint. Raises: AssertionError if it or the model that one would load is not whole."""
        newest = run.newest_checkpoint()
        assert newest is not None
        step = int(newest.name.removeprefix("step-"))
        self._holds(newest, step)
        for tensor in self._tensors().values():
            tensor.data.zero_()
        assert load_training_state(newest, self.module, self.optimizers).step == step
        kept = {name: tensor.clone() for name, tensor in self._tensors(weights=False).items()}
        self.draw(step)
        assert all(torch.equal(kept[name], tensor) for name, tensor in self._tensors(weights=False).items())
        assert self.served(run) in (OLD, NEW, step)
        rows = list(run.metrics())
        assert [row["step"] for row in rows[:OLD]] == list(range(1, OLD + 1)), rows
        return step

    def served(self, run: Run) -> int | None:
        """The step of the model that one gets who asks for the run, if it is whole."""
        place = load_model(str(run.folder)).path
        assert find_fault(place) is None, find_fault(place)
        return next((step for step in (OLD, NEW, NEXT) if self._is(place, step)), None)

    def goes_on(self, run: Run) -> None:
        """Save once more. Raises: AssertionError if that does not succeed, or anything half-written stays."""
        run.forget_after(OLD)
        run.log(step=NEXT, loss_nats=1 / NEXT)
        assert [row["step"] for row in run.metrics()] == [*range(1, OLD + 1), NEXT]
        self.save(run, NEXT)
        self.finish(run, NEXT)
        assert self.check(run) == NEXT
        assert load_model(str(run.folder)).path == run.final
        assert self.served(run) == NEXT
        names = {path.name for path in (*run.folder.iterdir(), *(run.folder / "checkpoints").iterdir())}
        left = names - {"config.json", "manifest.json", "metrics.jsonl", "checkpoints", "final", *(p.name for p in run.checkpoints())}
        assert not left, left
        assert len(run.checkpoints()) == 2

    def _holds(self, place: Path, step: int) -> None:
        assert find_fault(place) is None, find_fault(place)
        assert self._is(place, step), f"{place} does not hold the weights of step {step}"

    def _is(self, place: Path, step: int) -> bool:
        self.draw(step)
        found = load_model(str(place)).module.state_dict()
        return all(torch.equal(found[name], tensor) for name, tensor in self.module.state_dict().items())

    def _tensors(self, weights: bool = True) -> dict[str, Any]:
        """Whatever a checkpoint keeps, in a fixed order."""
        named = dict(self.module.named_parameters())
        states = {
            f"{name}#{kind}": value
            for name, parameter in named.items()
            for optimizer in self.optimizers
            for kind, value in sorted(optimizer.state.get(parameter, {}).items())
        }
        return (named if weights else {}) | states
