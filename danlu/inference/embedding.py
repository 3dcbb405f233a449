"""Texts to vectors: hidden states of each text, pooled as the model's folder says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.base.device import lone_threads
from danlu.base.errors import CheckpointError, RequestError
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Inputs
from danlu.nn.attention import Packing

# Fewer tokens at once leave calls short, more leave the processor's cache (docs/experiments.md).
BATCH_TOKENS = 1024
CHARACTERS_A_TOKEN = 1024  # more than a token ever takes: what is longer need not be tokenized to be too long
PORTION = 2**18  # characters tokenized at once, which takes a few hundred times their memory
MODES = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "lasttoken": "lasttoken"}  # and what they were called once

Text = str | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How a text's hidden states become one vector, and how much of a text is read.

    `unknown` names what a folder asks for that is not computed here.
    """

    modes: tuple[str, ...] = ("mean",)
    unit_length: bool = True
    longest: int | None = None  # tokens
    lower_case: bool = False
    prompt: str = ""  # stands before every text
    unknown: tuple[str, ...] = ()


class Embedder:
    """Makes vectors with one model; neighbours in a batch change nothing but last bits.

    The parts of `embed` stand alone, so that a server can do other things between two batches.
    """

    def __init__(self, name: str, module: nn.Module, config: Any, tokenizer: Tokenizer | None, pooling: Pooling) -> None:
        if pooling.unknown:
            raise RequestError(
                f"the files of {name} ask for {', '.join(pooling.unknown)}, which embed does not compute; use hidden and pool yourself",
                code="not_supported",
            )
        self.name, self.module, self.config, self.tokenizer, self.pooling = name, module, config, tokenizer, pooling
        said = pooling.longest or (tokenizer.settings.get("model_max_length") if tokenizer is not None else None)
        known = isinstance(said, int | float) and said >= 1
        self.longest: int = int(min(said, config.context_length)) if known else config.context_length
        self.width: int = config.width * len(pooling.modes)
        self.num_threads, self.threads = torch.get_num_threads(), lone_threads()

    def embed(self, texts: Sequence[Text], truncate: bool = False) -> Tensor:
        """Vectors of texts, each text or token ids. Shapes: (texts, D)."""
        rows = self.read(texts, truncate)
        found = torch.empty(len(rows), self.width)

        def compute(places: list[int]) -> None:
            found[places] = self.vectors([rows[place] for place in places])

        list(self.threads.map(compute, self.batches(rows)))
        return found

    def batches(self, rows: Sequence[np.ndarray]) -> list[list[int]]:
        """Places of the texts that are computed together, with work for every thread where there are enough."""
        return batches([len(row) for row in rows], self.num_threads)

    def read(self, texts: Sequence[Text], truncate: bool = False, first: int = 0) -> list[np.ndarray]:
        """Token ids of every text as the model wants them; the texts are numbered from `first` on.

        Raises: RequestError naming a text that is too long, unless it is to be cut.
        """
        words = [place for place, text in enumerate(texts) if isinstance(text, str)]
        for place in words:
            if not truncate and len(texts[place]) > self.longest * CHARACTERS_A_TOKEN:
                raise self._too_long(first + place, f"{len(texts[place])} characters")
        rows = [np.empty(0, np.int64) if isinstance(text, str) else self._ids(text) for text in texts]
        for place, row in zip(words, self._tokenized([str(texts[place]) for place in words], truncate), strict=True):
            rows[place] = row
        if truncate:
            return [row[: self.longest] for row in rows]
        for place, row in enumerate(rows):
            if len(row) > self.longest:
                raise self._too_long(first + place, f"{len(row)} tokens")
        return rows

    def cut(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text `truncate` leaves out: of an endless one at least so many."""
        return [max(len(row) - self.longest, 0) for row in self._tokenized(list(texts), truncate=False)]

    @torch.inference_mode()
    def vectors(self, rows: Sequence[np.ndarray]) -> Tensor:
        """Vectors of the texts of one batch, computed without padding. Shapes: (texts, D)."""
        packing = Packing(tuple(len(row) for row in rows))
        tokens = torch.from_numpy(np.concatenate(rows))[None]
        hidden = self.module(Inputs(tokens=tokens, visible=packing), None)[0].float()
        lengths = torch.tensor(packing.lengths)
        parts = [_pool(mode, hidden, packing.starts, lengths) for mode in self.pooling.modes]
        pooled = torch.cat(parts, dim=-1)
        return F.normalize(pooled, dim=-1) if self.pooling.unit_length else pooled

    def _tokenized(self, texts: list[str], truncate: bool) -> list[np.ndarray]:
        if not texts:
            return []
        if self.tokenizer is None:
            raise RequestError(f"{self.name} has no tokenizer; give token ids instead of text", param="input")
        texts = [self.pooling.prompt + text for text in texts]
        if self.pooling.lower_case:
            texts = [text.lower() for text in texts]
        texts = [text[: self.longest * CHARACTERS_A_TOKEN] for text in texts]
        rows: list[np.ndarray] = []
        for portion in _portions(texts):
            rows += self.tokenizer.encode_model_inputs(portion, self.longest if truncate else None)
        if all(map(len, rows)):
            return rows
        start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.end_of_text_id
        if start is None:
            raise RequestError(f"a text came empty, and {self.name} has no token for the beginning of one; leave it out", param="input")
        return [row if len(row) else np.array([start]) for row in rows]

    def _too_long(self, place: int, length: str) -> RequestError:
        return RequestError(
            f"text {place} is {length} long; {self.name} reads {self.longest} tokens: shorten it, or have it cut (truncate)",
            param="input",
            code="context_length_exceeded",
        )

    def _ids(self, ids: Sequence[int]) -> np.ndarray:
        row, size = np.asarray(ids), self.config.vocabulary_size
        if row.ndim != 1 or not row.size or row.dtype.kind not in "iu" or row.min() < 0 or row.max() >= size:
            raise RequestError(f"token ids came empty, or with one that {self.name} lacks; expected 0 to {size - 1}", param="input")
        return row.astype(np.int64)


def batches(lengths: Sequence[int], parts: int = 1) -> list[list[int]]:
    """Places of texts that are computed together: like lengths side by side, BATCH_TOKENS tokens at most.

    In `parts` batches or more, unless a text is longer than such a part: it is then a batch by itself.
    """
    most = min(BATCH_TOKENS, sum(lengths) // parts)
    found: list[list[int]] = []
    room = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[place] > room:
            found.append([])
            room = most
        found[-1].append(place)
        room -= lengths[place]
    return found


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    size = 0
    for text in texts:
        if portion and size + len(text) > PORTION:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(text)
    yield portion


def _pool(mode: str, hidden: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """One vector for each of the texts that lie one behind the other. Shapes: hidden (N, D) -> (texts, D)."""
    if mode == "cls":
        return hidden[starts]
    if mode == "lasttoken":
        return hidden[starts + lengths - 1]
    return torch.segment_reduce(hidden, mode, lengths=lengths, axis=0)


def read_pooling(folder: Path) -> Pooling:
    """What sentence-transformers' files in a folder say; without them the mean, of unit length.

    Raises: CheckpointError if one of them is damaged.
    """
    try:
        kinds = {part["type"].rpartition(".")[2]: _within(folder, part["path"]) for part in _json(folder / "modules.json") or []}
        text: dict[str, Any] = next((_json(file) for file in sorted(folder.glob("sentence_*_config.json"))), {})
        general = _json(folder / "config_sentence_transformers.json")
        pooling = _json(kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
        modes = _modes(pooling)
        prompt = (general.get("prompts") or {}).get(general.get("default_prompt_name")) or ""
        unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        unknown += [f"pooling by {mode}" for mode in modes if mode not in MODES]
        unknown += ["pooling without the prompt"] if prompt and not pooling.get("include_prompt", True) else []
        return Pooling(
            modes=modes,
            unit_length="Normalize" in kinds or not kinds,
            longest=text.get("max_seq_length"),
            lower_case=bool(text.get("do_lower_case")),
            prompt=prompt,
            unknown=tuple(unknown),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: sentence-transformers' files cannot be read ({error!r}); fetch or save them again") from None


def _modes(pooling: dict[str, Any]) -> tuple[str, ...]:
    """Ways of pooling, side by side in this order: in the present spelling or, one true-or-false a way, in the older one."""
    said = pooling.get("pooling_mode")
    if said is not None:
        return (said,) if isinstance(said, str) else tuple(said)
    before = "pooling_mode_"
    known = {before + theirs: own for own, theirs in MODES.items()}
    chosen = [name for name in known if pooling.get(name) is True]
    others = [name for name, value in pooling.items() if name.startswith(before) and value is True and name not in known]
    return tuple(known[name] for name in chosen) + tuple(name.removeprefix(before) for name in others) or ("mean",)


def _within(folder: Path, path: str) -> Path:
    """A folder of a folder. Raises: ValueError if it lies elsewhere."""
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path!r} leaves the folder")
    return folder / path


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
