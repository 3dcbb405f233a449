"""Rows of CSV, JSON and Parquet files, streamed as pieces of JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow
import pyarrow.parquet

from danlu.data.encoding import detect
from danlu.data.fields import SHAPES
from danlu.data.rows import BadRow, Piece

PIECE_BYTES = 1 << 20
PARQUET_ROWS = 256
CELL_BYTES = 32 << 20
WHOLE_JSON_BYTES = 64 << 20  # one object that holds all rows is parsed at once, so its size is bounded
SAMPLE_BYTES = 1 << 20
SPACE = re.compile(r"[\s,]*")


def csv_rows(stream: BinaryIO, source: int, delimiter: str = ",") -> Iterator[Piece]:
    """Rows of a CSV file with a header; quoted cells may hold line ends. Rows of another width are bad rows."""
    with _opened(stream) as (text, transcoded):
        csv.field_size_limit(CELL_BYTES)
        reader = csv.reader(text, delimiter=delimiter)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise BadRow(f"the header names a column twice: {', '.join(header)[:200]}")
        yield from _pieces(_cells(reader, header), source, transcoded)


def _cells(reader: Any, header: list[str]) -> Iterator[tuple[int, object]]:
    line = reader.line_num + 1
    try:
        for cells in reader:
            if len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                yield line, BadRow(f"{len(cells)} cells in a row; expected {len(header)} as in the header")
            line = reader.line_num + 1
    except csv.Error as error:
        yield line, BadRow(f"not readable as CSV from here on ({error})")


def json_rows(stream: BinaryIO, source: int) -> Iterator[Piece]:
    """Rows of a .json file: a list of objects, an object of objects, one row, or JSON lines under that name.

    A list is streamed; `line` counts rows. An object that holds all rows is read whole.
    """
    with _opened(stream) as (text, transcoded):
        start = text.read(SAMPLE_BYTES)
        if SPACE.sub("", start[:1000])[:1] == "[":
            rows = _listed(text, start)
        elif _is_lines(start):
            rows = _json_lines(text, start)
        else:
            rows = _held(start + text.read(WHOLE_JSON_BYTES))
        yield from _pieces(rows, source, transcoded)


def parquet_rows(path: Path, source: int) -> Iterator[Piece]:
    """Rows of a Parquet file, read a few at a time; `line` counts rows."""
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:

            def rows() -> Iterator[tuple[int, object]]:
                line = 1
                for batch in file.iter_batches(batch_size=PARQUET_ROWS, use_threads=False):
                    for row in batch.to_pylist():
                        yield line, row
                        line += 1

            yield from _pieces(rows(), source, transcoded=False)
    except pyarrow.ArrowException as error:
        raise BadRow(f"not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _pieces(rows: Iterable[tuple[int, object]], source: int, transcoded: bool) -> Iterator[Piece]:
    """Rows as JSON lines, gathered until they make a piece; bad rows come as pieces of their own, in order."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0

    def gathered() -> Iterator[Piece]:
        if lines:
            content = b"\n".join(lines)
            yield Piece(source=source, line=numbers[0], kind="rows", content=content, numbers=tuple(numbers), transcoded=transcoded)
        lines.clear()
        numbers.clear()

    for number, row in rows:
        if isinstance(row, BadRow):
            yield from gathered()
            yield Piece(source=source, line=number, kind="bad", content=str(row).encode("utf-8", errors="replace"))
            size = 0
            continue
        lines.append(_line(row))
        numbers.append(number)
        size += len(lines[-1])
        if size >= PIECE_BYTES:
            yield from gathered()
            size = 0
    yield from gathered()


def _line(row: object) -> bytes:
    try:
        return orjson.dumps(row, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, which JSON lets through and UTF-8 does not
        return json.dumps(row, default=_plain).encode()


def _plain(value: Any) -> object:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[tuple[io.TextIOWrapper, bool]]:
    """The stream as text, and whether that is not UTF-8; the stream itself stays open."""
    buffered = io.BufferedReader(stream, SAMPLE_BYTES)  # type: ignore[arg-type,type-var]
    head = buffered.peek(SAMPLE_BYTES)
    encoding, mark = detect(head) if head else ("utf-8", 0)
    buffered.read(mark)
    utf8 = encoding in ("utf-8", "ascii")
    text = io.TextIOWrapper(buffered, "utf-8" if utf8 else encoding, errors="replace", newline="")
    try:
        yield text, not utf8
    finally:
        text.detach()
        buffered.detach()


def _is_lines(start: str) -> bool:
    line = start.lstrip().split("\n", 1)[0]
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _json_lines(text: io.TextIOWrapper, start: str) -> Iterator[tuple[int, object]]:
    number, held = 0, start
    while held:
        lines = held.split("\n")
        block = text.read(SAMPLE_BYTES)
        held = lines.pop() + block if block else ""
        for line in lines:
            number += 1
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        return BadRow(f"not JSON ({error})")


def _listed(text: io.TextIOWrapper, held: str) -> Iterator[tuple[int, object]]:
    """Elements of one long list, each parsed as soon as it has come whole."""
    decoder = json.JSONDecoder()
    held = held.lstrip()[1:]
    number, wanted = 1, 1
    while True:
        spaces = SPACE.match(held)
        held = held[spaces.end() :] if spaces else held
        if held.startswith("]"):
            return
        position = 0
        rows = []
        try:
            while position < len(held) and held[position] != "]":
                row, end = decoder.raw_decode(held, position)
                if end == len(held):
                    break  # a number or word that may go on
                rows.append(row)
                gap = SPACE.match(held, end)
                position = gap.end() if gap else end
        except ValueError:
            pass
        for row in rows:
            yield number, row
            number += 1
        held = held[position:]
        if held.startswith("]"):
            return
        wanted = 1 if rows else wanted * 2  # nothing whole in what is held: read twice as much before trying again
        block = text.read(SAMPLE_BYTES * wanted)
        if not block or len(held) > CELL_BYTES:
            yield number, BadRow("the JSON list is broken or cut short here")
            return
        held += block


def _held(text: str) -> Iterator[tuple[int, object]]:
    if len(text) > WHOLE_JSON_BYTES:
        raise BadRow(f"one JSON object of more than {WHOLE_JSON_BYTES >> 20} MiB; expected a list of rows or JSON lines")
    if not text.strip():
        return
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise BadRow(f"not JSON ({error})") from error
    if not isinstance(whole, dict):
        raise BadRow("one JSON value; expected a list of objects, an object of objects, or JSON lines")
    is_row = any(all(name in whole for name in names) for names, _ in SHAPES)
    if is_row or not all(isinstance(value, dict) for value in whole.values()):
        nested = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        rows: Iterable[object] = [whole] if is_row or len(nested) != 1 else nested[0]
    else:
        rows = whole.values()
    yield from enumerate(rows, 1)
