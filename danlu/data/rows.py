"""What is read, before it is understood: pieces of files in input order, and rows that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


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
    kind: str  # "document", "html", "rows" or "bad"
    content: bytes
    numbers: tuple[int, ...] | None = None
    key: bytes = b""
    transcoded: bool = False
