"""Which answerer a model is for a task: its head, its words, its vectors, an ensemble, or a baseline that needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.base.device import choose_device, choose_precision
from danlu.base.errors import ConfigError
from danlu.base.run import Run
from danlu.evaluation.answering import Answerer
from danlu.evaluation.ensemble import Ensemble, Members
from danlu.evaluation.retrieval import Retriever
from danlu.inference.model import load
from danlu.inference.predicting import HEADS, Predictor
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked."""

    truncate: bool = False
    precision: str = "float32"


def answerer_of(model: str, task: Task, asking: Asking) -> Answerer:
    """Who answers a task for a model's name. Raises: ConfigError if the model cannot; what loading raises."""
    members = Members.read(Path(model))
    if members is not None:
        several = [answerer_of(str(Path(model) / name), task, asking) for name in members.names]
        return Ensemble(model, several, members.weights)
    loaded = load(model)
    precision, _ = choose_precision(asking.precision, choose_device())
    if task.kind == "retrieve":
        return Retriever(loaded, truncate=asking.truncate)
    if task.kind in HEADS:
        return Predictor(loaded, task.kind, truncate=asking.truncate, precision=precision)
    raise ConfigError(f"{model} does not answer {task.kind}")


def task_of(model: str) -> Task:
    """The task that a run or an ensemble was trained for. Raises: ConfigError if that is not known."""
    members = Members.read(Path(model))
    if members is not None:
        return find_task(members.task)
    run = Run(Path(model))
    task = str(run.config.get("task", "text")) if run.exists() else "text"
    if task == "text":
        raise ConfigError(f"what {model} was trained for is not known; say what is asked with --task, such as --task classify")
    return find_task(task)
