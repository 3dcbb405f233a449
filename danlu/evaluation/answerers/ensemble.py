"""Several models that answer together: means of what they hold likely, or their votes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.storage import write_whole
from danlu.data.answers import Answer, Refused
from danlu.data.examples import Example
from danlu.evaluation.answerers.base import Answerer

FORMAT = 1
FILE = "ensemble.json"


@dataclass(frozen=True, kw_only=True)
class Members:
    """What the folder of an ensemble says: runs below it, and how much each counts."""

    task: str
    method: str
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Members | None:
        """What stands in a folder; None if it is no ensemble's. Raises: CheckpointError if it is damaged."""
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            told = json.loads(file.read_text("utf-8"))
            if told["format"] != FORMAT:
                raise CheckpointError(f"{file} came with format {told['format']!r}; expected {FORMAT}")
            names, weights = tuple(map(str, told["members"])), tuple(map(float, told["weights"]))
            if not names or len(names) != len(weights) or any(Path(name).name != name for name in names):
                raise ValueError("members and weights do not go together")
            return cls(task=str(told["task"]), method=str(told["method"]), names=names, weights=weights)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); train the ensemble again") from None

    def write(self, folder: Path) -> None:
        """Make a folder of runs an ensemble."""
        told = {"format": FORMAT, "task": self.task, "method": self.method, "members": self.names, "weights": self.weights}
        write_whole(folder / FILE, json.dumps(told, indent=2, ensure_ascii=False).encode())


class Ensemble:
    """Answers as its members do on the (weighted) whole: mean scores and numbers, and most votes for tags and texts.

    Raises: ConfigError if the members do not know the same labels.
    """

    def __init__(self, name: str, members: Sequence[Answerer], weights: Sequence[float]) -> None:
        if not members or any(member.labels != members[0].labels for member in members):
            raise ConfigError(f"the members of {name} know different labels; train them on the same data")
        self.name, self.members, self.labels = name, members, members[0].labels
        self.weights = np.array(weights) / math.fsum(weights)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """An answer for each example; refused by one member is refused by all."""
        said = [member.answer(examples) for member in self.members]
        return [self.join(each) for each in zip(*said, strict=True)]

    def join(self, answers: Sequence[Answer | Refused]) -> Answer | Refused:
        """One answer out of the members' to one example."""
        given = [answer for answer in answers if isinstance(answer, Answer)]
        if len(given) < len(answers):
            return next(answer for answer in answers if isinstance(answer, Refused))
        cut = max(answer.cut for answer in given)
        if given[0].scores:
            scores = self.weights @ np.array([answer.scores for answer in given])
            best = int(scores.argmax())
            return Answer(label=self.labels[best] if self.labels else str(best), scores=tuple(scores.tolist()), cut=cut)
        if given[0].tags:
            columns = zip(*(answer.tags for answer in given), strict=True)
            return Answer(tags=tuple(self._most(column) for column in columns), cut=cut)
        if not math.isnan(given[0].value):
            return Answer(value=float(self.weights @ np.array([answer.value for answer in given])), cut=cut)
        return Answer(text=self._most([answer.text for answer in given]), cut=cut)

    def _most(self, said: Sequence[str]) -> str:
        """What most members say, by weight; of equals the first."""
        votes = defaultdict[str, float](float)
        for text, weight in zip(said, self.weights, strict=True):
            votes[text] += weight
        return max(votes, key=votes.__getitem__)
