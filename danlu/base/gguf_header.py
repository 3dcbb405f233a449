"""The header of a GGUF file: its settings and where its tensors lie. Every length is checked against the file before it is used."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.base.errors import CheckpointError
from danlu.base.memory import let_go

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # GGUF's number of a type -> struct's
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where "general.alignment" does not say otherwise
MOST_ITEMS = 2**24  # entries of one array or table: the largest vocabularies have 2^18
LONGEST_NAME = 256  # characters; llama.cpp allows 64

Entry = tuple[str, tuple[int, ...], int, int]  # a tensor's name, shape, GGML's number of its type, and where it begins


class Cut(Exception):
    """The file ends, or a number in it is absurd."""


class Texts:
    """An array of texts that stays in the file and is read as it is gone through: a vocabulary is wanted once, and fills memory with
    small pieces that Python does not give back while anything lies between them."""

    def __init__(self, data: mmap.mmap, begin: int, count: int) -> None:
        self.data, self.begin, self.count = data, begin, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        data, at = self.data, self.begin
        for _ in range(self.count):
            [length] = LENGTH.unpack_from(data, at)
            at += LENGTH.size + length
            yield data[at - length : at].decode("utf-8", errors="replace")
        let_go(data)


class Cursor:
    """Reads a mapped file from front to back; whatever would go behind its end raises Cut."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        """Step over `count` bytes; where they begin."""
        if count > len(self.data) - self.at:
            raise Cut(f"{count} bytes are wanted at byte {self.at} of {len(self.data)}")
        self.at += count
        return self.at - count

    def number(self, code: str) -> Any:
        """The next number, of a type in struct's letters."""
        form = "<" + code
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        return self.data[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next value of one of GGUF's types: a scalar, a text, a list, or Texts."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth > 2:
            raise Cut(f"a value of type {kind} stands before byte {self.at}")
        inner, count = self.number("I"), self.number("Q")
        if count > MOST_ITEMS:
            raise Cut(f"an array of {count} entries stands before byte {self.at}")
        if inner in SCALARS:
            form = f"<{count}{SCALARS[inner]}"
            return list(struct.unpack_from(form, self.data, self.take(struct.calcsize(form))))
        return self._texts(count) if inner == STRING else [self.value(inner, depth + 1) for _ in range(count)]

    def _texts(self, count: int) -> Texts:
        found = Texts(self.data, self.at, count)
        data, at, end = self.data, self.at, len(self.data) - LENGTH.size
        for _ in range(count):
            if at > end:
                raise Cut(f"a text is wanted at byte {at} of {len(data)}")
            at += LENGTH.size + LENGTH.unpack_from(data, at)[0]
        self.at = at
        self.take(0)  # the last one ends within the file
        return found


@dataclass(frozen=True, kw_only=True)
class Header:
    """A mapped file, its settings, its tensors' entries, and the byte that these count from."""

    data: mmap.mmap
    settings: dict[str, Any]
    entries: list[Entry]
    begin: int


def read_header(file: Path) -> Header:
    """Map a GGUF file and read what it says of itself.

    Raises: CheckpointError if it is no GGUF file, cut or damaged.
    Source: the format's description in ggml's docs/gguf.md, versions 2 and 3, little-endian.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF" or file.stat().st_size < 24:
            raise CheckpointError(f"{file} does not begin as a GGUF file does; it is something else, empty or damaged: fetch it again")
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _read(Cursor(data))
    except (Cut, struct.error, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{file} is cut or damaged ({error}); fetch it again") from None


def _read(cursor: Cursor) -> Header:
    cursor.take(4)
    version = cursor.number("I")
    if version not in VERSIONS:
        raise Cut(f"version {version} came, expected 2 or 3")
    num_tensors, num_settings = cursor.number("Q"), cursor.number("Q")
    if max(num_tensors, num_settings) > MOST_ITEMS:
        raise Cut(f"{num_tensors} tensors and {num_settings} settings are announced")
    settings = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(num_settings)}
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = settings.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise Cut(f"an alignment of {alignment} came")
    return Header(data=cursor.data, settings=settings, entries=entries, begin=-(-cursor.at // alignment) * alignment)


def _entry(cursor: Cursor) -> Entry:
    name, dimensions = cursor.text(), cursor.number("I")
    if len(name) > LONGEST_NAME:
        raise Cut(f"a tensor's name of {len(name)} characters stands before byte {cursor.at}")
    if dimensions > 4:
        raise Cut(f"tensor {name!r} is announced with {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]  # the file counts from the fastest
    return name, shape, cursor.number("I"), cursor.number("Q")
