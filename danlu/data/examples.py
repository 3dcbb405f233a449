"""Labelled rows for supervised training: read, checked one by one, and split."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import xxhash

from danlu.base.errors import ConfigError, DataError
from danlu.data.choices import ChoiceExample, RetrieveExample, read_choice, read_pair
from danlu.data.conversations import ChatExample, read_conversation
from danlu.data.encoding import decode
from danlu.data.fields import Row, columns, kind_of, parse, string
from danlu.data.reading import read_pieces
from danlu.data.rows import BadRow
from danlu.data.sources import COMPRESSIONS, ROW_FORMATS, find_files

Kind = Literal["classify", "regress", "label", "span", "translate", "chat", "choice", "retrieve"]
PAIRS = ("pair", "text_pair")  # what the second text of a row may be called
SHOWN = 3  # bad rows in a message
LONGEST_NUMBER = 18  # digits, more or less: Python refuses to read thousands of them
MOST_BAD = 0.1  # share of rows that may be set aside
SEED_BITS = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyExample:
    """A text, or two, and the name of its class."""

    text: str
    pair: str | None = None
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressExample:
    """A text, or two, and the number that belongs to it."""

    text: str
    pair: str | None = None
    label: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelExample:
    """Tokens as the data has them, and the tag of each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A stretch of a context; `start` counts characters."""

    text: str
    start: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanExample:
    """A question to a context and its answers, each as good as the others; none if the context does not tell."""

    context: str
    question: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateExample:
    """A text and what it becomes."""

    source: str
    target: str


Example: TypeAlias = (
    ClassifyExample | RegressExample | LabelExample | SpanExample | TranslateExample | ChatExample | ChoiceExample | RetrieveExample
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAside:
    """A row that cannot be used."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An example and where it stands."""

    file: str
    line: int
    example: Example


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a source holds: usable rows in their order, those set aside, and, where rows have labels, their names in order."""

    kind: Kind
    records: tuple[Example, ...]
    set_aside: tuple[SetAside, ...]
    labels: tuple[str, ...] = ()


def stream_rows(sources: Sequence[str]) -> Iterator[tuple[str, int, bytes | SetAside]]:
    """File, line and content of every row of files, folders, catalog names or hf:owner/name, or why it cannot be read.

    Raises: ConfigError if there is no such source; DataError if it is of no format that has rows.
    """
    files = [file for file in find_files(list(sources)) if file.format in ROW_FORMATS.values()]
    if not files:
        raise DataError(
            f"{', '.join(sources)} holds no rows; expected {' '.join(ROW_FORMATS)}, or one of these with {' or '.join(COMPRESSIONS)}"
        )
    for number, file in enumerate(files):
        for piece in read_pieces(file, number):
            if piece.kind == "bad":
                reason = piece.content.decode("utf-8", errors="replace")
                yield file.name, piece.line, SetAside(file=file.name, line=piece.line, reason=reason)
                continue
            for line, content in piece.rows():
                yield file.name, line, content


def stream_examples(sources: Sequence[str], kind: Kind) -> Iterator[Placed | SetAside]:
    """The rows of sources as examples of one kind, one after the other, bad ones with their reason. Raises: as stream_rows."""
    for file, line, content in stream_rows(sources):
        yield content if isinstance(content, SetAside) else place(file, line, content, kind)


def place(file: str, line: int, row: bytes | Row, kind: Kind) -> Placed | SetAside:
    """One row, as JSON or read already, as an example, or why it is none."""
    try:
        return Placed(file=file, line=line, example=READERS[kind](_row(row) if isinstance(row, bytes) else row))
    except BadRow as error:
        return SetAside(file=file, line=line, reason=str(error))


def read_examples(sources: Sequence[str], kind: Kind, max_bad: float = MOST_BAD) -> Examples:
    """Read all rows of files, folders, catalog names or hf:owner/name as examples of one kind.

    Raises: ConfigError if there is no such source; DataError if it has no rows, or more than `max_bad` of them cannot be used.
    """
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"max_bad {max_bad:g} is no share; expected 0 to 1")
    return gather(stream_examples(sources, kind), kind, ", ".join(sources), max_bad)


def gather(stream: Iterable[Placed | SetAside], kind: Kind, source: str, max_bad: float = MOST_BAD) -> Examples:
    """All of a stream. Raises: DataError if nothing of it, or less than all but `max_bad`, can be used."""
    records, bad = list[Example](), list[SetAside]()
    for found in stream:
        if isinstance(found, Placed):
            records.append(found.example)
        else:
            bad.append(found)
    check_share(bad, len(records), kind, source, max_bad)
    return Examples(kind=kind, records=tuple(records), set_aside=tuple(bad), labels=label_names(records))


def check_share(
    bad: Sequence[SetAside], usable: int, kind: Kind, source: str, max_bad: float = MOST_BAD, count: int | None = None
) -> None:  # fmt: skip
    """Raises: DataError, naming the first rows, if more than `max_bad` of all cannot be used, or there are none.

    `count` says how many are set aside, where `bad` holds only the first of them.
    """
    lost = len(bad) if count is None else count
    total = usable + lost
    told = "; ".join(" ".join(str(row).split()) for row in bad[:SHOWN])
    if lost > max_bad * total:
        raise DataError(f"{source}: {lost:,} of {total:,} rows cannot be used for {kind}, more than {max_bad:g} of all: {told}")
    if not usable:
        raise DataError(f"{source} holds no row for {kind}" + (f": {told}" if told else "; expected at least one"))


def split_examples(examples: Examples, validation: float, seed: int) -> tuple[Examples, Examples]:
    """Training and validation examples, in their order: of each class the same share, by the hash of the input and the seed.

    The same input, however often it stands there, is on one side only; for spans the input is the context. Each class of two
    inputs or more is on both sides.

    Raises: ConfigError if `validation` is no share.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"validation {validation:g} is no share; expected 0 or more, below 1")
    chosen = held_numbers(examples.records, validation, seed)
    train = tuple(record for number, record in enumerate(examples.records) if number not in chosen)
    held = tuple(record for number, record in enumerate(examples.records) if number in chosen)
    return replace(examples, records=train), replace(examples, records=held)


