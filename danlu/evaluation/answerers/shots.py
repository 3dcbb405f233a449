"""Solved examples for a prompt: drawn at random, the same number of each answer, or those nearest to what is asked."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal, get_args

import numpy as np

from danlu.base.errors import ConfigError
from danlu.data.choices import ChoiceExample
from danlu.data.examples import ClassifyExample, Example, input_of

ShotsBy = Literal["random", "balanced", "nearest"]
MOST_SHOTS = 64
# Words, and in scripts without spaces single stretches of characters, which are then cut into pairs.
STRETCH = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]+|[^\W_぀-ヿ㐀-鿿豈-﫿]+")
CHARACTERS = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]")


class Shots:
    """Draws `count` solved examples from a pool, for each question its own: a score then does not hang on one lucky draw.

    A draw depends on the seed and the question alone, not on who else is asked. An example with the question's own input, spaces and
    case aside, is never drawn, nor are two of one input. The nearest are those of the highest TF-IDF cosine, the nearest last, next to
    the question; words need no pass of a model and are the same for local and remote ones.
    """

    def __init__(self, pool: Sequence[Example], count: int, by: ShotsBy = "random", seed: int = 0) -> None:
        """Raises: ConfigError if the pool is too small, or its examples have no classes to balance."""
        if not 0 <= count <= MOST_SHOTS:
            raise ConfigError(f"shots came as {count}; expected 0 to {MOST_SHOTS}")
        if by not in get_args(ShotsBy):
            raise ConfigError(f"shots_by came as {by!r}; expected {', '.join(get_args(ShotsBy))}")
        self.count, self.by, self.seed = count, by, seed
        known = dict[str, Example]()
        for example in pool if count else ():
            known.setdefault(same_input(example), example)
        self.keys, self.pool = list(known), list(known.values())
        if count and len(self.pool) <= count:
            raise ConfigError(f"{count} shots came with {len(self.pool)} different examples to draw from; expected more than {count}")
        self.groups = defaultdict[str, list[int]](list)
        for place, example in enumerate(self.pool):
            self.groups[_answer(example)].append(place)
        if count and by == "balanced" and not all(self.groups):
            raise ConfigError("balanced shots came for examples without classes; expected shots_by random or nearest")
        self.index = Index([_text(example) for example in self.pool]) if count and by == "nearest" else None

    def draw(self, example: Example) -> list[Example]:
        """The shots for one question, in the order in which they stand before it."""
        if not self.count:
            return []
        own = same_input(example)
        dice = random.Random(f"{self.seed}/{own}")
        if self.index is not None:
            chosen = [place for place in self.index.nearest(_text(example), self.count + 1) if self.keys[place] != own]
            return [self.pool[place] for place in chosen[: self.count][::-1]]
        if self.by == "random":
            chosen = dice.sample(range(len(self.pool)), self.count + 1)
        else:
            each = [dice.sample(group, min(len(group), self.count + 1)) for _, group in sorted(self.groups.items())]
            dice.shuffle(each)
            each = [[place for place in group if self.keys[place] != own] for group in each]
            chosen = [place for turn in zip_longest(*each) for place in turn if place is not None]
        chosen = [place for place in chosen if self.keys[place] != own][: self.count]
        dice.shuffle(chosen)
        return [self.pool[place] for place in chosen]


class Index:
    """Texts that can be found by their words.

    Weights are (1 + ln count) * (ln((1 + texts) / (1 + texts with the word)) + 1), vectors of unit length.
    Source: Salton & Buckley 1988, doi:10.1016/0306-4573(88)90021-0.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(terms(text)) for text in texts]
        holding = Counter(term for one in counts for term in one)
        self.size = len(texts)
        self.rarity = {term: math.log((1 + self.size) / (1 + number)) + 1 for term, number in holding.items()}
        places, weights = defaultdict[str, list[int]](list), defaultdict[str, list[float]](list)
        for place, one in enumerate(counts):
            for term, weight in self._vector(one).items():
                places[term].append(place)
                weights[term].append(weight)
        self.found = {term: (np.array(places[term]), np.array(weights[term])) for term in places}

    def nearest(self, text: str, count: int) -> list[int]:
        """Places of the texts with the highest cosine, the first of equals first."""
        scores = np.zeros(self.size)
        for term, weight in self._vector(Counter(terms(text))).items():
            places, weights = self.found[term]
            scores[places] += weight * weights
        return [int(place) for place in np.argsort(-scores, kind="stable")[:count]]

    def _vector(self, counts: Counter[str]) -> dict[str, float]:
        raw = {term: (1 + math.log(number)) * self.rarity[term] for term, number in counts.items() if term in self.rarity}
        length = math.sqrt(sum(weight * weight for weight in raw.values()))
        return {term: weight / length for term, weight in raw.items()}


def terms(text: str) -> list[str]:
    """What a text is found by: its words, or pairs of characters where words are not set apart."""
    found = []
    for stretch in STRETCH.findall(text.casefold()):
        if len(stretch) > 1 and CHARACTERS.match(stretch):
            found += [stretch[place : place + 2] for place in range(len(stretch) - 1)]
        else:
            found.append(stretch)
    return found


def same_input(example: Example) -> str:
    """What two examples share that must not explain each other: the input, spaces and case aside; of a choice, the question."""
    return "\0".join(
        " ".join(text.casefold().split()) for text in ([example.prompt] if isinstance(example, ChoiceExample) else input_of(example))
    )


def _text(example: Example) -> str:
    return example.prompt if isinstance(example, ChoiceExample) else "\n".join(input_of(example))


def _answer(example: Example) -> str:
    if isinstance(example, ClassifyExample):
        return example.label
    return str(example.answer) if isinstance(example, ChoiceExample) else ""
