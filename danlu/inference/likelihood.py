"""How likely a model finds continuations of prompts: what several have in common is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import nn

from danlu.base.device import Precision, computing_in, lone_threads
from danlu.base.errors import RequestError
from danlu.inference.model import Model
from danlu.inference.padded import LONGEST
from danlu.inference.token_inputs import reads_source
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Inputs
from danlu.nn.fused import fused

ROW_TOKENS = 512  # computed together: fewer leave products short, more make masks large
LOGIT_ROWS = 128  # places whose logits are held at once: each is a vocabulary wide

Prompt = tuple[Sequence[int], Sequence[Sequence[int]]]  # ids of a prompt and of each of its continuations


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a model makes of one continuation.

    `nats` is the natural logarithm of its probability, summed over its tokens; `greedy` whether each of them is the likeliest in its
    place; `cut` counts the prompt's tokens that were left out.
    """

    nats: float
    tokens: int
    greedy: bool
    cut: int = 0


class Likelihoods:
    """Scores continuations with one model; safe to ask from several threads.

    A decoder reads prompts and their continuations as trees, many side by side in a row: a token is computed once, whatever goes on
    behind it, and stands where it would if its branch were alone. The last token of a continuation is not read at all. Other families
    read every continuation with its prompt.
    """

    def __init__(self, model: Model, precision: Precision = "float32", truncate: bool = False) -> None:
        """`truncate` cuts prompts that are too long from the left. Raises: RequestError if the model is an encoder."""
        model.check_generates()
        self.model, self.precision, self.truncate = model, precision, truncate
        self.has_source = reads_source(model.module)
        self.context_length = LONGEST if model.family.memory == "state" else model.config.context_length
        self.num_threads, self.threads = torch.get_num_threads(), lone_threads()

    @cached_property
    def module(self) -> Any:
        """What computes: in float32 its fast twin."""
        module: nn.Module = self.model.module
        return fused(module) if self.precision == "float32" and self.model.family.memory == "keys" and not self.has_source else module

    def score(self, prompts: Sequence[Prompt]) -> list[list[Scored]]:
        """The likelihood of every continuation behind its prompt, in their order.

        Raises: RequestError if one does not fit the model, or its numbers are not finite.
        """
        fitting = [self.fit(*prompt) for prompt in prompts]
        read = [(ids, continuations) for (ids, _), (_, continuations) in zip(fitting, prompts, strict=True)]
        slots = list(np.cumsum([0, *(len(continuations) for _, continuations in read)]))
        total, greedy = np.zeros(slots[-1]), np.ones(slots[-1], dtype=bool)
        for where, logprobs, best in self.threads.map(self._compute, self._batches(read)):
            np.add.at(total, where, logprobs)
            np.logical_and.at(greedy, where, best)
        if not np.isfinite(total).all():
            raise RequestError(f"the numbers of {self.model.name} are not finite; its weights may be damaged", code="engine_failure")
        return [
            [
                Scored(nats=float(total[slot]), tokens=len(ids), greedy=bool(greedy[slot]), cut=cut)
                for slot, ids in enumerate(continuations, start)
            ]
            for start, (_, cut), (_, continuations) in zip(slots, fitting, read, strict=False)
        ]

    def score_texts(self, prompts: Sequence[tuple[str, Sequence[str]]]) -> list[list[Scored]]:
        """The same of texts: each continuation is what stands behind its prompt, its space included."""
        return self.score([encode_continuations(self.model, *prompt) for prompt in prompts])

    def fit(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> tuple[Sequence[int], int]:
        """A prompt as the model can read it before each of its continuations, and how many of its tokens are left out.

        All continuations of a prompt read the same of it, so that they can be compared.
        Raises: RequestError naming both lengths if it is too long and not to be cut; if there are no tokens, or one that the model lacks.
        """
        size = self.model.config.vocabulary_size
        if not len(ids) or not all(map(len, continuations)):
            raise RequestError("a prompt or a continuation came without tokens; expected at least one each", param="prompt")
        if any(not 0 <= token < size for some in (ids, *continuations) for token in some):
            raise RequestError(f"a prompt holds a token that the model lacks; expected 0 to {size - 1}", param="prompt")
        longest = max(map(len, continuations), default=0)
        room = self.context_length if self.has_source else self.context_length + 1 - longest  # the last token is not read
        if longest > self.context_length:
            raise self._too_long(f"a continuation is {longest}")
        if len(ids) <= room:
            return ids, 0
        if not self.truncate:
            raise self._too_long(f"a prompt and its continuation are {len(ids) + longest}")
        return ids[len(ids) - room :], len(ids) - room

    def _too_long(self, what: str) -> RequestError:
        return RequestError(
            f"{what} tokens long; the context of {self.model.name} holds {self.context_length}: shorten it, or have prompts cut (truncate)",
            param="prompt",
            code="context_length_exceeded",
        )

    def _batches(self, prompts: Sequence[Prompt]) -> Sequence[_Tree | _Batch]:
        starts = np.cumsum([0, *(len(continuations) for _, continuations in prompts)])
        numbered = zip(prompts, starts, strict=False)
        asked = [(list(ids), continuations, int(start)) for (ids, continuations), start in numbered if continuations]
        if self.has_source:
            return [_behind_source(*one, self.model.config.start_id) for one in asked]
        if self.model.family.memory == "state":
            return list(_side_by_side(asked))
        # Prompts that begin alike come side by side, the longest rows first, so that no thread is left with one at the end.
        return sorted(_trees(sorted(asked, key=lambda one: one[0]), self.num_threads), key=lambda tree: -len(tree.tokens))

    @torch.inference_mode()
    def _compute(self, planned: _Tree | _Batch) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Slots, log-probabilities of a batch's targets, and whether each is the likeliest. Shapes: (targets,) each."""
        batch = planned.batch() if isinstance(planned, _Tree) else planned  # now: masks of all rows at once would fill the memory
        device = batch.inputs.tokens.device
        logprobs, best = np.empty(len(batch.targets)), np.empty(len(batch.targets), dtype=bool)
        places, of_target = np.unique(batch.places, return_inverse=True)
        with computing_in(self.precision, device):
            hidden = self.module(batch.inputs, None).flatten(0, 1)[torch.from_numpy(places)]
            for start in range(0, len(places), LOGIT_ROWS):
                logits = self.model.module.logits(hidden[start : start + LOGIT_ROWS]).float()
                chosen = np.flatnonzero((of_target >= start) & (of_target < start + LOGIT_ROWS))
                rows, targets = torch.from_numpy(of_target[chosen] - start), torch.tensor(batch.targets)[chosen]
                logprobs[chosen] = (logits[rows, targets] - logits.logsumexp(-1)[rows]).numpy()
                best[chosen] = (logits.argmax(-1)[rows] == targets).numpy()
        return batch.slots, logprobs, best


Asked = tuple[list[int], Sequence[Sequence[int]], int]  # a prompt, its continuations, and the slot of the first of these


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """One pass: what stands at `places` (counted row by row) foretells `targets`, which are tokens of the continuations in `slots`."""

    inputs: Inputs
    places: list[int]
    targets: list[int]
    slots: list[int]


class _Tree:
    """Texts in one row that share what they begin with: every token knows the one before it."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], int] = {}  # (place before, token) to its place
        self.tokens: list[int] = []
        self.before: list[int] = []
        self.positions: list[int] = []
        self.asked: list[tuple[int, int, int]] = []  # place, target, slot

    def add(self, ids: Sequence[int], continuations: Sequence[Sequence[int]], slot: int) -> None:
        """Take in a prompt and what may stand behind it."""
        end = -1
        for token in ids:
            end = self._step(end, token)
        for number, continuation in enumerate(continuations):
            place = end
            for index, target in enumerate(continuation):
                self.asked.append((place, target, slot + number))
                if index + 1 < len(continuation):
                    place = self._step(place, target)

    def _step(self, before: int, token: int) -> int:
        place = self.known.setdefault((before, token), len(self.tokens))
        if place == len(self.tokens):
            self.tokens.append(token)
            self.before.append(before)
            self.positions.append(self.positions[before] + 1 if before >= 0 else 0)
        return place

    def batch(self) -> _Batch:
        """The row, in which each token sees itself and those on the way to it."""
        visible = np.eye(len(self.tokens), dtype=bool)
        for place, before in enumerate(self.before):
            if before >= 0:
                visible[place] |= visible[before]
        inputs = Inputs(
            tokens=torch.tensor([self.tokens]), positions=torch.tensor([self.positions]), visible=torch.from_numpy(visible)[None, None]
        )
        return _made(inputs, self.asked)


def _made(inputs: Inputs, asked: Sequence[tuple[int, int, int]]) -> _Batch:
    places, targets, slots = (list(column) for column in zip(*asked, strict=True))
    return _Batch(inputs=inputs, places=places, targets=targets, slots=slots)


def _trees(asked: Sequence[Asked], parts: int) -> Iterator[_Tree]:
    """Rows of about ROW_TOKENS tokens, in `parts` rows or more where there is enough."""
    costs = []
    before: list[int] = []
    for ids, continuations, _ in asked:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False)))
        costs.append((len(ids), len(ids) - shared, sum(len(one) - 1 for one in continuations)))
        before = ids
    most = min(ROW_TOKENS, -(-sum(new + behind for _, new, behind in costs) // parts))
    tree, size = _Tree(), 0
    for one, (whole, new, behind) in zip(asked, costs, strict=True):
        if size and size + new + behind > most:
            yield tree
            tree, size = _Tree(), 0
        size += (new if size else whole) + behind
        tree.add(*one)
    if size:
        yield tree


def _side_by_side(asked: Sequence[Asked]) -> Iterator[_Batch]:
    """Each prompt once for each of its continuations, a prompt's rows together; what stands behind an end is seen by nobody."""
    for ids, continuations, slot in asked:
        rows = [[*ids, *continuation[:-1]] for continuation in continuations]
        longest = max(map(len, rows))
        found = [
            (number * longest + len(ids) - 1 + index, target, slot + number)
            for number, continuation in enumerate(continuations)
            for index, target in enumerate(continuation)
        ]
        yield _made(Inputs(tokens=torch.tensor([row + [0] * (longest - len(row)) for row in rows])), found)


def _behind_source(ids: list[int], continuations: Sequence[Sequence[int]], slot: int, start: int) -> _Batch:
    """An encoder-decoder reads the prompt and writes the continuations."""
    tokens = next(iter(_side_by_side([([start], continuations, slot)])))
    source = torch.tensor([ids]).expand(len(continuations), -1)
    return _Batch(
        inputs=Inputs(tokens=tokens.inputs.tokens, source=source), places=tokens.places, targets=tokens.targets, slots=tokens.slots
    )


def encode_continuations(model: Model, prompt: str, continuations: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Ids of a prompt, and of each continuation as it is cut into tokens behind it.

    Spaces at the prompt's end begin the continuations, since most tokens bring their space along. A prompt and a continuation are cut
    as one text, and the continuation is what is more than the prompt has alone: what EleutherAI's harness takes for it.
    An encoder-decoder reads both apart.
    Raises: RequestError if the model has no tokenizer, or a continuation adds no token.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise RequestError(f"{model.name} has no tokenizer; give token ids instead of text", param="prompt")
    shown = prompt.rstrip()
    continuations = [prompt[len(shown) :] + continuation for continuation in continuations]
    ids = model.encode(shown)
    if reads_source(model.module):
        return ids, [tokenizer.encode(continuation) for continuation in continuations]
    before = [tokenizer.bos_id] if model.begins_with_bos and tokenizer.bos_id is not None else []
    alone = ids[len(before) :] if shown else []
    found = [whole[len(alone) :] for whole in _encoded(tokenizer, [shown + continuation for continuation in continuations])]
    for continuation, own in zip(continuations, found, strict=True):
        if not own:
            raise RequestError(f"the continuation {continuation[:40]!r} adds no token to its prompt", param="prompt")
    return ids, found


def encode_pair(model: Model, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt and of one continuation behind it, as encode_continuations has them."""
    ids, (found,) = encode_continuations(model, prompt, [continuation])
    return ids, found


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode_batch(texts)]
