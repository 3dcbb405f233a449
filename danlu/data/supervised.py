"""Examples with answers as rows of token ids, in the order in which training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.base.errors import DataError
from danlu.data.choices import ChoiceExample, RetrieveExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import ClassifyExample, Example, LabelExample, RegressExample, SpanExample, TranslateExample
from danlu.inputs.model_text import ModelText
from danlu.inputs.tokenizer import Tokenizer
from danlu.nn.loss import IGNORED

Array = NDArray[Any]

SORTED_STEPS = 16  # steps whose rows are sorted by length together: little padding, and still a random order


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example: what is read, which of two texts each token is of, and the answer (a class, number, span, or one a token)."""

    ids: Array
    segments: Array
    target: Array


def encode_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, names: Sequence[str], max_tokens: int, truncate: bool = False
) -> tuple[list[Row], int]:
    """Examples as rows for a model that reads `max_tokens` at once, and how many of them had to be cut.

    `names` are those of the classes or labels, in the order of the model's answers. A span that lies behind the cut becomes none (0, 0).
    Raises: DataError if an example is longer and must not be cut, or its label is none of the names.
    """
    known = {name: number for number, name in enumerate(names)}
    rows, cut = [], 0
    for number, example in enumerate(examples):
        text, target, was_cut = _encode(example, tokenizer, known, max_tokens)
        if was_cut and not truncate:
            raise DataError(
                f"example {number + 1:,} is {len(text.ids) + was_cut} tokens long and the model reads {max_tokens}; "
                "shorten it, or cut all that are too long with --truncate"
            )
        cut += bool(was_cut)
        rows.append(Row(ids=text.ids, segments=text.segments, target=target))
    return rows, cut


def _encode(example: Example, tokenizer: Tokenizer, known: dict[str, int], max_tokens: int) -> tuple[ModelText, Array, int]:
    """What is read, the answer, and how many tokens were cut."""
    if isinstance(example, LabelExample):
        whole, _ = tokenizer.encode_words(example.tokens)
        text, of_word = tokenizer.encode_words(example.tokens, max_tokens)
        tags = np.array([_number(tag, known) for tag in example.tags])
        first = (of_word != np.concatenate([[-1], of_word[:-1]])) & (of_word >= 0)  # a word's first token answers for the word
        return text, np.where(first, tags[np.maximum(of_word, 0)], IGNORED), len(whole.ids) - len(text.ids)
    if isinstance(example, SpanExample):
        text = tokenizer.encode_model_input(example.question, example.context, max_tokens)
        return text, _span(example, text), text.num_cut
    if isinstance(example, TranslateExample):
        text, target = (tokenizer.encode_model_input(each, max_tokens=max_tokens) for each in (example.source, example.target))
        return text, target.ids, text.num_cut + target.num_cut
    # Conversations are the affair of chat_rows.py; choices and documents are not learnt.
    assert not isinstance(example, ChatExample | ChoiceExample | RetrieveExample)
    text = tokenizer.encode_model_input(example.text, example.pair, max_tokens)
    if isinstance(example, ClassifyExample):
        return text, np.array(_number(example.label, known)), text.num_cut
    assert isinstance(example, RegressExample)
    return text, np.array(example.label, dtype=np.float32), text.num_cut


def _number(label: str, known: dict[str, int]) -> int:
    if label not in known:
        raise DataError(f"the label {label!r} came; the model knows {', '.join(known)}")
    return known[label]


def _span(example: SpanExample, text: ModelText) -> Array:
    """The first answer's first and last token; (0, 0), the place of [CLS], if there is none or it was cut away."""
    for answer in example.answers[:1]:
        end = answer.start + len(answer.text)
        inside = (text.sequence == 1) & (text.offsets[:, 1] > answer.start) & (text.offsets[:, 0] < end)
        places = np.flatnonzero(inside)
        if len(places) and text.offsets[places[-1], 1] >= end:
            return np.array([places[0], places[-1]])
    return np.array([0, 0])


@dataclass(frozen=True, kw_only=True)
class Step:
    """The rows of one step, field by field."""

    ids: list[Array]
    segments: list[Array]
    targets: list[Array]


class Rows:
    """Rows in an order drawn anew each epoch, those of about one length in one step; a pure function of the seed and the step."""

    def __init__(self, rows: Sequence[Row], rows_a_step: int, seed: int, *, pad_id: int, start_id: int = 0, shuffled: bool = True) -> None:
        self.rows, self.rows_a_step, self.seed, self.shuffled = rows, rows_a_step, seed, shuffled
        self.pad_id, self.start_id = pad_id, start_id
        self.lengths = np.array([len(row.ids) for row in rows])
        self.order: tuple[int, list[Array]] = (-1, [])

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which every row is read once; the last may be a small one."""
        return -(-len(self.rows) // self.rows_a_step)

    def at(self, step: int) -> Step:
        """The rows of a step."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if self.order[0] != epoch:
            self.order = (epoch, self._order(epoch))
        chosen = [self.rows[index] for index in self.order[1][place]]
        return Step(ids=[row.ids for row in chosen], segments=[row.segments for row in chosen], targets=[row.target for row in chosen])

    def _order(self, epoch: int) -> list[Array]:
        if not self.shuffled:
            by_length = np.argsort(self.lengths, kind="stable")
            return [by_length[start : start + self.rows_a_step] for start in range(0, len(by_length), self.rows_a_step)]
        draw = np.random.default_rng((self.seed, epoch))
        drawn = draw.permutation(len(self.rows))
        pool = SORTED_STEPS * self.rows_a_step
        pools = (drawn[start : start + pool] for start in range(0, len(drawn), pool))
        ordered = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        steps = [ordered[start : start + self.rows_a_step] for start in range(0, len(ordered), self.rows_a_step)]
        return [steps[index] for index in draw.permutation(len(steps))]
