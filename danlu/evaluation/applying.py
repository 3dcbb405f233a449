"""Answers to rows whose answers are not known: streamed, safe batch by batch, and every row in its place."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from danlu.base.errors import ConfigError
from danlu.base.storage import write_whole
from danlu.data.answers import Answer, Refused
from danlu.data.encoding import decode
from danlu.data.examples import Example, SetAside, stream_rows
from danlu.data.fields import Row, kind_of, parse
from danlu.data.rows import BadRow
from danlu.data.unanswered import without_answer
from danlu.evaluation.answerers.base import Answerer
from danlu.tasks.base import Task

NUMBERS_AS_TEXT = json.JSONDecoder(parse_int=str, parse_float=str)  # Python refuses numbers of thousands of digits


@dataclass(frozen=True, slots=True)
class Asked:
    """A row as it came, and the reason if it is none."""

    file: str
    line: int
    row: Any
    fault: str = ""
    content: bytes = b""


def rows_of(source: str) -> Iterator[Asked]:
    """Rows of a source in order, bad ones in their place. Raises: ConfigError or DataError if there are none to be read."""
    for file, line, content in stream_rows([source]):
        yield Asked(file, line, None, content.reason) if isinstance(content, SetAside) else _asked(file, line, content)


def _asked(file: str, line: int, content: bytes) -> Asked:
    text = decode(content)[0]
    try:
        row = parse(text)
    except BadRow as error:
        return Asked(file, line, text, str(error))
    fault = "" if isinstance(row, Mapping) else f"a row is {kind_of(row)}; expected an object with fields"
    return Asked(file, line, row, fault, text.strip().encode())


def answer_batch(batch: Sequence[Asked], task: Task, answerer: Answerer, file: BinaryIO, counts: Counter[str]) -> None:
    """Answer a batch and bring it to disk; a kill between two batches loses nothing, one within loses this batch only."""
    said: list[dict[str, Any]] = [{"error": each.fault} for each in batch]
    examples, places = list[Example](), list[int]()
    for place, each in enumerate(batch):
        if not each.fault:
            try:
                examples.append(without_answer(each.file, each.line, each.row, task.kind))
                places.append(place)
            except BadRow as error:
                said[place] = {"error": str(error)}
    for place, answer in zip(places, answerer.answer(examples) if examples else [], strict=True):
        said[place] = {"error": answer.reason} if isinstance(answer, Refused) else told(answer, task, answerer.labels)
    lines = []
    for each, content in zip(batch, said, strict=True):
        lines.append(_line(each, content))
        _tally(content, counts)
    file.write(b"".join(lines))
    file.flush()
    os.fsync(file.fileno())


def _line(asked: Asked, answer: Mapping[str, Any]) -> bytes:
    """A row as it came, to the letter, with the answer behind its fields.

    A field of its own called `answer` becomes `answer_given`, or `answer_given_2` where there is such a one, and so on.
    """
    told = json.dumps({"answer": answer}, ensure_ascii=False)
    if not isinstance(asked.row, Mapping) or not asked.row:
        row: Row = asked.row if isinstance(asked.row, Mapping) else {"row": asked.row}
        return json.dumps({**row, "answer": answer}, ensure_ascii=False).encode() + b"\n"
    content = asked.content.decode()
    if "answer" in asked.row:
        names = ("answer_given" if number == 1 else f"answer_given_{number}" for number in count(1))
        content = _renamed(content, "answer", next(name for name in names if name not in asked.row))
    return f"{content.removesuffix('}').rstrip()}, {told.removeprefix('{')}\n".encode()


def _renamed(content: str, old: str, new: str) -> str:
    """A JSON object's text with a field called otherwise, and all else to the letter."""
    kept, begin = list[str](), 0
    place = content.index("{") + 1
    while content[place := _behind_space(content, place)] != "}":
        name, end = NUMBERS_AS_TEXT.raw_decode(content, place)
        if name == old:
            kept += content[begin:place], json.dumps(new)
            begin = end
        _, place = NUMBERS_AS_TEXT.raw_decode(content, _behind_space(content, _behind_space(content, end) + 1))
        place = _behind_space(content, place)
        place += content[place] == ","
    return "".join(kept) + content[begin:]


def _behind_space(content: str, place: int) -> int:
    while content[place] in " \t\r\n":
        place += 1
    return place


def told(answer: Answer, task: Task, labels: Sequence[str]) -> dict[str, Any]:
    """An answer as JSON, with what its kind sets."""
    cut = {"cut": answer.cut} if answer.cut else {}
    if task.kind in ("classify", "choice"):
        names = labels if task.kind == "classify" else [str(number) for number in range(len(answer.scores))]
        scores = {name: round(score, 6) for name, score in zip(names, answer.scores, strict=True)}
        return {"label": answer.label, "score": round(max(answer.scores, default=0.0), 6), "scores": scores, **cut}
    if task.kind == "regress":
        return {"value": answer.value, **cut}
    if task.kind == "label":
        return {"tags": list(answer.tags), **cut}
    return {"text": answer.text, **cut}


def resume(partial: Path, note: Path, asked: dict[str, Any]) -> Counter[str]:
    """What an interrupted run of the same command has counted (answered, refused, cut); what it half wrote is cut off."""
    counts = Counter[str](answered=0, refused=0, cut=0)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if not note.is_file() or not partial.is_file() or not partial.stat().st_size:
        partial.unlink(missing_ok=True)
        write_whole(note, json.dumps(asked, ensure_ascii=False).encode())
        return counts
    before = json.loads(note.read_text("utf-8"))
    if before != asked:
        changed = ", ".join(f"{name} {before.get(name)!r}" for name, value in asked.items() if before.get(name) != value)
        raise ConfigError(f"{partial} is the beginning of another answer ({changed}); remove it, or choose another --out")
    whole = 0
    with partial.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            _tally(NUMBERS_AS_TEXT.decode(line.decode())["answer"], counts)
            whole += len(line)
    os.truncate(partial, whole)
    return counts


def _tally(answer: Mapping[str, Any], counts: Counter[str]) -> None:
    counts["refused" if "error" in answer else "answered"] += 1
    counts["cut"] += "cut" in answer
