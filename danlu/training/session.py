"""One run under way: its steps, and between them what is written down, saved and shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from danlu.base.errors import CheckpointError
from danlu.base.run import Run
from danlu.inference.model import Model
from danlu.models.loading import Loaded, save_loaded
from danlu.training.checkpoint import Progress, save_training_state
from danlu.training.config import Extent, TrainingConfig
from danlu.training.lesson import Lesson
from danlu.training.loop import StepReport, train_steps
from danlu.training.watch import Watch

SAMPLE_TOKENS = 48
CHECKPOINT_SECONDS = 30.0  # at least, between two, unless a number of steps is given
SAMPLES = 4  # on the way, beside the last


class Session:
    """Trains a loaded model and keeps its run up to date.

    Raises: KeyboardInterrupt, after saving, if `stopped` says that someone asked to stop.
    """

    def __init__(
        self, run: Run, loaded: Loaded, lesson: Lesson, config: TrainingConfig, extent: Extent, progress: Progress, watch: Watch
    ) -> None:  # fmt: skip
        self.run, self.loaded, self.lesson, self.config = run, loaded, lesson, config
        self.extent, self.progress, self.watch = extent, progress, watch
        self.losses: list[float] = []

    def go(self, optimizers: Sequence[torch.optim.Optimizer], checkpoint_every: int | None, stopped: Callable[[], bool]) -> None:
        """Train to the end, then save the last checkpoint and the model to take away."""
        saved_at = sampled_at = self.extent.done(self.progress.step, self.progress.seconds)
        saved_time = time.perf_counter()

        def after_step(report: StepReport) -> bool:
            nonlocal saved_at, saved_time, sampled_at
            self.run.log(**asdict(report))
            self.watch.step(report)
            self.losses.append(report.loss_nats)
            done = self.extent.done(report.step, report.wall_seconds)
            rested = time.perf_counter() - saved_time > CHECKPOINT_SECONDS
            due = report.step % checkpoint_every == 0 if checkpoint_every else done - saved_at >= 0.1 and rested
            if (due and done < 1) or stopped():
                self._save(optimizers)
                saved_at, saved_time = done, time.perf_counter()
            if done - sampled_at >= 1 / (SAMPLES + 1) and done < 1 and not stopped():
                sampled_at = done
                self.sample()
            return not stopped()

        train_steps(self.loaded.module, optimizers, self.lesson.objective, self.config, self.extent, self.progress, after_step)
        if stopped():
            raise KeyboardInterrupt(f"saved after step {self.progress.step:,}; go on with: danlu train {self.run.folder} --resume")
        self._save(optimizers)  # before evaluation, which may fail alone
        try:
            self.run.save_final(self._write)
        except OSError as error:
            raise CheckpointError(
                f"{self.run.final} could not be written ({error.strerror}); make room and run again with --resume"
            ) from None

    def sample(self) -> str:
        """What the model writes from nothing, kept in the run; nothing where its family does not write that way."""
        if self.loaded.family.pretraining != "next-token" or self.lesson.answers:
            return ""
        model = Model(replace(self.loaded, module=self.loaded.module))
        length = min(SAMPLE_TOKENS, self.config.context_length // 2)
        try:
            text = model.generate("", max_tokens=length, temperature=0.8, seed=0).text
        finally:
            model.close()
            self.loaded.module.train()
        self.run.write_sample(self.progress.step, text)
        return text

    def _write(self, folder: Path) -> None:
        save_loaded(self.loaded, folder)

    def _save(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """A checkpoint that cannot be written must not end the training: the older ones are still whole."""

        def write(folder: Path) -> None:
            self._write(folder)
            save_training_state(folder, self.loaded.module, optimizers, self.progress)

        try:
            self.run.save_checkpoint(self.progress.step, write)
        except OSError as error:
            step = self.progress.step
            self.watch.say(f"danlu: the checkpoint of step {step} was not saved ({error.strerror}); training goes on, make room")
