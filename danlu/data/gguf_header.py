"""The metadata of a GGUF file, read in a tenth of a second: the gguf package takes several for a vocabulary, and we need no tensors."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from danlu.base.errors import CheckpointError

# The format's numbers for types of values; its text is at github.com/ggml-org/ggml, docs/gguf.md.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
VERSIONS = (2, 3)


def read_metadata(path: Path) -> dict[str, Any]:
    """All fields of a GGUF file's header by name.

    Raises: CheckpointError if the file is no GGUF file, cut, or says lengths that it does not have.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            magic, version, _, count = struct.unpack_from("<4sIQQ", content, 0)
            if magic != b"GGUF" or version not in VERSIONS:
                raise CheckpointError(f"{path} is no GGUF file of version 2 or 3; expected one, or a tokenizer.json")
            header = _Header(content, 24)
            return dict(header.field() for _ in range(count))
    except (struct.error, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is cut or damaged: its header cannot be read ({error}); fetch it again") from None


class _Header:
    """A place in the header that moves on as values are read; struct refuses what lies beyond the end."""

    def __init__(self, content: mmap.mmap, position: int) -> None:
        self.content, self.position = content, position

    def field(self) -> tuple[str, Any]:
        name = self.string()
        return name, self.value(self.number("I"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if count > len(self.content) - self.position:
                raise ValueError(f"an array of {count} values")
            if inner in NUMBERS:
                values = struct.unpack_from(f"<{count}{NUMBERS[inner]}", self.content, self.position)
                self.position += struct.calcsize(f"<{count}{NUMBERS[inner]}")
                return list(values)
            if inner != STRING:
                raise ValueError(f"an array of values of kind {inner}")
            return self.strings(count)
        return self.number(NUMBERS[kind])

    def number(self, form: str) -> Any:
        [value] = struct.unpack_from(f"<{form}", self.content, self.position)
        self.position += struct.calcsize(f"<{form}")
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        content, position, size, texts = self.content, self.position, len(self.content), []
        for _ in range(count):
            [length] = LENGTH.unpack_from(content, position)
            position += 8
            if position + length > size:
                raise ValueError(f"a string of {length} bytes")
            texts.append(content[position : position + length].decode("utf-8"))
            position += length
        self.position = position
        return texts
