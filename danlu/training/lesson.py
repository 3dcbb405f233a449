"""What a model is given to learn: from text what its family learns from text, from examples what they answer."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danlu.base.errors import ConfigError, DataError
from danlu.data import preparation
from danlu.data.batches import Batches, Mixture
from danlu.data.chat_rows import encode_conversations
from danlu.data.conversations import ChatExample
from danlu.data.examples import ClassifyExample, Example, Examples, Kind, likeness_key, split_examples
from danlu.data.looked_over import looked_over
from danlu.data.masking import Masking
from danlu.data.prepared import Prepared, open_prepared
from danlu.data.supervised import Row, Rows, encode_examples
from danlu.inputs.default_template import with_template
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import TRAINERS
from danlu.models.base import Family, Head, HeadKind
from danlu.models.loading import Loaded
from danlu.models.starting import configuration, count_weights, family_of_size, loaded_with_head, new_model
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task
from danlu.tasks.parts import read_part
from danlu.training.adapt import adapt, rate_factor
from danlu.training.config import Options, TrainingConfig, read_sources
from danlu.training.memory import fitted
from danlu.training.objective import TEXTS, FromExamples, MaskedWords, NextToken, Objective, SpanCorruption

NEVER_LEARNT = ("choice", "retrieve")  # kinds that only measure
ROWS, FEWEST_ROWS = 32, 8  # examples a step
STEPS_AN_EPOCH = 100  # at least, while a step has more than the fewest rows
PART_TOKENS = 2**14  # computed at once at most, unless asked for otherwise: more is no faster
VALIDATION = 0.1  # share of the examples
MOST_REFUSED = 0.1  # share of conversations that a chat template may refuse
VOCABULARY = 8192  # tokens learnt from examples, where the model begins from scratch


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learnt, and on what it is checked; the fingerprint tells whether the data is the same as before."""

    objective: Objective
    held_out: Objective | None
    fingerprint: str
    texts: tuple[Prepared, ...] = ()
    grades: bool = False  # whether an answer as a whole is right or wrong; a text is neither
    unseen: tuple[Example, ...] = ()  # the examples that were held out
    inputs: tuple[int, ...] = ()  # a hash of each example's input, so that evaluation can tell what was trained on

    @property
    def answers(self) -> bool:
        """Whether examples' answers are learnt, not a text."""
        return not self.texts


def teach(start: str, wish: Options, folder: Path) -> tuple[Loaded, Lesson, TrainingConfig]:
    """The model to begin with, its lesson and the settings; raw text is prepared into `folder`.

    Raises: ConfigError, DataError or CheckpointError if start, data and task do not go together.
    """
    if wish.adapt != "all" and family_of_size(start) is not None:
        raise ConfigError(f"--adapt came as {wish.adapt} for {start}, which has fresh weights; begin from a model that is there")
    if wish.task == "text":
        return _teach_text(start, wish, folder)
    task = find_task(wish.task)
    if task.kind in NEVER_LEARNT:
        raise ConfigError(
            f"--task {task.name} measures a model, and nothing is trained for it; expected a task such as classify or sentiment-en"
        )
    if wish.within_documents or wish.whole_words or any(weight != 1 for _, weight in read_sources(wish.data)):
        raise ConfigError(f"--within-documents, --whole-words and weights of --data are for text; --task {wish.task} learns from rows")
    return _teach_examples(start, wish, task)


def _teach_text(start: str, wish: Options, folder: Path) -> tuple[Loaded, Lesson, TrainingConfig]:
    family = family_of_size(start)
    sources = read_sources(wish.data)
    texts = _open_texts(start, wish, folder, family.tokenizer if family is not None else None)
    tokenizer = Tokenizer.load(texts[0].tokenizer_folder)
    for other in texts[1:]:
        if Tokenizer.load(other.tokenizer_folder).fingerprint != tokenizer.fingerprint:
            raise DataError(
                f"{other.folder} was tokenized otherwise than {texts[0].folder}; prepare it with --tokenizer {texts[0].tokenizer_folder}"
            )
    if family is not None:
        loaded, config = _fresh(start, tokenizer, wish, None, None)
    else:
        loaded = loaded_with_head(start, Head(kind="words"))
        if loaded.tokenizer is None or loaded.tokenizer.fingerprint != tokenizer.fingerprint:
            raise DataError(f"{texts[0].folder} was tokenized for another model than {start}; prepare it with --tokenizer {start}")
        loaded, config = _gone_on(loaded, wish, None)

    def windows(split: str, length: int) -> Batches | Mixture:
        found = [Batches(text.split(split), length, config.batch_rows, wish.seed) for text in texts]
        return found[0] if len(found) == 1 else Mixture(found, [weight for _, weight in sources], config.batch_rows, wish.seed)

    objective = _from_windows(loaded, partial(windows, "train"), config, wish)
    checked = None
    with suppress(DataError):  # shorter than two windows
        checked = _from_windows(loaded, partial(windows, "validation"), replace(config, label_smoothing=0.0), wish)
    prints = [(text.fingerprint, share) for text, (_, share) in zip(texts, sources, strict=True)]
    fingerprint = texts[0].fingerprint if len(texts) == 1 else _digest(repr(prints))
    return loaded, Lesson(objective=objective, held_out=checked, fingerprint=fingerprint, texts=texts), config


