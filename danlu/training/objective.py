"""What a model learns: how the batch of a step is made, a pure function of seed and step, and how wrong the model is on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.data.batches import Batches, Mixture
from danlu.data.examples import Kind
from danlu.data.masking import Masking, corrupt_spans, pair_sentences
from danlu.data.supervised import Rows, Step
from danlu.models.base import Inputs
from danlu.nn.attention import Packing
from danlu.nn.loss import IGNORED, span_loss, squared_error, token_loss


@dataclass(frozen=True)
class Part:
    """One of several parts of a step's rows, for which several processes or passes share them."""

    index: int = 0
    count: int = 1

    def of(self, rows: int) -> tuple[slice, bool]:
        """Which of so many rows, and whether they ask anything: where there are fewer rows than parts, some read the first for nothing."""
        return (slice(self.index, None, self.count), True) if self.index < rows else (slice(0, 1), False)


WHOLE = Part()
EACH_TOKEN = ("label", "chat")  # kinds of examples that have an answer for each token that is read
TEXTS = ("translate", "chat")  # kinds whose answers are words of the vocabulary


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model reads in one step, and what it should have answered; IGNORED where nothing is asked."""

    inputs: Inputs
    targets: Tensor
    follows: Tensor | None = None  # (B,): 0 if the second text follows the first, 1 if it is another
    words_a_row: float = 0.0  # hidden in the whole step, divided by its rows: so much counts whether a second text follows
    asks: bool = True  # False: it only keeps a process in step with others, and counts nothing

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        given = {field.name: getattr(self.inputs, field.name) for field in fields(Inputs)}
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}
        follows = None if self.follows is None else self.follows.to(device)
        return replace(self, inputs=Inputs(**moved), targets=self.targets.to(device), follows=follows)

    def part(self, part: Part) -> Batch:
        """The rows whose number leaves `part.index` when divided by `part.count`; the first row, asking nothing, if there are none."""
        if part.count == 1:
            return self
        rows, asks = part.of(len(self.targets))
        given = {field.name: getattr(self.inputs, field.name) for field in fields(Inputs)}
        cut = {name: value[rows] if isinstance(value, Tensor) else value for name, value in given.items()}
        follows = None if self.follows is None else self.follows[rows]
        return replace(self, inputs=Inputs(**cut), targets=self.targets[rows], follows=follows, asks=asks)

    @property
    def tokens(self) -> int:
        """Tokens that the model reads or is given to go on from."""
        return self.inputs.tokens.numel() + (0 if self.inputs.source is None else self.inputs.source.numel())


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Summed over all that was asked, so that parts of a batch add up; `right` of the answers were exactly right."""

    total: Tensor
    count: int
    right: int


