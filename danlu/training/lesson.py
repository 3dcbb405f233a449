"""What a model is given to learn: from text what its family learns from text, from examples what they answer."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from danlu.base.errors import ConfigError, DataError
from danlu.data import preparation
from danlu.data.batches import Batches
from danlu.data.examples import Example, Examples, Kind, read_examples, split_examples
from danlu.data.masking import Masking
from danlu.data.prepared import Prepared, open_prepared
from danlu.data.supervised import Rows, encode_examples
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import TRAINERS
from danlu.models.base import Head, HeadKind
from danlu.models.loading import Loaded
from danlu.models.starting import family_of_size, loaded_with_head, new_model
from danlu.training.config import TrainingConfig
from danlu.training.objective import FromExamples, MaskedWords, NextToken, Objective, SpanCorruption

TASKS: dict[str, Kind] = {name: name for name in get_args(Kind)}  # what `--task` names beside "text"
ROWS = 32  # examples a step
VALIDATION = 0.1  # share of the examples
VOCABULARY = 8192  # tokens learnt from examples, where the model begins from scratch


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What someone wants learnt; `rate`, `batch_rows` and `context_length` follow from the model unless given."""

    start: str
    data: str
    task: str
    seed: int
    optimizer: str
    rate: float | None
    batch_rows: int | None
    context_length: int | None
    whole_words: bool
    truncate: bool


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learnt, and on what it is checked; the fingerprint tells whether the data is the same as before."""

    objective: Objective
    held_out: Objective | None
    fingerprint: str
    text: Prepared | None = None

    @property
    def answers(self) -> bool:
        """Whether examples' answers are learnt, not a text."""
        return self.text is None


def teach(wish: Wish, folder: Path) -> tuple[Loaded, Lesson, TrainingConfig]:
    """The model to begin with, its lesson and the settings; raw text is prepared into `folder`.

    Raises: ConfigError, DataError or CheckpointError if start, data and task do not go together.
    """
    if wish.task == "text":
        return _teach_text(wish, folder)
    if wish.task not in TASKS:
        raise ConfigError(f"--task came as {wish.task!r}; expected text, {', '.join(TASKS)}")
    return _teach_examples(wish, TASKS[wish.task])


def _teach_text(wish: Wish, folder: Path) -> tuple[Loaded, Lesson, TrainingConfig]:
    family = family_of_size(wish.start)
    text = _open_text(wish, folder, family.tokenizer if family is not None else None)
    tokenizer = Tokenizer.load(text.tokenizer_folder)
    if family is not None:
        loaded = new_model(wish.start, tokenizer, wish.context_length)
    else:
        loaded = loaded_with_head(wish.start, Head(kind="words"))
        if loaded.tokenizer is None or loaded.tokenizer.fingerprint != tokenizer.fingerprint:
            raise DataError(f"{text.folder} was tokenized for another model than {wish.start}; prepare it with --tokenizer {wish.start}")
    config = _settings(loaded, wish, family is not None, None)

    def objective_of(split: str) -> Objective:
        return _from_windows(loaded, text.split(split), config.context_length, config.batch_rows, wish.seed, wish.whole_words)

    checked = None
    with suppress(DataError):  # shorter than two windows
        checked = objective_of("validation") if text.tokens("validation") else None
    return loaded, Lesson(objective=objective_of("train"), held_out=checked, fingerprint=text.fingerprint, text=text), config


def _open_text(wish: Wish, folder: Path, kind: str | None) -> Prepared:
    path = Path(wish.data)
    if (path / "manifest.json").is_file() or (path / ".work").is_dir():
        return open_prepared(path)
    if kind is None:
        plan = preparation.Plan(sources=(wish.data,), out=folder, seed=wish.seed, tokenizer=wish.start)
    else:
        plan = preparation.Plan(sources=(wish.data,), out=folder, seed=wish.seed, tokenizer_kind=kind)
    preparation.run(plan)
    return open_prepared(folder)