def _open_texts(start: str, wish: Options, folder: Path, kind: str | None) -> tuple[Prepared, ...]:
    """The prepared folders that were given, or one that is made of all the raw files."""
    paths = [Path(name) for name, _ in read_sources(wish.data)]
    ready = [(path / "manifest.json").is_file() or (path / ".work").is_dir() for path in paths]
    if all(ready):
        return tuple(open_prepared(path) for path in paths)
    if any(ready) or len({share for _, share in read_sources(wish.data)}) > 1:
        raise ConfigError(f"--data came as {', '.join(wish.data)}; prepared and raw text do not mix, and weights need prepared folders")
    plan = preparation.Plan(sources=tuple(name for name, _ in read_sources(wish.data)), out=folder, seed=wish.seed)
    preparation.run(replace(plan, tokenizer=start) if kind is None else replace(plan, tokenizer_kind=kind))
    return (open_prepared(folder),)


def _fresh(
    start: str, tokenizer: Tokenizer, wish: Options, head: Head | None, rows: int | None, kind: Kind | None = None
) -> tuple[Loaded, TrainingConfig]:
    """A model of a size with its settings, if it fits into memory."""
    family, shape = configuration(start, tokenizer, wish.context_length, head)
    config = _settings(family, shape, wish, True, rows, kind)
    weights = count_weights(family, shape)
    config = fitted(start, weights, weights, shape, config, wish.recompute is None)
    return new_model(start, tokenizer, wish.context_length, head), config


