"""One run under way: its steps, and between them what is written down, saved and shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

import torch

from danlu.base.device import computing_in
from danlu.base.errors import CheckpointError
from danlu.base.memory import memory_kept
from danlu.base.run import Run, find_fault
from danlu.inference.model import Model
from danlu.models.loading import Loaded, restore, save_loaded
from danlu.training.average import Average
from danlu.training.beside import Beside
from danlu.training.checkpoint import Progress, Snapshot, load_training_state
from danlu.training.config import Extent, TrainingConfig
from danlu.training.goal import Goal
from danlu.training.lesson import Lesson
from danlu.training.loop import Diverged, StepReport, train_steps
from danlu.training.objective import held_out
from danlu.training.profile import Profile
from danlu.training.team import Team
from danlu.training.watch import Watch

SAMPLE_TOKENS = 48
CHECKPOINT_SECONDS = 30.0  # at least, between two, unless a number of steps is given
SAMPLES = 4  # on the way, beside the last
REST = 9  # times as long as a measurement takes, at least, until the next, if there is a budget
SMALLER_RATE = 0.5  # after a setback

Told = TypeVar("Told")


class Session:
    """Trains a loaded model and keeps its run up to date; in a team, every process has one, and the leader's writes.

    Raises: KeyboardInterrupt, after saving, if `stopped` says that someone asked to stop.
    """

    def __init__(
        self, run: Run, loaded: Loaded, lesson: Lesson, config: TrainingConfig, extent: Extent, progress: Progress, watch: Watch,
        team: Team, optimizers: Sequence[torch.optim.Optimizer], average: Average | None, goal: Goal | None,
    ) -> None:  # fmt: skip
        self.run, self.loaded, self.lesson, self.config = run, loaded, lesson, config
        self.extent, self.progress, self.watch, self.team = extent, progress, watch, team
        self.optimizers, self.average, self.beside = optimizers, average, Beside()
        self.goal = goal  # what is to get better; None: the loss on what was held out
        self.profile: Profile | None = None
        # To go back to while there is no checkpoint; the others get it from the leader.
        self.first = self._snapshot() if progress.step == 0 and team.leads else None
        self.saved_step = progress.step if progress.step else -1
        self.final_step = progress.step  # of the weights that are taken away
        self.untold = False

    @memory_kept()
    def go(self, checkpoint_every: int | None, stopped: Callable[[], bool]) -> None:
        """Train to the end, then save the last checkpoint and the model to take away, which the module then holds."""
        saved_at = sampled_at = measured_at = self.extent.done(self.progress.step, self.progress.seconds)
        saved_time, asked = time.perf_counter(), False

        def after_step(report: StepReport) -> bool:
            nonlocal saved_at, saved_time, sampled_at, measured_at, asked
            if self.average is not None:
                self.average.follow(report.step)
            if not self.team.leads:
                return True
            asked = stopped()  # once: who asks from here on, as while a sample is drawn, is heard after the next step, which is saved
            self.run.log(**asdict(report))
            self.watch.step(report)
            done = self.extent.done(report.step, report.wall_seconds)
            rested = time.perf_counter() - saved_time > CHECKPOINT_SECONDS and not self.beside.busy
            due = report.step % checkpoint_every == 0 if checkpoint_every else done - saved_at >= 0.1 and rested
            # Measured by the share that is done alone, not by the clock: whether a run stops early must not hang on the machine.
            tenth = report.step % checkpoint_every == 0 if checkpoint_every else int(10 * done) > int(10 * measured_at)
            measure = self.config.patience is not None and tenth and not asked
            if measure and done < 1:
                began = time.perf_counter()
                self._measure()
                asked = stopped()
                # With a budget the measuring takes time of it, too: a slow one comes less often, so that most of it goes into steps.
                measured_at = done if self.extent.seconds is None else done + (time.perf_counter() - began) / self.extent.seconds * REST
            if ((due or measure) and done < 1) or asked:
                self._save()
                saved_at, saved_time = done, time.perf_counter()
            if done - sampled_at >= 1 / (SAMPLES + 1) and done < 1 and not asked:
                sampled_at = done
                self.sample()
            return not asked and not self._stuck

        told = self.profile.around(after_step) if self.profile else after_step
        try:
            while not self._stuck:
                try:
                    train_steps(
                        self.loaded.module, self.optimizers, self.lesson.objective, self.config, self.extent, self.progress, self.team,
                        told,
                    )  # fmt: skip
                    break
                except Diverged as fault:
                    self._go_back(fault)
            if self.team.agree(asked):
                self.beside.settle()
                raise KeyboardInterrupt(self._left_off())
            if self.team.leads:
                self._end()
        finally:
            self.beside.close()

    def sample(self) -> str:
        """What the model writes from nothing, kept in the run; nothing where its family does not write that way."""
        if self.loaded.family.pretraining != "next-token" or self.lesson.answers:
            return ""
        length = min(SAMPLE_TOKENS, self.config.context_length // 2)
        text = self._ask(lambda model: model.generate("", max_tokens=length, temperature=0.8, seed=0).text)
        self.run.write_sample(self.progress.step, text)
        return text

    def _ask(self, question: Callable[[Model], Told]) -> Told:
        """Ask the model as it is now."""
        model = Model(replace(self.loaded, module=self.loaded.module))
        try:
            return question(model)
        finally:
            model.close()
            self.loaded.module.train()

    @property
    def _stuck(self) -> bool:
        """Whether what was held out has not got better for too long."""
        return self.config.patience is not None and self.progress.worse >= self.config.patience

    def _end(self) -> None:
        if self.config.patience and not self._stuck and self.progress.measured_step != self.progress.step:
            self._measure()
        if self._stuck and self.extent.done(self.progress.step, self.progress.seconds) < 1:
            times, name = self.progress.worse, self.goal.name if self.goal else "loss"
            self.watch.say(f"stopped early: {name} on what was held out has not got better for {times} measurements")
        step = self.progress.step
        self._save()  # before evaluation, which may fail alone
        self.beside.settle()
        best_step = self.progress.best_step
        place = self.run.checkpoint(best_step)
        if self.config.patience and best_step not in (0, step):  # 0: what was held out could tell nothing
            fault = find_fault(place) if place.is_dir() else "the disk was full then"
            if fault is not None:
                self.watch.say(f"danlu: the best weights, of step {best_step:,}, are lost ({fault}); the last are taken away")
            else:
                step = best_step
                best = "" if self.goal is None else f" ({self.goal.name} {self.goal.distance(self.progress.best):.4f})"
                self.watch.say(f"the best weights were those of step {step:,}{best}: they are taken away")
                restore(self.loaded, place)
                load_training_state(place, self.loaded.module, self.optimizers, self.average)
        self.final_step = step
        if self.average is not None:
            self.average.exchange()
        try:
            self.run.save_final(self._write)
        except OSError as error:
            raise CheckpointError(
                f"{self.run.final} could not be written ({error.strerror}); make room and run again with --resume"
            ) from None

    def _measure(self) -> None:
        """Look whether what was held out has got better."""
        if self.lesson.held_out is None:
            return
        module, device = self.loaded.module, next(self.loaded.module.parameters()).device
        with self.average.in_place() if self.average is not None else nullcontext():
            loss, right = held_out(self.lesson.held_out, module, lambda: computing_in(self.progress.precision, device))
            reached = None if self.goal is None else self._ask(self.goal.of)
        step, distance = self.progress.step, loss if self.goal is None or reached is None else self.goal.distance(reached)
        self.progress.measured_step = step
        if math.isnan(distance):
            if self.goal is not None and not self.untold:
                self.untold = True
                self.watch.say(f"danlu: what was held out cannot tell {self.goal.name} yet; it counts as no measurement")
        elif distance < self.progress.best:
            self.progress.best, self.progress.best_step, self.progress.worse = distance, step, 0
        else:
            self.progress.worse += 1
        figures: dict[str, float | None] = {"val_loss_nats": loss, **({"val_accuracy": right} if self.lesson.grades else {})}
        if self.goal is not None and reached is not None:
            figures[f"val_{self.goal.name}"] = None if math.isnan(reached) else reached
        self.run.log(kind="evaluation", step=step, final=False, **figures)
        for name, value in figures.items():
            if value is not None:
                self.watch.curve(name, value, step)

    def _go_back(self, fault: Diverged) -> None:
        """Once, to the last good checkpoint with a smaller rate. Raises: Diverged the second time, with an explanation."""
        if self.progress.rate_share < 1:
            kept = self.run.newest_checkpoint()
            whence = f"begin a new run from its last checkpoint, {kept}," if kept else "begin another"
            other = "--optimizer adamw, " if self.config.optimizer == "muon" else ""
            raise Diverged(
                f"{fault}, though the run had gone back once and halved its rate; {whence} with {other}"
                f"a --rate below {self.config.rate * self.progress.rate_share:g}, a smaller --clip than {self.config.clip:g}, or "
                "other data around that step"
            )
        if self.team.leads:
            self.beside.settle()
        place, module = self.team.agree(self.run.newest_checkpoint() if self.team.leads else None), self.loaded.module
        if place is not None:
            restore(self.loaded, place)
            before = load_training_state(place, module, self.optimizers, self.average)
        else:
            before = self._begin_again()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        before.rate_share, before.seconds = SMALLER_RATE, self.progress.seconds
        before.processes, before.threads = self.progress.processes, self.progress.threads
        self.team.draw_apart(torch.initial_seed(), before.step)
        for field in fields(Progress):
            setattr(self.progress, field.name, getattr(before, field.name))
        if self.team.leads:
            self.run.forget_after(self.progress.step)
            self.run.log(kind="setback", step=self.progress.step, reason=str(fault), rate_share=SMALLER_RATE)
            self.watch.say(f"{fault}: back to step {self.progress.step:,}, with {SMALLER_RATE:g} of the rate")

    def _begin_again(self) -> Progress:
        """The first weights, in every process."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
        before = Progress(precision=self.progress.precision)
        if self.first is not None:
            before = self.first.restore(self.loaded.module, self.optimizers, self.average)
        self.team.share(self.loaded.module)
        return before

    def _left_off(self) -> str:
        going_on = f"go on with: danlu train {self.run.folder} --resume"
        if self.saved_step == self.progress.step:
            return f"saved after step {self.saved_step:,}; {going_on}"
        kept = f"the newest checkpoint is of step {self.saved_step:,}" if self.saved_step >= 0 else "there is no checkpoint yet"
        return f"stopped after step {self.progress.step:,}, which could not be saved; {kept}; {going_on}"

    def _snapshot(self) -> Snapshot:
        return Snapshot.take(self.loaded.module, self.optimizers, self.progress, self.average)

    def _write(self, folder: Path) -> None:
        save_loaded(self.loaded, folder)

    def _save(self) -> None:
        """Write a checkpoint beside the training; that it cannot be written must not end it, the older ones are still whole."""
        snapshot, step, keep = self._snapshot(), self.progress.step, self.progress.best_step

        def write(folder: Path) -> None:
            save_loaded(self.loaded, folder, snapshot.weights)
            snapshot.write(folder)

        def work() -> None:
            try:
                self.run.save_checkpoint(step, write, keep)
                self.saved_step, self.first = step, None
            except OSError as error:
                self.watch.say(f"danlu: the checkpoint of step {step} was not saved ({error.strerror}); training goes on, make room")

        self.beside.begin(work)
