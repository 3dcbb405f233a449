"""Which answerer a model is for a task: its head, its words, its vectors, an ensemble, or a baseline that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.base.device import choose_device, choose_precision
from danlu.base.errors import ConfigError
from danlu.base.late import late
from danlu.base.run import Run
from danlu.data.examples import Example, Placed, label_names
from danlu.evaluation.answerers.base import Answerer
from danlu.evaluation.answerers.ensemble import Ensemble, Members
from danlu.evaluation.answerers.prompting import Prompted, Prompting
from danlu.evaluation.answerers.retrieval import Retriever
from danlu.evaluation.answerers.speaking import LocalSpeaker, Speaker, open_endpoint
from danlu.inference.backends import check_precision
from danlu.inference.model import Model
from danlu.inference.predicting import Predictor
from danlu.inference.remote import PREFIX
from danlu.models.loading import Loaded, Opened, open_model
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task
from danlu.tasks.parts import read_part, stream_part

BASELINE = "baseline"
UNTAUGHT = ("span", "choice", "retrieve")  # kinds whose baselines are rules, or are told the documents themselves
TOGETHER = "+"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked."""

    truncate: bool = False
    precision: str = "float32"
    shots: int = 0
    shots_by: str = "random"
    by: str = "sum"
    seed: int = 0
    examples: tuple[Example, ...] = ()  # among which those in a prompt are chosen
    data: tuple[str, ...] = ()  # the user's rows, whose labels a model without classes of its own chooses among

    def __post_init__(self) -> None:
        check_precision(self.precision)


def solved_rows(model: str, task: Task, shots: int, given: tuple[str, ...], brings: bool) -> tuple[Example, ...]:
    """Examples that a baseline learns from, or that stand in a prompt: those of the files that were given, else, if the task `brings`
    rows beside what is asked, its training part; those of a task that only measures are its own rows.

    Raises: ConfigError if files were given to nobody who learns from them, or there are none for who does; what reading raises.
    """
    if not shots and (BASELINE not in joined(model) or task.kind in UNTAUGHT):
        if given:
            raise ConfigError(f"--examples came as {', '.join(given)}, and nothing here learns from them; give --shots too")
        return ()
    if given:
        return tuple(read_part(task, given, "all").records)
    if not brings:
        raise ConfigError("--shots and baseline learn from solved rows, and beside yours there are none: give them with --examples FILE")
    return tuple(read_part(task, (), "all" if task.test_share in (0, 1) else "train").records)


def answerer_taught_by(model: str, task: Task, examples: str | Path | Sequence[str | Path], **asking: Any) -> Answerer:
    """Who answers rows that nobody solved; `examples` are files of solved ones, the other keywords are the fields of Asking.

    Raises: as solved_rows and answerer_of.
    """
    given = (str(examples),) if isinstance(examples, str | Path) else tuple(map(str, examples))
    shown = solved_rows(model, task, asking.get("shots", 0), given, bool(task.sources))
    return answerer_of(model, task, Asking(**asking, examples=shown, data=given))


def answerer_of(model: str, task: Task, asking: Asking) -> Answerer:
    """Who answers a task for a model's name. Raises: ConfigError if the model cannot, or not in that way; what loading raises."""
    answerer = _answerer_of(model, task, asking)
    if not isinstance(answerer, Prompted) and (asking.shots, asking.shots_by, asking.by) != (Asking.shots, Asking.shots_by, Asking.by):
        raise ConfigError(f"--shots, --shots-by and --by are for one language model; {answerer.name} answers {task.kind} without a prompt")
    return answerer


def _answerer_of(model: str, task: Task, asking: Asking) -> Answerer:
    names = joined(model)
    if len(names) > 1:
        if task.kind == "retrieve":
            raise ConfigError(f"{model} names several models, and the ranks of several are not put together; name one")
        return Ensemble(model, [answerer_of(name, task, asking) for name in names], [1.0] * len(names))
    members = Members.read(Path(model))
    if members is not None:
        several = [answerer_of(str(Path(model) / name), task, asking) for name in members.names]
        return Ensemble(model, several, members.weights)
    if model == BASELINE:
        taught = asking.examples or (() if task.kind in UNTAUGHT or not task.sources else read_part(task, (), "train").records)
        return late("danlu.evaluation.answerers.baselines", "evaluate").baseline(task, taught)  # type: ignore[no-any-return]
    if model.startswith(PREFIX):
        return _prompted(open_endpoint(model, asking.truncate), task, asking)
    opened = open_model(model)
    return answerer_for(Model(opened, precision=asking.precision if _speaks(opened) else "auto"), task, asking)


def joined(model: str) -> tuple[str, ...]:
    """The models that a name puts together, such as runs/a+runs/b+baseline, which count alike; else the one that it is.

    Raises: ConfigError if one of them has no name.
    """
    if TOGETHER not in model or PREFIX in model or Path(model).exists():
        return (model,)
    names = tuple(name.strip() for name in model.split(TOGETHER))
    if not all(names):
        raise ConfigError(f"{model} joins models, and one of them has no name; expected A{TOGETHER}B")
    return names


def foremost(model: str) -> str:
    """Whose task all are asked: the first of those that a name joins, a baseline aside, which was trained for none.

    Raises: ConfigError if all are baselines.
    """
    names = [name for name in joined(model) if name != BASELINE]
    if not names:
        raise ConfigError(f"{BASELINE} came without a task; name one with --task")
    return names[0]


def answerer_for(loaded: Model, task: Task, asking: Asking) -> Answerer:
    """Who answers a task for a model of this machine. Raises: ConfigError if the model cannot."""
    if task.kind == "retrieve":
        return Retriever(loaded, truncate=asking.truncate)
    if not _speaks(loaded):
        precision, _ = choose_precision(asking.precision, choose_device())
        return Predictor(loaded, task.kind, truncate=asking.truncate, precision=precision)
    if task.kind == "translate" and loaded.has_source:
        task = replace(task, prompt="{source}")  # what it was trained on, and nothing beside it
    return _prompted(LocalSpeaker(loaded, asking.truncate), task, asking)


def _speaks(model: Model | Loaded | Opened) -> bool:
    """Whether it answers in words, and not with a head for classes, labels or spans."""
    head = getattr(model.config, "head", None)
    return model.family.memory != "none" and (head is None or head.kind == "words")


def _prompted(speaker: Speaker, task: Task, asking: Asking) -> Prompted:
    how: Any = {"shots": asking.shots, "shots_by": asking.shots_by, "by": asking.by, "seed": asking.seed}
    return Prompted(task, speaker, _labels(task, asking.data) if task.kind == "classify" else (), asking.examples, Prompting(**how))


def _labels(task: Task, data: tuple[str, ...]) -> tuple[str, ...]:
    """What a classification chooses among: what its words are for, or what stands in its rows."""
    if task.words:
        return tuple(task.words)
    if not data and not task.sources:
        raise ConfigError(f"{task.name} does not say which labels there are; give a task with `words` for them (tasks.py:NAME)")
    return label_names(each.example for each in stream_part(task, data, "all") if isinstance(each, Placed))


def task_of(model: str) -> Task:
    """The task that a run or an ensemble was trained for. Raises: ConfigError if that is not known."""
    model = foremost(model)
    members = Members.read(Path(model))
    if members is not None:
        return find_task(members.task)
    run = Run(Path(model))
    task = str(run.config.get("task", "text")) if run.exists() else "text"
    if task == "text":
        raise ConfigError(f"what {model} was trained for is not known; say what is asked with --task, such as --task classify")
    return find_task(task)
