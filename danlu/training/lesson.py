"""What a model is given to learn: from text what its family learns from text, from examples what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from danlu.base.errors import ConfigError, DataError
from danlu.data import preparation
from danlu.data.batches import Batches
from danlu.data.masking import Masking
from danlu.data.prepared import Prepared, open_prepared
from danlu.data.supervised import Kind, Row, Rows
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Head
from danlu.models.loading import Loaded
from danlu.models.starting import family_of_size, loaded_with_head, new_model
from danlu.training.config import TrainingConfig
from danlu.training.objective import FromExamples, MaskedWords, NextToken, Objective, SpanCorruption

# What `--task` names beside "text": the kind of examples, and the head that answers them.
TASKS: dict[str, Kind] = {"classify": "classify", "regress": "regress", "label": "label", "span": "span", "translate": "translate"}


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
    preparation.run(preparation.Plan(sources=(wish.data,), out=folder, seed=wish.seed))
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
    raise ConfigError(f"--task {wish.task} comes next")


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


def from_rows(
    loaded: Loaded, kind: Kind, train: Sequence[Row], held_out: Sequence[Row], rows_a_step: int, seed: int, fingerprint: str
) -> Lesson:
    """What examples answer, already as token ids."""
    pad, start = getattr(loaded.config, "pad_id", 0), getattr(loaded.config, "start_id", 0)

    def objective_of(rows: Sequence[Row], shuffled: bool) -> Objective:
        return FromExamples(
            rows=Rows(rows, rows_a_step, seed, pad_id=pad, start_id=start, shuffled=shuffled), kind=kind, packed=loaded.family.packs
        )  # fmt: skip

    return Lesson(
        objective=objective_of(train, shuffled=True), held_out=objective_of(held_out, shuffled=False) if held_out else None, fingerprint=fingerprint
    )  # fmt: skip


def head_for(kind: Kind, names: Sequence[str]) -> Head | None:
    """The head that answers examples of a kind; None where the model's words do."""
    if kind == "translate":
        return None
    if kind == "regress":
        return Head(kind="classes", names=("value",), regression=True)
    heads = {"classify": "classes", "label": "labels", "span": "spans"}
    return Head(kind=heads[kind], names=tuple(names) if kind != "span" else ())  # type: ignore[arg-type]
