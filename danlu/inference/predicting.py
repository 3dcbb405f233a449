"""Answers of a model's head to examples: classes, numbers, a tag a token, or a stretch of a context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.base.device import Precision, computing_in, lone_threads
from danlu.base.errors import ConfigError
from danlu.data.answers import OUTSIDE, Answer, Refused
from danlu.data.examples import ClassifyExample, Example, Kind, LabelExample, RegressExample, SpanExample
from danlu.inference.embedding import batches
from danlu.inference.model import Model
from danlu.inputs.model_text import ModelText
from danlu.models.base import HeadKind, Inputs
from danlu.nn.attention import Packing
from danlu.nn.fused import fused

HEADS: dict[Kind, HeadKind] = {"classify": "classes", "regress": "classes", "label": "labels", "span": "spans"}
SINGLE = (ClassifyExample, RegressExample)  # kinds of examples with one text, if no second
SPAN_TOKENS = 30  # of the longest answer
CANDIDATES = 20  # likeliest beginnings and ends that are tried together

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """An example as the model reads it; `of_word` says which of its words each token is of, -1 for none."""

    ids: Array
    segments: Array
    cut: int = 0
    of_word: Array | None = None
    text: ModelText | None = None


class Predictor:
    """Answers with a model's head; neighbours in a batch change nothing but last bits.

    Raises: ConfigError if the model has no head for this kind.
    """

    def __init__(self, model: Model, kind: Kind, *, truncate: bool = False, precision: Precision = "float32") -> None:
        head = getattr(model.config, "head", None)
        wanted = HEADS.get(kind)
        if head is None or head.kind != wanted or head.regression != (kind == "regress"):
            had = "no head" if head is None else f"a head for {'a number' if head.regression else head.kind}"
            raise ConfigError(
                f"{model.name} has {had}, which does not answer {kind}; train it first: danlu train {model.name} --task {kind}"
            )
        if model.tokenizer is None:
            raise ConfigError(f"{model.name} has no tokenizer, so it cannot read examples; expected tokenizer.json beside its weights")
        self.model, self.kind, self.truncate, self.precision = model, kind, truncate, precision
        self.name, self.labels, self.tokenizer = model.name, tuple(head.names), model.tokenizer
        self.longest: int = model.config.context_length
        self.packs = model.family.packs
        self.module: Any = fused(model.module) if precision == "float32" and self.packs else model.module
        self.num_threads, self.threads = torch.get_num_threads(), lone_threads()

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """An answer, or why there is none, for each of the examples."""
        read = self._read(examples)
        answers: list[Answer | Refused] = [row if isinstance(row, Refused) else Answer() for row in read]
        rows = [(place, row) for place, row in enumerate(read) if isinstance(row, Read)]

        def compute(chosen: list[int]) -> None:
            scores = self._scores([rows[number][1] for number in chosen])
            for number, found in zip(chosen, scores, strict=True):
                place, row = rows[number]
                answers[place] = self._said(examples[place], row, found)

        list(self.threads.map(compute, batches([len(row.ids) for _, row in rows], self.num_threads)))
        return answers

    def _read(self, examples: Sequence[Example]) -> list[Read | Refused]:
        found: list[Read | Refused] = [Refused(reason="")] * len(examples)
        single = [(place, each.text) for place, each in enumerate(examples) if isinstance(each, SINGLE) and not each.pair]
        texts = [text for _, text in single]
        for (place, _), ids in zip(single, self.tokenizer.encode_model_inputs(texts) if texts else [], strict=True):
            row = Read(ids=ids, segments=np.zeros_like(ids))
            found[place] = row if len(ids) <= self.longest else self._cut(len(ids), examples[place])
        for place in set(range(len(examples))).difference(place for place, _ in single):
            row = self._encode(examples[place], None)
            found[place] = row if len(row.ids) <= self.longest else self._cut(len(row.ids), examples[place])
        return found

    def _cut(self, length: int, example: Example) -> Read | Refused:
        if self.truncate:
            return self._encode(example, self.longest)
        return Refused(reason=f"{length:,} tokens long, and {self.name} reads {self.longest:,}; shorten it, or cut with --truncate")

    def _encode(self, example: Example, most: int | None) -> Read:
        if isinstance(example, LabelExample):
            text, of_word = self.tokenizer.encode_words(example.tokens, most)
            whole = len(text.ids) if most is None else len(self.tokenizer.encode_words(example.tokens)[0].ids)
            return Read(ids=text.ids, segments=text.segments, cut=whole - len(text.ids), of_word=of_word)
        if isinstance(example, SpanExample):
            text = self.tokenizer.encode_model_input(example.question, example.context, most)
            return Read(ids=text.ids, segments=text.segments, cut=text.num_cut, text=text)
        assert isinstance(example, ClassifyExample | RegressExample)
        text = self.tokenizer.encode_model_input(example.text, example.pair, most)
        return Read(ids=text.ids, segments=text.segments, cut=text.num_cut)

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Read]) -> list[Array]:
        """What the head says of each row. Shapes: classes (C,), labels (T, C), spans (T, 2)."""
        lengths = [len(row.ids) for row in rows]
        visible: Packing | torch.Tensor
        if self.packs:
            tokens, segments = (
                torch.from_numpy(np.concatenate([getattr(row, name) for row in rows]))[None] for name in ("ids", "segments")
            )
            visible = Packing(tuple(lengths))
        else:
            tokens = torch.full((len(rows), max(lengths)), self.tokenizer.pad_id or 0)
            for place, row in zip(tokens, rows, strict=True):
                place[: len(row.ids)] = torch.from_numpy(row.ids)
            segments, visible = torch.zeros_like(tokens), (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None]
        with computing_in(self.precision, tokens.device):
            hidden = self.module(Inputs(tokens=tokens, segments=segments, visible=visible), None)
            scores = self.module.logits(hidden, visible).float()
        if HEADS[self.kind] == "classes":
            return list(scores.numpy())
        return list(np.split(scores[0].numpy(), np.cumsum(lengths)[:-1]))

    def _said(self, example: Example, row: Read, scores: Array) -> Answer:
        if self.kind == "regress":
            return Answer(value=float(scores[0]), cut=row.cut)
        if self.kind == "classify":
            likely = softmax(scores)
            return Answer(label=self.labels[int(likely.argmax())], scores=tuple(likely.tolist()), cut=row.cut)
        if isinstance(example, LabelExample):
            assert row.of_word is not None
            return Answer(tags=self._tags(len(example.tokens), row.of_word, scores), cut=row.cut)
        assert isinstance(example, SpanExample) and row.text is not None
        return Answer(text=best_span(example.context, row.text, scores), cut=row.cut)

    def _tags(self, words: int, of_word: Array, scores: Array) -> tuple[str, ...]:
        """A word's tag is that of its first token; words without tokens, or cut away, are outside of everything."""
        rest = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        tags, best = [rest] * words, scores.argmax(-1)
        before = np.concatenate([[-1], of_word[:-1]])
        for place in np.flatnonzero((of_word >= 0) & (of_word != before)):
            tags[of_word[place]] = self.labels[best[place]]
        return tuple(tags)


def best_span(context: str, text: ModelText, scores: Array) -> str:
    """The stretch of the second text with the best sum of scores for its ends (T, 2); "" if the first place, [CLS], is better.

    Source: Devlin et al. 2019, arXiv:1810.04805, section 4.3.
    """
    inside = np.flatnonzero(text.sequence == 1)
    begins, ends = (inside[np.argsort(-scores[inside, side])[:CANDIDATES]] for side in (0, 1))
    best, found = float(scores[0].sum()), ""
    for begin in begins:
        for end in ends:
            score = float(scores[begin, 0] + scores[end, 1])
            if begin <= end < begin + SPAN_TOKENS and score > best:
                best, found = score, context[text.offsets[begin, 0] : text.offsets[end, 1]]
    return found


def softmax(scores: Array) -> Array:
    """Shares that add up to 1. Shapes: (C,) -> (C,), float64."""
    raised = np.exp(scores.astype(np.float64) - scores.max())
    return raised / raised.sum()
