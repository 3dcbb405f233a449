"""GGUF files: llama.cpp's container for weights, tokenizer and settings."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from danlu.base.errors import CheckpointError
from danlu.base.gguf_header import ALIGNMENT, ARRAY, SCALARS, STRING, VERSIONS, Cut, read_header
from danlu.base.gguf_kinds import Array, Kind, kind_named, kind_of, packed, unpacked
from danlu.base.memory import let_go
from danlu.base.storage import write_whole
from danlu.base.weights import Tensors

UINT8, UINT32, INT32, FLOAT32, BOOL = 0, 4, 5, 6, 7
AT_ONCE = 2**18  # values unpacked in one go


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies in the file."""

    shape: tuple[int, ...]
    kind: Kind
    start: int
    num_bytes: int


def read_gguf(file: Path) -> tuple[dict[str, Any], Tensors]:
    """Open a GGUF file: its settings (with the tensors' names under "tensors") and its tensors, float32 when read.

    Raises: CheckpointError if it is cut or damaged, or holds a type that the gguf package cannot dequantise.
    """
    header, stored = read_header(file), dict[str, Stored]()
    try:
        for name, shape, kind, offset in header.entries:
            stored[name] = placed(name, shape, kind, header.begin + offset, len(header.data))
    except (Cut, OverflowError) as error:
        raise CheckpointError(f"{file} is cut or damaged ({error}); fetch it again") from None
    matrices = {name: bytes_reader(header.data, place) for name, place in stored.items() if len(place.shape) == 2}
    return header.settings | {"tensors": set(stored)}, Tensors(
        {name: tensor_reader(file, header.data, name, place) for name, place in stored.items()},
        file,
        packed=Tensors(matrices, file),
        kinds={name: place.kind.name for name, place in stored.items()},
    )


def placed(name: str, shape: tuple[int, ...], kind: int, start: int, file_size: int) -> Stored:
    """Where a tensor lies; `kind` is GGML's number of a type.

    Raises: Cut if the type is unknown, if blocks are not full, or if it ends behind the file.
    """
    try:
        known = kind_of(kind)
    except ValueError:
        raise Cut(f"tensor {name!r} is of unknown type {kind}") from None
    if not shape or shape[-1] % known.block:
        raise Cut(f"tensor {name!r} of shape {shape} does not fill whole blocks of {known.block}")
    num_bytes = prod(shape) // known.block * known.num_bytes
    if start + num_bytes > file_size:
        raise Cut(f"tensor {name!r} ends at byte {start + num_bytes} of {file_size}")
    return Stored(shape, known, start, num_bytes)


def tensor_reader(file: Path, data: mmap.mmap, name: str, place: Stored) -> Callable[[], Tensor]:
    """What reads one tensor as float32 when it is called."""

    def read() -> Tensor:
        width, packed_width = place.shape[-1], place.shape[-1] // place.kind.block * place.kind.num_bytes
        lying = np.frombuffer(data, dtype=np.uint8, count=place.num_bytes, offset=place.start).reshape(-1, packed_width)
        values = np.empty((len(lying), width), dtype=np.float32)
        rows = max(1, AT_ONCE // max(width, 1))  # a part at a time: the steps between take several times its memory
        try:
            with np.errstate(all="ignore"):  # a damaged scale is infinite, which the weights show soon enough
                for start in range(0, len(lying), rows):
                    values[start : start + rows] = unpacked(lying[start : start + rows], place.kind)
        except (NotImplementedError, ValueError) as error:
            raise CheckpointError(f"{file}: tensor {name!r} of type {place.kind.name} cannot be read ({error})") from None
        let_go(data)  # a tensor is read once; and the system maps its neighbours' pages along
        return torch.from_numpy(values.reshape(place.shape))

    return read


def bytes_reader(data: mmap.mmap, place: Stored) -> Callable[[], Array]:
    """What reads one matrix as it is packed when it is called. Shape: (N, bytes of a row), uint8."""

    def read() -> Array:
        lying = np.frombuffer(data, dtype=np.uint8, count=place.num_bytes, offset=place.start)
        found = lying.reshape(place.shape[0], -1).copy()
        let_go(data)  # a tensor is read once; and the system maps its neighbours' pages along
        return found

    return read


def write_gguf(file: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, str]]) -> None:
    """Write a GGUF file of version 3, whole or not at all; each tensor is packed as the kind beside it, one in memory at a time.

    Settings are bool, int (from 0), float, str, bytes or lists of int, float or str. They become what llama.cpp expects: bool, uint32,
    float32, string, an array of uint8, and arrays of int32, float32 and string.
    Raises: CheckpointError if a tensor's numbers are too large for its kind.
    """
    settings = b"".join(_text_bytes(key) + _value_bytes(value) for key, value in metadata.items())
    entries, end = b"", 0
    for name, (tensor, wish) in tensors.items():
        kind, shape = kind_named(wish), tuple(tensor.shape)
        entries += _text_bytes(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", kind.number, end)
        end = _aligned(end + prod(shape) // kind.block * kind.num_bytes)
    header = b"GGUF" + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata)) + settings + entries

    def write(opened: BinaryIO) -> None:
        opened.write(header.ljust(_aligned(len(header)), b"\0"))
        for name, (tensor, wish) in tensors.items():
            try:
                with np.errstate(over="raise"):
                    blocks = packed(tensor.detach().float().cpu().numpy(), kind_named(wish))
            except FloatingPointError as error:
                raise CheckpointError(f"the tensor {name} does not fit {wish} ({error}); write F32 instead") from None
            opened.write(np.ascontiguousarray(blocks).data)
            opened.write(bytes(_aligned(blocks.nbytes) - blocks.nbytes))

    write_whole(file, write)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text_bytes(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value_bytes(value: Any) -> bytes:
    """A setting's type and value."""
    if isinstance(value, list | bytes):
        inner = UINT8 if isinstance(value, bytes) else {str: STRING, int: INT32, float: FLOAT32}[type(value[0]) if value else str]
        items = map(_text_bytes, value) if inner == STRING else [struct.pack(f"<{len(value)}{SCALARS[inner]}", *value)]
        return struct.pack("<IIQ", ARRAY, inner, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text_bytes(value)
    kind = {bool: BOOL, int: UINT32, float: FLOAT32}[type(value)]
    return struct.pack("<I" + SCALARS[kind], kind, value)
