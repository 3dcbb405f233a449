"""A profile of a few steps: where their time goes, and how near they come to what this machine's products allow."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile, record_function, supported_activities

from danlu.base.storage import write_whole
from danlu.training.loop import StepReport
from danlu.training.objective import WHOLE, Batch, Loss, Objective, Part
from danlu.training.trace import BATCH, REST, SHARES, STEP, Product, Shares, read_shares

WARM_STEPS, PROFILED_STEPS, PLAIN_STEPS = 3, 5, 5  # left alone, recorded, and only timed: recording itself costs time
UNSTEADY = 1.5  # the longest of the timed steps over the shortest
REPEATED_SECONDS, FEWEST, MOST = 0.03, 3, 200  # how long and how often each product is repeated
TYPES = {"float": torch.float32, "double": torch.float64, "c10::BFloat16": torch.bfloat16, "c10::Half": torch.float16}
AfterStep = Callable[[StepReport], bool]


class Profile:
    """Records steps 4 to 8 and times steps 9 to 13 of a training, then writes trace.json and summary.txt and tells the summary.

    It changes nothing that is computed: no random number is drawn.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the recorder writes two lines of its own among the run's
        self.recorder = profile(activities=supported_activities(), record_shapes=True)
        self.steps = self.tokens = self.tokens_before = 0
        self.mark: Any = None  # the step that is being recorded
        self.profiled: list[float] = []  # seconds
        self.plain: list[float] = []
        self.recording = self.finished = False
        self.resumed = time.perf_counter()

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop_recording()
        if kind is None and not self.finished:  # the run was shorter than a profile
            self._finish()

    def around(self, after_step: AfterStep) -> AfterStep:
        """What the loop calls after each step, in place of `after_step`, whose own time is not counted."""

        def timed(report: StepReport) -> bool:
            self._step_ended(report)
            goes_on = after_step(report)
            if self.steps == WARM_STEPS and not self.finished:
                self.recorder.start()
                self.recording = True
            if self.recording:
                self.mark = record_function(f"{STEP} {report.step + 1}")
                self.mark.__enter__()
            self.resumed = time.perf_counter()
            return goes_on

        return timed

    def loading(self, objective: Objective) -> Objective:
        """The same objective; the time that its batches take is marked."""
        return _Marked(objective)

    def _step_ended(self, report: StepReport) -> None:
        seconds = time.perf_counter() - self.resumed
        self.steps += 1
        self.tokens, self.tokens_before = report.tokens - self.tokens_before, report.tokens
        if self.mark is not None:
            self.mark.__exit__(None, None, None)
            self.mark = None
        if self.recording:
            self.profiled.append(seconds)
            if len(self.profiled) == PROFILED_STEPS:
                self._stop_recording()
        elif self.profiled and not self.finished:
            self.plain.append(seconds)
            if len(self.plain) == PLAIN_STEPS:
                self._finish()

    def _stop_recording(self) -> None:
        if self.mark is not None:  # a step that was cut short
            self.mark.__exit__(None, None, None)
            self.mark = None
        if self.recording:
            self.recording = False
            self.recorder.stop()

    def _finish(self) -> None:
        self.finished = True
        if not self.profiled:
            self.say(f"no profile: the first {WARM_STEPS} steps only warm up, and {self.steps} were taken; give --steps 8 or more")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / "trace.json"
        self.recorder.export_chrome_trace(str(trace))
        shares = read_shares(json.loads(trace.read_bytes())["traceEvents"], len(self.profiled))
        text = summary_of(shares, statistics.median(self.profiled), self.plain, self.tokens, seconds_alone(shares))
        write_whole(self.folder / "summary.txt", text.encode())
        self.say(f"{text}look at {trace} in ui.perfetto.dev or chrome://tracing")


class _Marked:
    """An objective whose batches are seen in a trace."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    @property
    def steps_an_epoch(self) -> int:
        return self.objective.steps_an_epoch

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        with record_function(BATCH):
            return self.objective.batch(step, part)

    def loss(self, module: Any, batch: Batch) -> Loss:
        return self.objective.loss(module, batch)


def seconds_alone(shares: Shares) -> float:
    """Seconds that one step's products take one after the other with nothing between them, each repeated at its own shape: the ceiling now.

    A product that is repeated finds small operands in the processor's cache, so that the ceiling is a little high rather than low.
    """
    return sum(count * _seconds(product) for product, count in shares.products.items()) / max(shares.steps, 1)


@torch.no_grad()
def _seconds(product: Product) -> float:
    operands = [_operand(*each) for each in zip(product.shapes, product.strides, product.types, strict=True)]
    compute = getattr(torch, product.operation.removeprefix("aten::"))
    compute(*operands)
    taken: list[float] = []
    while len(taken) < FEWEST or (sum(taken) < REPEATED_SECONDS and len(taken) < MOST):
        began = time.perf_counter()
        compute(*operands)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _operand(shape: tuple[int, ...], strides: tuple[int, ...], kind: str) -> Tensor:
    room = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    return torch.ones(room, dtype=TYPES[kind]).as_strided(shape, strides)


def summary_of(shares: Shares, profiled_seconds: float, plain: list[float], tokens: int, alone_seconds: float) -> str:
    """The profile in words. Units: seconds and tokens of one step."""
    seconds = statistics.median(plain) if plain else profiled_seconds
    first, last = WARM_STEPS + 1, WARM_STEPS + shares.steps
    spent = f"{profiled_seconds * 1e3:,.1f} ms a step while recorded, {seconds * 1e3:,.1f} ms otherwise"
    lines = [f"profile of steps {first} to {last}: {spent}"]
    step = shares.total / max(shares.steps, 1)  # microseconds
    for kind in SHARES:
        lines.append(f"  {kind:<16} {shares.kinds[kind] / max(shares.total, 1e-9):6.1%}  {shares.kinds[kind] / shares.steps / 1e3:9.2f} ms")
    largest = sorted(shares.rest.items(), key=lambda each: -each[1])[:5]
    told = ", ".join(f"{name.removeprefix('aten::')} {time / shares.steps / step:.1%}" for name, time in largest)
    lines.append(f"  ({REST}: {told})")
    lines.append(f"{tokens / seconds:,.0f} tokens/s")
    flop = sum(product.flop * count for product, count in shares.products.items()) / shares.steps
    if flop:
        whole, alone = _rate(flop, seconds), _rate(flop, alone_seconds)
        lines.append(f"{flop / 1e9:,.2f} GFLOP of products a step (attention's own not counted): {whole} over the whole step;")
        lines.append(f"run alone they take {alone_seconds * 1e3:,.1f} ms, {alone}: the step reaches {alone_seconds / seconds:.0%} of that")
    timed = plain or [profiled_seconds]
    if max(timed) > UNSTEADY * min(timed) or alone_seconds > seconds:
        lines.append("these times are unsteady: something else keeps this machine busy; measure again when it is quiet")
    return "\n".join(lines) + "\n"


def _rate(flop: float, seconds: float) -> str:
    return f"{flop / max(seconds, math.ulp(1.0)) / 1e9:,.1f} GFLOP/s"