def held_numbers(records: Sequence[Example], share: float, seed: int) -> set[int]:
    """Which of the examples are held out: of each class the same share, all of one input or none of it."""
    keys = [input_key(record, seed) for record in records]
    classes = defaultdict[str, set[int]](set)
    for key, record in zip(keys, records, strict=True):
        classes[record.label if isinstance(record, ClassifyExample) else ""].add(key)
    chosen = set[int]()
    for members in classes.values():
        most = len(members) - 1
        wanted = min(max(round(len(members) * share), 1), most) if share else 0
        chosen.update(sorted(members)[:wanted])
    return {number for number, key in enumerate(keys) if key in chosen}


def input_key(record: Example, seed: int = 0) -> int:
    """A 64-bit hash of what a model is given of an example."""
    return xxhash.xxh3_64_intdigest("\0".join(input_of(record)).encode(), seed=seed & SEED_BITS)


def likeness_key(record: Example) -> int:
    """A 64-bit hash of what a model is given of an example but for case, spaces and signs: what differs in these alone is the same."""
    plain = "\0".join("".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold())) for text in input_of(record))
    return xxhash.xxh3_64_intdigest(plain.encode()) if plain.strip("\0") else input_key(record)


def _row(content: bytes) -> Row:
    row = parse(decode(content)[0])
    if not isinstance(row, Mapping):
        raise BadRow(f"a row is {kind_of(row)}; expected an object with fields")
    return row


def _classify(row: Row) -> ClassifyExample:
    text, label = _text(row, "text"), _label(_value(row, "label"), "label")
    return ClassifyExample(text=text, pair=_pair(row), label=label)


def _regress(row: Row) -> RegressExample:
    text, value = _text(row, "text"), _value(row, "label")
    try:
        readable = isinstance(value, int | float | str) and not isinstance(value, bool) and "_" not in str(value)
        label = float(value) if readable else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        label = math.nan
    if not math.isfinite(label):
        raise BadRow(f"`label` is {_shown(value)}; expected a finite number")
    return RegressExample(text=text, pair=_pair(row), label=label)


def _tokens(row: Row) -> LabelExample:
    tokens, tags = (_list(_value(row, name), name) for name in ("tokens", "tags"))
    if not tokens or len(tokens) != len(tags):
        raise BadRow(f"{len(tokens)} `tokens` and {len(tags)} `tags`; expected as many, and at least one")
    return LabelExample(tokens=tuple(string(token, "tokens") for token in tokens), tags=tuple(_label(tag, "tags") for tag in tags))