class Objective(Protocol):
    """One way of learning. Units: loss in nats for each answer, squared error for numbers."""

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which everything is seen once."""

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """The batch of a step, or a part of it; parts together ask what the whole asks."""

    def loss(self, module: Any, batch: Batch) -> Loss:
        """How wrong the model is."""


@dataclass(frozen=True, kw_only=True)
class FromWindows:
    """What is learnt from windows of a text."""

    batches: Batches | Mixture
    smoothing: float = 0.0  # share of a target's probability that is spread over all words

    @property
    def steps_an_epoch(self) -> int:
        return self.batches.steps_an_epoch


@dataclass(frozen=True, kw_only=True)
class NextToken(FromWindows):
    """Each position foretells the token after it: -sum ln p(x[t+1] | x[..t]); with a separator, within its own document only."""

    separator_id: int | None = None

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        tokens, targets = self.batches.at(step)
        batch = Batch(inputs=Inputs(tokens=tokens), targets=targets).part(part)
        return batch if self.separator_id is None else _documents(batch, self.separator_id)

    def loss(self, module: Any, batch: Batch) -> Loss:
        return _words(module, module(batch.inputs), batch.targets, self.smoothing)


@dataclass(frozen=True, kw_only=True)
class MaskedWords(FromWindows):
    """Hidden words are guessed from both sides, and whether a second text follows the first: -sum ln p(x[hidden] | rest) + -ln p(follows).

    A row is [CLS] text [SEP], or [CLS] first [SEP] second [SEP]: the windows leave room for these.
    Scores of words are computed at hidden places only.
    Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1; without next sentences as Liu et al. 2019, arXiv:1907.11692.
    """

    masking: Masking
    begin_id: int
    end_id: int
    next_sentence: bool
    seed: int

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        draw = np.random.default_rng((self.seed, step, 1))
        text = self.batches.at(step)[0].numpy()
        begin, end = (np.full((len(text), 1), id, dtype=np.int64) for id in (self.begin_id, self.end_id))
        parts, segments, follows = [begin, text, end], None, None
        if self.next_sentence:
            half = text.shape[1] // 2
            others = np.roll(text, 1, axis=0) if len(text) > 1 else self.batches.at(step + 1)[0].numpy()
            second, drawn = pair_sentences(text[:, :half], text[:, half:], others[:, half:], draw)
            parts, follows = [begin, text[:, :half], end, second, end], torch.from_numpy(drawn)
            segments = (torch.arange(text.shape[1] + 3) > half + 1).long().expand(len(text), -1)
        original = np.concatenate(parts, axis=1)
        tokens, hidden = self.masking.hide(original, draw)
        targets = torch.from_numpy(np.where(hidden, original, IGNORED))
        inputs = Inputs(tokens=torch.from_numpy(tokens), segments=segments)
        return Batch(inputs=inputs, targets=targets, follows=follows, words_a_row=float(hidden.sum() / len(hidden))).part(part)

    def loss(self, module: Any, batch: Batch) -> Loss:
        hidden = module(batch.inputs)
        places = batch.targets != IGNORED
        words = _words(module, hidden[places][None], batch.targets[places][None], self.smoothing)
        if batch.follows is None:
            return words
        # Both means over the whole step count alike, as in BERT.
        following = F.cross_entropy(module.follows(hidden).float(), batch.follows, reduction="sum")
        return replace(words, total=words.total + following * batch.words_a_row)


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(FromWindows):
    """A source with gaps is read, and what stood in the gaps is written: -sum ln p(target[t] | target[..t-1], source).

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4.
    """

    sentinels: tuple[int, ...]
    end_id: int
    start_id: int
    seed: int

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        draw = np.random.default_rng((self.seed, step, 1))
        source, target = corrupt_spans(self.batches.at(step)[0].numpy(), draw, sentinels=self.sentinels, end_id=self.end_id)
        given = np.concatenate([np.full((len(target), 1), self.start_id), target[:, :-1]], axis=1)
        return Batch(inputs=Inputs(tokens=torch.from_numpy(given), source=torch.from_numpy(source)), targets=torch.from_numpy(target)).part(
            part
        )

    def loss(self, module: Any, batch: Batch) -> Loss:
        return _words(module, module(batch.inputs), batch.targets, self.smoothing)


@dataclass(frozen=True, kw_only=True)
class FromExamples:
    """Examples with their answers: a class, a number, a label a token, a span, another text, or what to say in a conversation."""

    rows: Rows
    kind: Kind
    packed: bool  # whether the family reads packed rows, so that nothing is padded
    smoothing: float = 0.0
    weights: Tensor | None = None  # (C,): how much each class counts

    @property
    def steps_an_epoch(self) -> int:
        return self.rows.steps_an_epoch

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        found = self.rows.at(step)
        rows, asks = part.of(len(found.ids))
        found = Step(ids=found.ids[rows], segments=found.segments[rows], targets=found.targets[rows])
        return replace(self._batch(found), asks=asks)

    def _batch(self, found: Step) -> Batch:
        if self.packed and self.kind != "span":
            tokens, segments = (torch.from_numpy(np.concatenate(each))[None] for each in (found.ids, found.segments))
            inputs = Inputs(tokens=tokens, segments=segments, visible=Packing(tuple(map(len, found.ids))))
            targets = torch.from_numpy(np.concatenate(found.targets)[None] if self.kind in EACH_TOKEN else np.stack(found.targets))
            return Batch(inputs=inputs, targets=targets)
        tokens, visible = _pad(found.ids, self.rows.pad_id)
        if self.kind == "translate":
            targets, _ = _pad(found.targets, IGNORED)
            given = torch.cat((torch.full((len(targets), 1), self.rows.start_id), targets[:, :-1]), dim=1)
            given = torch.where(given == IGNORED, self.rows.pad_id, given)  # behind the end: nothing is asked there
            return Batch(inputs=Inputs(tokens=given, source=tokens, source_visible=visible[:, None, None]), targets=targets)
        segments, _ = _pad(found.segments, 0)
        targets = _pad(found.targets, IGNORED)[0] if self.kind in EACH_TOKEN else torch.from_numpy(np.stack(found.targets))
        return Batch(inputs=Inputs(tokens=tokens, segments=segments, visible=visible[:, None, None]), targets=targets)

    def loss(self, module: Any, batch: Batch) -> Loss:
        hidden, targets = module(batch.inputs), batch.targets
        if self.kind in TEXTS:
            return _words(module, hidden, targets, self.smoothing)
        scores = module.logits(hidden, batch.inputs.visible)
        if self.kind == "regress":
            return Loss(total=squared_error(scores[:, 0], targets), count=len(targets), right=0)
        if self.kind == "span":
            visible = batch.inputs.visible
            assert isinstance(visible, Tensor)
            ends = scores.masked_fill(~visible[:, 0, 0, :, None], -torch.inf).argmax(1)
            return Loss(total=span_loss(scores, targets, visible[:, 0, 0]), count=len(targets), right=int((ends == targets).all(1).sum()))
        scores, targets = scores.flatten(0, -2).float(), targets.flatten()
        right = int((scores.argmax(-1) == targets).sum())
        weights = None if self.weights is None else self.weights.to(scores.device)
        total = F.cross_entropy(scores, targets, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=self.smoothing)
        return Loss(total=total, count=int((targets != IGNORED).sum()), right=right)


def _documents(batch: Batch, separator_id: int) -> Batch:
    """All rows in one, each document and each row a sequence of its own."""
    tokens = batch.inputs.tokens
    ends = tokens == separator_id
    ends[:, -1] = True
    places = torch.cat((torch.tensor([-1]), ends.flatten().nonzero()[:, 0]))
    packing = Packing(tuple(places.diff().tolist()))
    return replace(batch, inputs=Inputs(tokens=tokens.flatten()[None], visible=packing), targets=batch.targets.flatten()[None])


def _words(module: Any, hidden: Tensor, targets: Tensor, smoothing: float) -> Loss:
    total = token_loss(module.logits, hidden, targets, module.config.vocabulary_size, smoothing)
    return Loss(total=total, count=int((targets != IGNORED).sum()), right=0)


def _pad(rows: list[np.ndarray[Any, Any]], filler: int) -> tuple[Tensor, Tensor]:
    """Rows filled up to the longest, and where they are real: (B, T), (B, T)."""
    longest = max(map(len, rows))
    filled = np.full((len(rows), longest), filler, dtype=np.int64)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    lengths = torch.tensor([len(row) for row in rows])
    return torch.from_numpy(filled), torch.arange(longest) < lengths[:, None]


@torch.inference_mode()
def held_out(objective: Objective, module: nn.Module, computing: Callable[[], Any], most_steps: int = 16) -> tuple[float, float]:
    """Mean loss, and share of answers that were exactly right, over what was held out (or its first `most_steps` batches)."""
    was_training, device = module.training, next(module.parameters()).device
    module.eval()
    total, count, right = 0.0, 0, 0
    for step in range(min(objective.steps_an_epoch, most_steps)):
        with computing():
            found = objective.loss(module, objective.batch(step).to(device))
        total, count, right = total + float(found.total), count + found.count, right + found.right
    module.train(was_training)
    return total / max(count, 1), right / max(count, 1)
