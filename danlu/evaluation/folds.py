"""Several models of one task: each measured on what it did not learn from, and all of them answering together."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.base.storage import write_whole
from danlu.data.answers import Answer, Refused
from danlu.data.examples import ClassifyExample, Example, Placed, likeness_key
from danlu.data.written import row_of
from danlu.evaluation.answerers.base import Answerer
from danlu.evaluation.answerers.choosing import Asking, answerer_of
from danlu.evaluation.answerers.ensemble import Ensemble, Members
from danlu.evaluation.measure import Evaluation, measure
from danlu.tasks.base import Task

Method = Literal["average", "bagging", "boosting"]
Learn = Callable[[Path, str], str]  # rows to learn from and a member's name -> the run that learnt them
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CrossValidated:
    """What several models came to: the figure that counts for each on what it had not seen, their mean and spread, and all together.

    `spread` is the standard deviation between the members; `together` measures every row once, by those who had not seen it.
    """

    folder: str
    task: str
    method: Method
    score: str
    members: tuple[float, ...]
    mean: float
    spread: float
    together: Evaluation
    evaluation: str

    def __str__(self) -> str:
        each = ", ".join(f"{value:.4f}" for value in self.members)
        return (
            f"{self.score} {self.mean:.4f}, between members {self.spread:.4f} ({each})\nrows that a member had not seen:\n{self.together}"
        )


def cross_validate(
    task: Task, examples: Sequence[Placed], folder: Path, learn: Learn, *, folds: int, method: Method = "average", seed: int = 0,
    called: str = "", truncate: bool = False, data: str = "", licence: str = "",
) -> CrossValidated:  # fmt: skip
    """Train `folds` members on parts of the examples, measure them on the rest, and leave them as an ensemble in `folder`.

    average: member i learns all but the i-th fold (folds have equal shares of each class, and one input is in one fold only).
    bagging: each learns as many rows drawn with replacement, and is measured on those it did not draw (Breiman 1996).
    boosting: each learns rows drawn by how wrong the members before it were, and counts by how right it is (SAMME: Zhu et al. 2009);
    the first fold is held out of all and measures them.
    `called` is the name by which the task is found again. What the members had not seen is measured in evaluation/TASK-unseen.
    Raises: ConfigError if folds or method do not fit the data.
    """
    if method not in get_args(Method):
        raise ConfigError(f"--ensemble came as {method!r}; expected {', '.join(get_args(Method))}")
    if method == "boosting" and task.kind != "classify":
        raise ConfigError(f"--ensemble boosting is for classes; --task {task.name} has none: use average or bagging")
    parts = split(task, [each.example for each in examples], folds, seed)
    asking = Asking(truncate=truncate)
    maker = {"average": _folds, "bagging": _bags, "boosting": _boosted}[method]
    members, weights, unseen = list[Answerer](), list[float](), list[Places]()
    for number, (chosen, rest, weight) in enumerate(maker(examples, parts, seed, members), 1):
        name = f"member-{number}"
        rows = folder / f"{name}.jsonl"
        write_whole(rows, "".join(json.dumps(row_of(examples[place].example), ensure_ascii=False) + "\n" for place in chosen).encode())
        members.append(answerer_of(learn(rows, name), task, asking))
        unseen.append(rest)
        weights.append(weight())
        if weights[-1] <= 0:  # no better than chance: boosting ends before it
            members.pop(), unseen.pop(), weights.pop()
            break
    if not members:
        raise DataError(f"the first member is no better than chance on {task.name}; train longer, with another --rate or more rows")
    names = tuple(f"member-{number}" for number in range(1, len(members) + 1))
    Members(task=called or task.name, method=method, names=names, weights=tuple(weights)).write(folder)
    about: dict[str, Any] = {"data": data, "part": f"unseen of {folds} ({method})", "licence": licence, "seed": seed}
    values = []
    replay, place = Unseen(str(folder), members, weights), f"evaluation/{task.name.replace('/', '-')}-unseen"
    for number, (member, rest) in enumerate(zip(members, unseen, strict=True)):
        said = replay.note(number, [examples[place].example for place in rest])
        held, learnt = [examples[number] for number in rest], Run(folder / names[number]).inputs()
        values.append(measure(task, Said(member, said), held, folder / names[number] / place, trained_on=learnt, **about).main.value)
    seen = sorted(set(np.concatenate(unseen).tolist()))
    together = measure(task, replay, [examples[number] for number in seen], folder / place, **about)
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return CrossValidated(
        folder=str(folder), task=task.name, method=method, score=together.score, members=tuple(values),
        mean=float(np.mean(values)), spread=spread, together=together, evaluation=str(folder / place),
    )  # fmt: skip


def split(task: Task, examples: Sequence[Example], folds: int, seed: int) -> list[Places]:
    """The places of each fold: one input in one fold only, and equal shares of each class.

    Raises: ConfigError if there are not enough inputs.
    """
    keys = [likeness_key(example) for example in examples]
    if not 2 <= folds <= len(set(keys)):
        raise ConfigError(f"--folds came as {folds}; expected 2 to {len(set(keys)):,}, the number of different inputs")
    labels = [example.label if isinstance(example, ClassifyExample) else "" for example in examples]
    stratified = len(set(labels)) > 1
    fewest = min(Counter(label for label, _ in set(zip(labels, keys, strict=True))).values())
    if stratified and fewest < folds:
        raise ConfigError(
            f"--folds came as {folds}, but the rarest label of {task.name} has {fewest} different inputs; expected at most so many folds"
        )
    maker = StratifiedGroupKFold if stratified else GroupKFold
    found = maker(n_splits=folds, shuffle=True, random_state=seed).split(np.zeros(len(examples)), labels, keys)
    return [np.asarray(held) for _, held in found]


Plan = Iterator[
    tuple[Places, Places, Callable[[], float]]
]  # what a member learns, what it has not seen, and what it counts once it is there


def _folds(examples: Sequence[Placed], parts: list[Places], seed: int, members: list[Answerer]) -> Plan:
    for part in parts:
        yield np.setdiff1d(np.arange(len(examples)), part), part, lambda: 1.0


def _bags(examples: Sequence[Placed], parts: list[Places], seed: int, members: list[Answerer]) -> Plan:
    keys = np.array([likeness_key(each.example) for each in examples])
    for number in range(len(parts)):
        drawn = np.random.default_rng((seed, number)).integers(len(examples), size=len(examples))
        yield np.sort(drawn), np.flatnonzero(~np.isin(keys, keys[drawn])), lambda: 1.0


def _boosted(examples: Sequence[Placed], parts: list[Places], seed: int, members: list[Answerer]) -> Plan:
    pool = np.concatenate(parts[1:])
    shares = np.full(len(pool), 1 / len(pool))
    learnt = [examples[place].example for place in pool]
    labels = [example.label for example in learnt if isinstance(example, ClassifyExample)]
    for number in range(len(parts)):
        drawn = np.random.default_rng((seed, number)).choice(pool, size=len(pool), p=shares)

        def weight() -> float:
            nonlocal shares
            said = members[-1].answer(learnt)
            wrong = np.array([not isinstance(one, Answer) or one.label != label for one, label in zip(said, labels, strict=True)])
            error = float(np.clip(shares[wrong].sum(), 1e-6, 1 - 1e-6))
            alpha = math.log((1 - error) / error) + math.log(len(set(labels)) - 1)
            shares = shares * np.exp(alpha * wrong)
            shares /= shares.sum()
            return alpha

        yield np.sort(drawn), parts[0], weight


class Said:
    """Answers that were given before, for the same examples in the same order."""

    def __init__(self, member: Answerer, answers: Sequence[Answer | Refused]) -> None:
        self.name, self.labels, self.answers = member.name, member.labels, iter(answers)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """The next answers."""
        return [next(self.answers) for _ in examples]


class Unseen:
    """Answers each example by those members that have not seen it, together."""

    def __init__(self, name: str, members: Sequence[Answerer], weights: Sequence[float]) -> None:
        self.name, self.labels, self.members, self.weights = name, members[0].labels, members, weights
        self.known: dict[Example, list[tuple[int, Answer | Refused]]] = {}

    def note(self, member: int, examples: Sequence[Example]) -> list[Answer | Refused]:
        """Ask a member about examples that it has not seen, and keep what it says."""
        said = self.members[member].answer(examples)
        for example, answer in dict(zip(examples, said, strict=True)).items():  # the same example twice has the same answer
            self.known.setdefault(example, []).append((member, answer))
        return said

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """What was noted, joined as an ensemble joins it."""
        return [self._join(self.known[example]) for example in examples]

    def _join(self, said: list[tuple[int, Answer | Refused]]) -> Answer | Refused:
        together = Ensemble(self.name, [self.members[member] for member, _ in said], [self.weights[member] for member, _ in said])
        return together.join([answer for _, answer in said])


def told(found: CrossValidated) -> dict[str, Any]:
    """As one JSON object, the whole evaluation left out."""
    named = {name: getattr(found, name) for name in ("folder", "task", "method", "score", "members", "mean", "evaluation")}
    return {**named, "spread": None if math.isnan(found.spread) else found.spread}


def digest(examples: Sequence[Placed]) -> str:
    """A hash of all rows, in their order."""
    rows = (json.dumps(row_of(each.example), ensure_ascii=False) for each in examples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
