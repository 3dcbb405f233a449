"""Tags without a model: names that training has, the longest first, or the most frequent tag of each word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from danlu.data.answers import OUTSIDE, Answer, Refused
from danlu.data.examples import Example, LabelExample, label_names

Name = tuple[int, int, str]  # from this token up to that one, and of what kind
SUFFIX = 4  # characters of a word's end that tell about words which training does not have
RARE = 3  # words that stand in training so seldom are like those which do not stand there at all


def has_names(labels: Sequence[str]) -> bool:
    """Whether tags mark stretches (IOB2) rather than single tokens."""
    return any(label.startswith("B-") for label in labels)


def names_in(tags: Sequence[str]) -> Iterator[Name]:
    """The stretches that IOB2 tags mark; an I- that continues nothing begins one, as seqeval reads it."""
    start, kind = 0, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            yield start, place, kind
            kind = ""
        if not goes_on and tag != OUTSIDE:
            start, kind = place, tag[2:]


class NameDictionary:
    """Names of the training examples, found again by the longest that fits, from left to right.

    A name that is none in more than half of the places where it would be found in training (a surname that is a word too) is dropped.
    """

    name = "dictionary of training's names, longest first"

    def __init__(self, train: Sequence[LabelExample]) -> None:
        self.labels = label_names(train)
        kinds = defaultdict[tuple[str, ...], Counter[str]](Counter)
        for example in train:
            for start, end, kind in names_in(example.tags):
                kinds[example.tokens[start:end]][kind] += 1
        self._keep({name: counted.most_common(1)[0][0] for name, counted in kinds.items()})
        found, right = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        for example in train:
            true = set(names_in(example.tags))
            for start, end, kind in self._find(example.tokens):
                found[example.tokens[start:end]] += 1
                right[example.tokens[start:end]] += (start, end, kind) in true
        self._keep({name: kind for name, kind in self.kinds.items() if 2 * right[name] >= found[name]})

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [Answer(tags=self._tags(example.tokens)) if isinstance(example, LabelExample) else NO_TOKENS for example in examples]

    def _keep(self, kinds: dict[tuple[str, ...], str]) -> None:
        self.kinds = kinds
        lengths = defaultdict[str, set[int]](set)
        for name in kinds:
            lengths[name[0]].add(len(name))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def _find(self, tokens: tuple[str, ...]) -> Iterator[Name]:
        place = 0
        while place < len(tokens):
            for length in self.lengths.get(tokens[place], ()):
                kind = self.kinds.get(tokens[place : place + length], "")
                if kind and place + length <= len(tokens):  # at the end a slice is shorter than asked for
                    yield place, place + length, kind
                    place += length
                    break
            else:
                place += 1

    def _tags(self, tokens: tuple[str, ...]) -> tuple[str, ...]:
        tags = [OUTSIDE] * len(tokens)
        for start, end, kind in self._find(tokens):
            tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        return tuple(tags)


class TagDictionary:
    """Each word's most frequent tag in training; of words that do not stand there, that of rare words with the longest common end."""

    name = "most frequent tag of the word, or of its ending"

    def __init__(self, train: Sequence[LabelExample]) -> None:
        self.labels = label_names(train)
        words, ends = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
        for example in train:
            for token, tag in zip(example.tokens, example.tags, strict=True):
                words[token][tag] += 1
        for word, counted in words.items():
            if counted.total() <= RARE:
                for size in range(SUFFIX + 1):
                    ends[word[len(word) - size :] if size <= len(word) else word].update(counted)
        every = sum(words.values(), Counter[str]())
        self.words = {word: counted.most_common(1)[0][0] for word, counted in words.items()}
        self.ends = {"": every.most_common(1)[0][0]} | {end: counted.most_common(1)[0][0] for end, counted in ends.items()}

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [
            Answer(tags=tuple(map(self._tag, example.tokens))) if isinstance(example, LabelExample) else NO_TOKENS for example in examples
        ]

    def _tag(self, word: str) -> str:
        if known := self.words.get(word) or self.words.get(word.lower()):
            return known
        return next(self.ends[word[start:]] for start in range(max(len(word) - SUFFIX, 0), len(word) + 1) if word[start:] in self.ends)


NO_TOKENS = Refused(reason="the example has no tokens to tag")