def _settings(loaded: Loaded, wish: Wish, scratch: bool, rows: int | None) -> TrainingConfig:
    """The dial's defaults, and what was asked for instead; `rows` is how many a step has where the data decides it."""
    context = min(wish.context_length or min(loaded.config.context_length, 1024), loaded.config.context_length)
    defaults = loaded.family.recipe(loaded.config, scratch)
    return TrainingConfig(
        optimizer=("muon" if scratch else "adamw") if wish.optimizer == "auto" else wish.optimizer,  # type: ignore[arg-type]
        rate=wish.rate if wish.rate is not None else defaults.rate,
        batch_rows=wish.batch_rows or rows or max(1, defaults.batch_tokens // context),
        context_length=context,
    )


def _teach_examples(wish: Wish, kind: Kind) -> tuple[Loaded, Lesson, TrainingConfig]:
    examples = read_examples(wish.data, kind)
    for row in examples.set_aside[:3]:
        print(f"danlu: set aside {row}", file=sys.stderr)
    if kind == "classify" and len(examples.labels) < 2:
        raise DataError(f"{wish.data} has one class only ({', '.join(examples.labels)}); expected at least two to tell apart")
    head = head_for(kind, examples.labels)
    family = family_of_size(wish.start)
    if family is not None:
        tokenizer = TRAINERS[family.tokenizer](_texts(examples.records), VOCABULARY)
        loaded = new_model(wish.start, tokenizer, wish.context_length, head)
    else:
        loaded = loaded_with_head(wish.start, head)
        if loaded.tokenizer is None:
            raise ConfigError(f"{wish.start} has no tokenizer, so it cannot read examples; expected tokenizer.json beside its weights")
        tokenizer = loaded.tokenizer
    if kind == "translate" and not hasattr(loaded.config, "start_id"):
        raise ConfigError(f"{wish.start} is no encoder-decoder; --task translate begins from one, such as seq2seq/tiny")
    config = _settings(loaded, wish, family is not None, ROWS)
    parts = split_examples(examples, VALIDATION, wish.seed)
    encoded = [encode_examples(part.records, tokenizer, examples.labels, config.context_length, wish.truncate) for part in parts]
    if cut := sum(count for _, count in encoded):
        print(f"danlu: {cut:,} of {len(examples.records):,} examples were cut to {config.context_length} tokens", file=sys.stderr)
    start_id = getattr(loaded.config, "start_id", 0)

    def objective_of(number: int, shuffled: bool) -> Objective:
        rows = Rows(encoded[number][0], config.batch_rows, wish.seed, pad_id=tokenizer.pad_id or 0, start_id=start_id, shuffled=shuffled)
        return FromExamples(rows=rows, kind=kind, packed=loaded.family.packs)

    checked = objective_of(1, shuffled=False) if encoded[1][0] else None
    return loaded, Lesson(objective=objective_of(0, shuffled=True), held_out=checked, fingerprint=_fingerprint(examples)), config


def head_for(kind: Kind, names: Sequence[str]) -> Head | None:
    """The head that answers examples of a kind; None where the model's words do."""
    if kind == "translate":
        return None
    if kind == "regress":
        return Head(kind="classes", names=("value",), regression=True)
    heads: dict[Kind, HeadKind] = {"classify": "classes", "label": "labels", "span": "spans"}
    return Head(kind=heads[kind], names=() if kind == "span" else tuple(names))


def _texts(examples: Sequence[Example]) -> Iterator[str]:
    """All that stands in examples, for a tokenizer to learn from."""
    for example in examples:
        for value in (getattr(example, name) for name in example.__dataclass_fields__ if name not in ("label", "tags", "answers")):
            if isinstance(value, str):
                yield value
            elif isinstance(value, tuple):
                yield " ".join(value)


def _fingerprint(examples: Examples) -> str:
    return hashlib.sha256(repr(examples.records).encode()).hexdigest()


def _from_windows(
    loaded: Loaded, shards: Sequence[NDArray[Any]], context_length: int, rows: int, seed: int, whole_words: bool
) -> Objective:  # fmt: skip
    tokenizer, config = loaded.tokenizer, loaded.config
    assert tokenizer is not None
    if loaded.family.pretraining == "masked-words":
        if tokenizer.mask_id is None or tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise ConfigError(
                f"{loaded.name} learns hidden words, but its tokenizer has no mask; prepare the text with --tokenizer-kind wordpiece"
            )
        pairs = bool(getattr(config, "next_sentence", False))
        return MaskedWords(
            batches=Batches(shards, context_length - (3 if pairs else 2), rows, seed),
            masking=Masking.of(tokenizer, config.vocabulary_size, whole_words),
            begin_id=tokenizer.cls_id,
            end_id=tokenizer.sep_id,
            next_sentence=pairs,
            seed=seed,
        )
    if loaded.family.pretraining == "span-corruption":
        if not tokenizer.sentinel_ids or tokenizer.end_of_text_id is None:
            raise ConfigError(
                f"{loaded.name} learns spans cut out, but its tokenizer has no sentinels; prepare the text with --tokenizer-kind unigram"
            )
        return SpanCorruption(
            batches=Batches(shards, context_length, rows, seed),
            sentinels=tuple(tokenizer.sentinel_ids),
            end_id=tokenizer.end_of_text_id,
            start_id=config.start_id,
            seed=seed,
        )
    return NextToken(batches=Batches(shards, context_length, rows, seed))
