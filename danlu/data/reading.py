"""Streams files as pieces in input order with bounded memory, and gathers pieces into chunks of work."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, cast

import pyarrow
import xxhash

from danlu.data.encoding import detect
from danlu.data.rows import DOCUMENT_BYTES, BadRow, Chunk, Piece, line_end
from danlu.data.sources import SourceFile
from danlu.data.tables import csv_rows, json_rows, parquet_rows

MEBIBYTE = 1 << 20
MARKUP_BYTES = 16 * MEBIBYTE  # a page is parsed whole, so its size is bounded
LINE_BYTES = 32 * MEBIBYTE  # a longer one is a bad row: a few are in memory at once, in several forms
CHUNK_BYTES = 2 * MEBIBYTE
READ_BYTES = MEBIBYTE
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, OSError, UnicodeDecodeError)


def read_chunks(files: list[SourceFile]) -> Iterator[Chunk]:
    """Cut the files, in order, into chunks of about CHUNK_BYTES; the same files give the same chunks."""
    pieces: list[Piece] = []
    size = number = 0
    for source, file in enumerate(files):
        for piece in read_pieces(file, source):
            pieces.append(piece)
            size += len(piece.content) + 64
            if size >= CHUNK_BYTES:
                yield _chunk(number, pieces, size)
                pieces, size, number = [], 0, number + 1
    if pieces:
        yield _chunk(number, pieces, size)


def _chunk(number: int, pieces: list[Piece], size: int) -> Chunk:
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(f"{piece.source} {piece.line} {piece.kind} {piece.numbers} {piece.transcoded} {len(piece.content)} ".encode())
        digest.update(piece.key)
        digest.update(piece.content)
    return Chunk(number=number, pieces=pieces, fingerprint=digest.hexdigest(), size=size)


def read_pieces(file: SourceFile, source: int) -> Iterator[Piece]:
    """The pieces of one file; what cannot be read of it comes as a piece of kind "bad" with the reason."""
    line = 1
    try:
        if file.format == "parquet":
            pieces = parquet_rows(file.path, source)
            for piece in pieces:
                line = piece.line
                yield piece
            return
        with file.path.open("rb") as raw, _unpacked(raw, file.compression) as stream:
            for piece in READERS[file.format](stream, source):
                line = piece.line
                yield piece
    except BadRow as error:
        yield bad(source, line, str(error))
    except DAMAGED as error:
        what = {"gzip": "gzip", "zstd": "Zstandard"}.get(file.compression, file.format)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield bad(source, line, f"the {what} file is damaged or cut short after line {line} ({reason})")


def bad(source: int, line: int, reason: str) -> Piece:
    """A piece that only says why something is set aside."""
    return Piece(source=source, line=line, kind="bad", content=reason.encode())


def _unpacked(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if compression == "zstd":
        # Arrow's reader tells a file that was cut short, which zstandard's own takes for its end.
        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd"))
    return raw


def _documents(stream: BinaryIO, source: int) -> Iterator[Piece]:
    head = _read(stream, DOCUMENT_BYTES + 1)
    if len(head) <= DOCUMENT_BYTES:
        yield Piece(source=source, line=1, kind="document", content=head)
        return
    key = xxhash.xxh3_128_digest(head)
    line, held = 1, b""
    blocks, transcoded = utf8_blocks(stream, head)
    for block in blocks:
        held += block
        while len(held) > DOCUMENT_BYTES:
            end = line_end(held)
            part, held = held[:end], held[end:]
            yield Piece(source=source, line=line, kind="document", content=part, key=key, transcoded=transcoded)
            line += part.count(b"\n")
    if held:
        yield Piece(source=source, line=line, kind="document", content=held, key=key, transcoded=transcoded)


def _page(stream: BinaryIO, source: int, kind: str) -> Iterator[Piece]:
    content = _read(stream, MARKUP_BYTES + 1)
    if len(content) > MARKUP_BYTES:
        raise BadRow(f"a page of more than {MARKUP_BYTES >> 20} MiB; expected smaller ones, or plain text")
    yield Piece(source=source, line=1, kind=kind, content=content)


def _lines(stream: BinaryIO, source: int) -> Iterator[Piece]:
    """Whole lines in blocks; a line beyond LINE_BYTES is skipped and reported."""
    blocks, transcoded = utf8_blocks(stream, _read(stream, READ_BYTES))
    line, held, skipping = 1, bytearray(), False
    for block in blocks:
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block, skipping, line = block[end + 1 :], False, line + 1
        held += block
        end = held.rfind(b"\n") + 1
        if end:
            content = bytes(held[:end])
            del held[:end]
            yield Piece(source=source, line=line, kind="rows", content=content, transcoded=transcoded)
            line += content.count(b"\n")
        elif len(held) > LINE_BYTES:
            yield bad(source, line, f"a line of more than {LINE_BYTES >> 20} MiB; expected one row a line")
            held, skipping = bytearray(), True
    if held:
        yield Piece(source=source, line=line, kind="rows", content=bytes(held), transcoded=transcoded)


def utf8_blocks(stream: BinaryIO, head: bytes) -> tuple[Iterator[bytes], bool]:
    """The rest of a stream as UTF-8, given its head, and whether it had to be transcoded.

    Raises: BadRow if the head looks binary.
    """
    encoding, mark = detect(head) if head else ("utf-8", 0)
    if encoding in ("utf-8", "ascii"):
        return _blocks(stream, head[mark:]), False
    return _transcoded(stream, head[mark:], encoding), True


def _blocks(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    block = head
    while block:
        yield block
        block = stream.read(READ_BYTES)


def _transcoded(stream: BinaryIO, head: bytes, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for block in _blocks(stream, head):
        yield decoder.decode(block).encode("utf-8", errors="replace")
    yield decoder.decode(b"", final=True).encode("utf-8", errors="replace")


def _read(stream: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes: decompressing streams may give fewer at a time."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


READERS: dict[str, Callable[[BinaryIO, int], Iterator[Piece]]] = {
    "text": _documents,
    "html": partial(_page, kind="html"),
    "man": partial(_page, kind="man"),
    "jsonl": _lines,
    "json": json_rows,
    "csv": csv_rows,
    "tsv": partial(csv_rows, delimiter="\t"),
}
