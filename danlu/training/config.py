"""Settings of training, without torch: what someone asks for (Options), and what follows from it and the model (TrainingConfig)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from danlu.base.errors import ConfigError
from danlu.base.options import option

OptimizerName = Literal["sgd", "adam", "adamw", "muon"]
ScheduleName = Literal["constant", "linear", "exponential", "cosine", "wsd"]
ADAPTATION = re.compile(r"all|lora|head|last:[1-9]\d*")
LORA = (8, 16.0)  # rank and alpha
LOSS = "loss"  # what early stopping watches unless a task's figure is named
SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What someone wants trained, and how. None: it follows from the model and the data."""

    data: tuple[str, ...] = option(
        (),
        "a folder made by `danlu prepare`, or raw files, which are prepared first, into the run; for a task: files of rows with the "
        "task's fields. Several may be given, with weights: --data poems=1 --data news=3 reads three rows of news for each of poems",
    )
    task: str = option(
        "text",
        "a task that brings its data (sentiment-en, topics-en and others), a file of your own (tasks.py:NAME), or a kind. "
        "text: what the family learns from text (gpt and rnn the next token, bert hidden words and next sentences, seq2seq spans that were "
        "cut out). From rows: classify (text, label), regress (text, label as a number), label (tokens, tags), span (context, question, "
        "answers), translate (source, target), chat (messages, or prompt and completion, Alpaca, ShareGPT)",
    )
    adapt: str = option(
        "all",
        "what of a model that is there is trained. all; lora: two thin matrices beside each of attention's and feed-forward's, all that is "
        "saved; last:N: the last N blocks, the final norm and the head; head: the head (where the embedding is the head, that)",
    )
    lora_rank: int = option(LORA[0], "rows of lora's thin matrices")
    lora_alpha: float = option(LORA[1], "what lora's matrices count: their product times this, divided by their rank")
    steps: int | None = option(None, "how many steps to take; or give a budget or epochs")
    budget: str | None = option(None, "how long to train: 60s, 5m, 1h, counted from the command's start")
    epochs: float | None = option(
        None,
        "how many times to go through the data; without steps, budget or epochs: once through a text, three times through examples, "
        "and more often (up to ten times) through few of them",
    )
    optimizer: str = option(
        "auto",
        "sgd (give it a --rate near 0.1), adam, adamw; muon: for blocks' matrices, adamw for the rest; auto: muon from scratch, else adamw",
    )
    rate: float | None = option(
        None,
        "the highest rate (of adamw where muon has its own); by default it follows from the model's width, the task and how much of the "
        "model learns",
    )
    schedule: str = option(
        "linear", "how the rate falls after warm-up: linear, cosine, exponential, wsd (only in the run's last fifth), or constant"
    )
    warmup: float | None = option(None, "share of the run in which the rate rises")
    final_rate: float | None = option(None, "where the rate ends, as a share of the highest")
    weight_decay: float | None = option(None, "share of the matrices taken away at each step, times the rate, apart from the gradient")
    l1: float = option(0.0, "penalty on the sum of the matrices' magnitudes")
    l2: float = option(0.0, "penalty on half the sum of the matrices' squares")
    momentum: float | None = option(None, "sgd's momentum; 0: none")
    dropout: float = option(0.0, "share of the numbers that each layer's parts add which are dropped while training")
    label_smoothing: float = option(0.0, "share of a target's probability that is spread over all answers")
    labels: tuple[str, ...] = option((), "names of the classes or tags, where rows of some may come later; by default those in the data")
    balance_classes: bool = option(False, "let rare classes count as much as frequent ones (for classify)")
    clip: float | None = option(None, "largest norm of all gradients together")
    average: float = option(0.0, "decay of an average of the weights, such as 0.99, that is taken away in their stead; 0: none")
    patience: int | None = option(
        None,
        "measure what was held out ten times in a run (or at each --checkpoint-every), stop after so many times without a better loss, "
        "and take the best weights away",
    )
    best_by: str = option(
        LOSS, "what --patience watches of what was held out: loss, or a figure of the task, such as accuracy, f1_macro, f1, exact_match"
    )
    batch_rows: int | None = option(None, "rows in a step; by default they follow from the size, and are 32 for examples, 8 for few")
    accumulate: int | None = option(None, "parts that a step's rows are computed in, one after the other, to save memory")
    context_length: int | None = option(None, "tokens that the model sees at once; by default the size's own")
    within_documents: bool = option(False, "let no token see another document in the same row (gpt on text)")
    whole_words: bool = option(False, "hide whole words, not pieces of them (bert on text)")
    validation: float | None = option(
        None, "share of the examples that is held out to measure on while training; a tenth by default, 0: none"
    )
    truncate: bool = option(False, "cut examples that are longer than the context; without it they stop the training")
    recompute: bool | None = option(
        None, "keep no layer's inner numbers for the way back but compute them again: less memory, a third slower; by default if it must be"
    )
    precision: str = option("auto", "auto, float32 or bfloat16: the numbers that matrix products are made in")
    seed: int = option(0, "draws first weights and the order of the data")

    def __post_init__(self) -> None:
        given: Any = self.data
        named = [given] if isinstance(given, str | Path) else given or ()
        object.__setattr__(self, "data", tuple(str(source) for source in named))
        object.__setattr__(self, "labels", tuple(str(label).strip() for label in self.labels))
        if len(set(self.labels)) < len(self.labels) or "" in self.labels:
            raise ConfigError(f"--labels came as {', '.join(map(repr, self.labels))}; expected each name once, and none empty")
        if sum(value is not None for value in (self.steps, self.budget, self.epochs)) > 1:
            raise ConfigError("several of --steps, --budget and --epochs came; expected one of them")
        if self.epochs is not None:
            _check("epochs", self.epochs, "a positive number", lambda value: 0 < value < math.inf)
        without = {
            "--lora-rank and --lora-alpha do nothing without --adapt lora": self.adapt != "lora"
            and (self.lora_rank, self.lora_alpha) != LORA,
            "--truncate does nothing to a text, which is read in windows": self.task == "text" and self.truncate,
            "--validation does nothing to a text; danlu prepare holds out parts of it": self.task == "text" and self.validation is not None,
            f"--label-smoothing does nothing to --task {self.task}": self.task in ("regress", "span") and self.label_smoothing > 0,
            f"--best-by {self.best_by} does nothing without --patience": self.best_by != LOSS and self.patience is None,
            f"--best-by {self.best_by} is a task's figure; a text has its loss alone": self.best_by != LOSS and self.task == "text",
            "--final-rate does nothing to --schedule constant": self.schedule == "constant" and self.final_rate is not None,
        }
        for told, is_so in without.items():
            if is_so:
                raise ConfigError(told)
        if self.context_length is not None and self.context_length < 1:
            raise ConfigError(f"--context-length came as {self.context_length}; expected a positive number of tokens")
        if not ADAPTATION.fullmatch(self.adapt):
            raise ConfigError(f"--adapt came as {self.adapt!r}; expected all, lora, head, or last:N with how many blocks")
        if self.lora_rank < 1 or not 0 < self.lora_alpha < math.inf:
            raise ConfigError(f"--lora-rank and --lora-alpha came as {self.lora_rank} and {self.lora_alpha:g}; expected positive numbers")
        if self.schedule not in get_args(ScheduleName):
            raise ConfigError(f"--schedule came as {self.schedule!r}; expected {', '.join(get_args(ScheduleName))}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How weights are moved. Rates are per step; `final_rate` and `warmup` are shares of the highest rate and of the run.

    `optimizer` is sgd (with `momentum`), adam, adamw, or muon for the matrices within blocks (at `muon_rate`) with adamw for the rest.
    `weight_decay` shrinks matrices apart from their gradient, which is what adamw adds to adam; sgd and adam have none.
    """

    rate: float
    batch_rows: int
    context_length: int
    optimizer: OptimizerName = "adamw"
    muon_rate: float = 0.02
    schedule: ScheduleName = "linear"
    warmup: float = 0.03
    final_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.1
    l1: float = 0.0
    l2: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    patience: int | None = None
    accumulate: int = 1
    recompute: bool = False

    @classmethod
    def of(cls, options: Options, **chosen: Any) -> TrainingConfig:
        """What was `chosen` in view of the model; beside it what was asked for, or the defaults."""
        asked = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(cls)}
        for name, optimizers in (("momentum", ("sgd",)), ("weight_decay", ("adamw", "muon"))):
            if asked[name] is not None and chosen["optimizer"] not in optimizers:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} does nothing to {chosen['optimizer']}; it is for --optimizer {' and '.join(optimizers)}")
        return cls(**{name: value for name, value in asked.items() if value is not None} | chosen)

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(OptimizerName):
            raise ConfigError(f"--optimizer came as {self.optimizer!r}; expected auto, {', '.join(get_args(OptimizerName))}")
        for name in ("rate", "batch_rows", "context_length", "muon_rate", "clip", "accumulate"):
            _check(name, getattr(self, name), "a positive number", lambda value: 0 < value < math.inf)
        for name in ("momentum", "warmup", "dropout", "label_smoothing", "average"):
            _check(name, getattr(self, name), "a number from 0 to below 1", lambda value: 0 <= value < 1)
        for name in ("weight_decay", "l1", "l2"):
            _check(name, getattr(self, name), "0 or a positive number", lambda value: 0 <= value < math.inf)
        _check("final_rate", self.final_rate, "a share from 0 to 1", lambda value: 0 <= value <= 1)
        if self.patience is not None:
            _check("patience", self.patience, "a positive whole number", lambda value: value >= 1)
        if self.accumulate > self.batch_rows:
            raise ConfigError(f"--accumulate came as {self.accumulate} parts of {self.batch_rows} rows; expected at most one part a row")


def _check(name: str, value: float, expected: str, holds: Any) -> None:
    if not holds(value):  # no comparison holds for NaN
        raise ConfigError(f"--{name.replace('_', '-')} came as {value}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How long to train: so many steps, or so many seconds of wall time."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError("training needs to know when to end: give either --steps N or --budget TIME (60s, 5m)")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps came as {self.steps}; expected at least 1")

    def done(self, steps: int, seconds: float) -> float:
        """Share of the whole that is behind us, from 0 to 1."""
        return min(1.0, steps / self.steps if self.steps is not None else seconds / (self.seconds or math.inf))


def read_seconds(text: str) -> float:
    """60s, 5m, 1h or 90 to seconds. Raises: ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * SECONDS[found[2] or "s"] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"--budget came as {text!r}; expected a time such as 60s, 5m or 1h")
    return seconds


def read_sources(data: Sequence[str]) -> list[tuple[str, float]]:
    """Sources with their weights: "poems=2" weighs 2, "poems" 1. Raises: ConfigError for a weight that is no positive number."""
    sources = []
    for source in data:
        name, equals, weight = source.rpartition("=")
        if not equals or Path(source).exists():
            sources.append((source, 1.0))
            continue
        try:
            share = float(weight)
        except ValueError:
            share = math.nan
        if not 0 < share < math.inf:
            raise ConfigError(f"--data came as {source!r}; expected NAME=WEIGHT with a positive number, such as {name}=2")
        sources.append((name, share))
    return sources