def _span(row: Row) -> SpanExample:
    context, question, answers = _text(row, "context"), _text(row, "question"), _value(row, "answers")
    if isinstance(answers, str):
        answers = _listed(answers)
    if isinstance(answers, Mapping):  # SQuAD's columns: one list of texts, one of starts
        texts = _list(_value(answers, "text"), "text")
        starts = _list(answers.get("answer_start") or [None] * len(texts), "answer_start")
        if len(texts) != len(starts):
            raise BadRow(f"`answers` has {len(texts)} `text` and {len(starts)} `answer_start`; expected as many")
        pairs = list(zip(texts, starts, strict=True))
    else:
        listed = [answer if isinstance(answer, Mapping) else {"text": answer} for answer in _list(answers, "answers")]
        pairs = [(_value(answer, "text"), answer.get("answer_start")) for answer in listed]
    return SpanExample(context=context, question=question, answers=tuple(_answer(context, text, start) for text, start in pairs))


def _listed(answers: str) -> Any:
    """Answers in a table of text: JSON, or one answer as it is, which may begin with a bracket."""
    try:
        return parse(answers) if answers.lstrip()[:1] in ("[", "{") else [answers]
    except BadRow:
        return [answers]


def _answer(context: str, text: object, start: object) -> Answer:
    text = string(text, "answers")
    start = context.find(text) if start is None else start
    if not text or start == -1:
        raise BadRow(f"the answer {text[:40]!r} does not stand in the context")
    if not isinstance(start, int) or start < 0 or not context.startswith(text, start):
        there = repr(context[start : start + 40]) if isinstance(start, int) and start >= 0 else "nothing"
        raise BadRow(f"the answer {text[:40]!r} does not stand in the context at {_shown(start)}, where {there} stands")
    return Answer(text=text, start=start)


def _translate(row: Row) -> TranslateExample:
    names = ("prompt", "completion") if "source" not in row and "prompt" in row else ("source", "target")
    source, target = (_text(row, name) for name in names)
    return TranslateExample(source=source, target=target)


READERS: dict[Kind, Callable[[Row], Example]] = {
    "classify": _classify,
    "regress": _regress,
    "label": _tokens,
    "span": _span,
    "translate": _translate,
    "chat": read_conversation,
    "choice": read_choice,
    "retrieve": read_pair,
}
assert set(READERS) == set(get_args(Kind))


def _value(row: Row, name: str) -> object:
    if name not in row:
        raise BadRow(f"no field {name!r} among {columns(row)}")
    if row[name] is None:
        raise BadRow(f"`{name}` is missing or not a number in this row")
    return row[name]


def _text(row: Row, name: str) -> str:
    text = string(_value(row, name), name)
    if not text.strip():
        raise BadRow(f"`{name}` is empty")
    return text


def _pair(row: Row) -> str | None:
    return next((_text(row, name) for name in PAIRS if row.get(name) is not None), None)


def _label(value: object, field: str) -> str:
    """The name of a label: 3, 3.0 and "3.0" are one, since a column with a gap turns whole numbers into others."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = value.strip() if isinstance(value, str) else json.dumps(value) if isinstance(value, int) else ""
    if not name or name.lower() == "nan":
        raise BadRow(f"`{field}` is {_shown(value)}; expected a name or a whole number")
    whole = name.removesuffix(".0")
    return whole if _is_whole(whole) else name


def _is_whole(name: str) -> bool:
    return len(name) <= LONGEST_NUMBER and name.removeprefix("-").isdecimal()


def _list(value: object, field: str) -> list[object]:
    """A list; tables of text hold it as JSON."""
    if isinstance(value, str):
        value = parse(value)
    if not isinstance(value, list):
        raise BadRow(f"`{field}` is {kind_of(value)}; expected a list")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:40] + "..."


def label_names(records: Iterable[Example]) -> tuple[str, ...]:
    """Names of labels, once each: as numbers if all are, else as words."""
    names = set[str]()
    for record in records:
        names.update((record.label,) if isinstance(record, ClassifyExample) else record.tags if isinstance(record, LabelExample) else ())
    return tuple(sorted(names, key=lambda name: (int(name), name)) if all(map(_is_whole, names)) else sorted(names))


def input_of(record: Example) -> tuple[str, ...]:
    """What a model is given of an example."""
    if isinstance(record, LabelExample):
        return record.tokens
    if isinstance(record, SpanExample):
        return (record.context,)
    if isinstance(record, TranslateExample):
        return (record.source,)
    if isinstance(record, ChatExample):
        return record.asked
    if isinstance(record, ChoiceExample):
        return (record.prompt, *record.choices)
    if isinstance(record, RetrieveExample):
        return (record.query, record.document)
    return (record.text, record.pair or "")
