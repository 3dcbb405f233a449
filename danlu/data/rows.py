"""What is read, before it is understood: pieces of files in input order, and rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DOCUMENT_BYTES = 1 << 20  # a longer document is cut at line ends into parts of about this size


class BadRow(Exception):
    """A row or document that is set aside, with the reason as its message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A stretch of one file: a document (or a part of one), or rows, one JSON object a line.

    `line` is the number of the first line (documents) or row; `numbers` are the rows' own where they are not consecutive.
    `key` names a document that was cut into parts, so that all parts fall into the same split; empty for whole ones.
    """

    source: int
    line: int
    kind: str  # "document", "html", "man", "rows" or "bad"
    content: bytes
    numbers: tuple[int, ...] | None = None
    key: bytes = b""
    transcoded: bool = False

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of each row of a piece of rows; blank lines are none."""
        lines = self.content.split(b"\n")
        numbers = self.numbers or range(self.line, self.line + len(lines))
        for number, line in zip(numbers, lines, strict=False):
            if line and not line.isspace():
                yield number, line


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one worker cleans at once; `fingerprint` names its content."""

    number: int
    pieces: list[Piece]
    fingerprint: str
    size: int


def line_end(held: bytes) -> int:
    """Where to cut near DOCUMENT_BYTES: after a line, else after a space, else between two characters."""
    if len(held) <= DOCUMENT_BYTES:
        return len(held)
    for mark in (b"\n", "。".encode(), b" "):
        end = held.rfind(mark, 1, DOCUMENT_BYTES)
        if end > 0:
            return end + len(mark)
    end = DOCUMENT_BYTES
    while end > 1 and held[end] & 0xC0 == 0x80:
        end -= 1
    return end