def _settings(family: Family, shape: Any, wish: Options, scratch: bool, rows: int | None, kind: Kind | None) -> TrainingConfig:
    """The dial's defaults, and what was asked for instead; `rows` is how many a step has where the data decides it."""
    context = min(wish.context_length or min(shape.context_length, 1024), shape.context_length)
    defaults = family.recipe(shape, scratch)
    step_rows = wish.batch_rows if wish.batch_rows is not None else rows or max(1, defaults.batch_tokens // context)
    parts = max(1, min(step_rows, -(-step_rows * context // PART_TOKENS)))
    optimizer = ("muon" if scratch else "adamw") if wish.optimizer == "auto" else wish.optimizer
    blocks = getattr(shape, "num_layers", 1)  # an encoder-decoder, which has them twice, answers in words
    factor = 1.0 if scratch else rate_factor(wish.adapt, kind, blocks)
    factor *= defaults.beside_muon if optimizer == "muon" else 1.0
    return TrainingConfig.of(
        wish,
        optimizer=optimizer,
        rate=wish.rate if wish.rate is not None else defaults.rate * factor,
        batch_rows=step_rows,
        accumulate=wish.accumulate if wish.accumulate is not None else parts,
        context_length=context,
    )


def _gone_on(loaded: Loaded, wish: Options, rows: int | None, kind: Kind | None = None) -> tuple[Loaded, TrainingConfig]:
    """A model that is there, of which learns what was asked for, with its settings, if that fits into memory."""
    config, adapted = _settings(loaded.family, loaded.config, wish, False, rows, kind), adapt(loaded, wish)
    sizes = [(weight.numel(), weight.requires_grad) for weight in adapted.module.parameters()]
    learning = sum(size for size, learns in sizes if learns)
    return adapted, fitted(loaded.name, sum(size for size, _ in sizes), learning, loaded.config, config, wish.recompute is None)


def _teach_examples(start: str, wish: Options, task: Task) -> tuple[Loaded, Lesson, TrainingConfig]:
    kind, named = task.kind, ", ".join(wish.data) or task.name
    examples = read_part(task, [name for name, _ in read_sources(wish.data)], "all" if task.test_share == 0 else "train")
    for line in [*(f"set aside {row}" for row in examples.set_aside[:3]), *looked_over(examples)]:
        print(f"danlu: {line}", file=sys.stderr)
    if wish.labels:
        if kind not in ("classify", "label"):
            raise ConfigError(f"--labels names classes or tags, and --task {task.name} ({kind}) has none; leave it out")
        if strange := set(examples.labels).difference(wish.labels):
            raise DataError(f"{named} has the label {min(strange)!r}, which is none of --labels {', '.join(wish.labels)}")
        examples = replace(examples, labels=wish.labels)
    if kind == "classify" and len(examples.labels) < 2:
        raise DataError(f"{named} has one class only ({', '.join(examples.labels)}); expected at least two to tell apart")
    head, rows = head_for(kind, examples.labels), _rows_a_step(len(examples.records))
    family = family_of_size(start)
    if family is not None:
        tokenizer = TRAINERS[family.tokenizer](_texts(examples.records), VOCABULARY)
        loaded, config = _fresh(start, tokenizer, wish, head, rows, kind)
    else:
        loaded = loaded_with_head(start, head)
        if loaded.tokenizer is None:
            raise ConfigError(f"{start} has no tokenizer, so it cannot read examples; expected tokenizer.json beside its weights")
        tokenizer = loaded.tokenizer
        loaded, config = _gone_on(loaded, wish, rows, kind)
    if kind == "translate" and not hasattr(loaded.config, "start_id"):
        raise ConfigError(f"{start} is no encoder-decoder; --task translate begins from one, such as seq2seq/tiny")
    if kind == "chat":
        if loaded.family.pretraining != "next-token":
            raise ConfigError(f"{start} does not go on from what it read; --task chat begins from a decoder, such as gpt/tiny")
        tokenizer, told = with_template(tokenizer)
        loaded = replace(loaded, tokenizer=tokenizer)
        if told:
            print(f"danlu: {start} has no chat template; it learns {told}, and the template is saved with it", file=sys.stderr)
    parts = split_examples(examples, VALIDATION if wish.validation is None else wish.validation, wish.seed)
    encoded = [_encode(part, tokenizer, config.context_length, wish.truncate) for part in parts]
    if not encoded[0][0]:
        raise DataError(f"nothing is left to learn of {named} in {config.context_length} tokens a row")
    if cut := sum(count for _, count in encoded):
        print(f"danlu: {cut:,} of {len(examples.records):,} examples were cut to {config.context_length} tokens", file=sys.stderr)
    start_id = getattr(loaded.config, "start_id", 0)
    weights = _class_weights(parts[0]) if wish.balance_classes else None

    def objective_of(number: int, shuffled: bool, smoothing: float = 0.0) -> Objective:
        rows = Rows(encoded[number][0], config.batch_rows, wish.seed, pad_id=tokenizer.pad_id or 0, start_id=start_id, shuffled=shuffled)
        return FromExamples(rows=rows, kind=kind, packed=loaded.family.packs, smoothing=smoothing, weights=weights if shuffled else None)

    checked = objective_of(1, False) if encoded[1][0] else None
    objective, fingerprint = objective_of(0, True, config.label_smoothing), _digest(repr(examples.records))
    inputs = tuple(map(likeness_key, examples.records))
    graded = kind not in (*TEXTS, "regress")
    return (
        loaded,
        Lesson(
            objective=objective,
            held_out=checked,
            fingerprint=fingerprint,
            grades=graded,
            unseen=tuple(parts[1].records),
            inputs=inputs,
        ),
        config,
    )


def _rows_a_step(examples: int) -> int:
    """Fewer rows where there are few examples, so that they are learnt in more steps."""
    return max(FEWEST_ROWS, min(ROWS, 2 ** (max(examples // STEPS_AN_EPOCH, 1).bit_length() - 1)))


def _class_weights(examples: Examples) -> torch.Tensor:
    """How much each class counts, (C,): inversely as often as it comes, an average example 1."""
    found = [record.label for record in examples.records if isinstance(record, ClassifyExample)]
    if not found:
        raise ConfigError(f"--balance-classes weighs classes, and --task {examples.kind} has none; leave it out")
    counts = np.array([found.count(name) for name in examples.labels])
    return torch.from_numpy(len(found) / (np.maximum(counts, 1) * len(counts))).float()


def _encode(examples: Examples, tokenizer: Tokenizer, length: int, truncate: bool) -> tuple[list[Row], int]:
    """Rows of examples, and how many were cut; conversations that the template refuses are set aside, while they are few."""
    if examples.kind != "chat":
        return encode_examples(examples.records, tokenizer, examples.labels, length, truncate)
    talks = [record for record in examples.records if isinstance(record, ChatExample)]
    rows, cut, refused, emptied = encode_conversations(talks, tokenizer, length, truncate)
    for reason in refused[:3]:
        print(f"danlu: set aside {reason}", file=sys.stderr)
    if refused or emptied:
        print(
            f"danlu: of {len(talks):,} conversations the model's chat template refuses {len(refused):,}, and {emptied:,} have no answer "
            f"within {length} tokens; the others are learnt",
            file=sys.stderr,
        )
    if len(refused) > MOST_REFUSED * len(talks):
        raise DataError(f"the model's chat template takes {len(talks) - len(refused):,} of {len(talks):,} conversations only: {refused[0]}")
    return rows, cut


def head_for(kind: Kind, names: Sequence[str]) -> Head | None:
    """The head that answers examples of a kind; None where the model's words do."""
    if kind == "translate":
        return None
    if kind == "chat":
        return Head(kind="words")
    if kind == "regress":
        return Head(kind="classes", names=("value",), regression=True)
    heads: dict[Kind, HeadKind] = {"classify": "classes", "label": "labels", "span": "spans"}
    return Head(kind=heads[kind], names=() if kind == "span" else tuple(names))


def _texts(examples: Sequence[Example]) -> Iterator[str]:
    """All that stands in examples, for a tokenizer to learn from."""
    for example in examples:
        for value in (getattr(example, name) for name in example.__dataclass_fields__ if name not in ("label", "tags", "answers")):
            if isinstance(example, ChatExample):
                yield "\n\n".join(f"{role}:\n{content}" for role, content in example.messages)
            elif isinstance(value, str):
                yield value
            elif isinstance(value, tuple):
                yield " ".join(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _from_windows(loaded: Loaded, windows: Callable[[int], Batches | Mixture], config: TrainingConfig, wish: Options) -> Objective:
    """What the family learns from text; `windows` gives them in a length."""
    tokenizer, model = loaded.tokenizer, loaded.config
    assert tokenizer is not None
    if wish.within_documents and not (loaded.family.packs and loaded.family.pretraining == "next-token"):
        raise ConfigError(
            f"--within-documents is for families that foretell tokens and read several texts in a row; {loaded.name} does not"
        )
    if wish.whole_words and loaded.family.pretraining != "masked-words":
        raise ConfigError(f"--whole-words is for families that learn hidden words; {loaded.name} does not")
    if loaded.family.pretraining == "masked-words":
        if tokenizer.mask_id is None or tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise ConfigError(
                f"{loaded.name} learns hidden words, but its tokenizer has no mask; prepare the text with --tokenizer-kind wordpiece"
            )
        pairs = bool(getattr(model, "next_sentence", False))
        return MaskedWords(
            batches=windows(config.context_length - (3 if pairs else 2)),
            smoothing=config.label_smoothing,
            masking=Masking.of(tokenizer, model.vocabulary_size, wish.whole_words),
            begin_id=tokenizer.cls_id,
            end_id=tokenizer.sep_id,
            next_sentence=pairs,
            seed=wish.seed,
        )
    if loaded.family.pretraining == "span-corruption":
        if not tokenizer.sentinel_ids or tokenizer.end_of_text_id is None:
            raise ConfigError(
                f"{loaded.name} learns spans cut out, but its tokenizer has no sentinels; prepare the text with --tokenizer-kind unigram"
            )
        return SpanCorruption(
            batches=windows(config.context_length),
            smoothing=config.label_smoothing,
            sentinels=tuple(tokenizer.sentinel_ids),
            end_id=tokenizer.end_of_text_id,
            start_id=model.start_id,
            seed=wish.seed,
        )
    separator = tokenizer.end_of_text_id if wish.within_documents else None
    return NextToken(batches=windows(config.context_length), smoothing=config.label_smoothing, separator_id=separator)
