"""How GGUF files pack numbers: the few kinds that most files have are known here, the gguf package knows them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """`block` values lie in `num_bytes` bytes; `number` is GGML's of the type."""

    name: str
    number: int
    block: int
    num_bytes: int


# The gguf package is imported late: it brings half a dozen of libraries and 4 MB, and most models are served without it.
F32, F16, BF16 = Kind("F32", 0, 1, 4), Kind("F16", 1, 1, 2), Kind("BF16", 30, 1, 2)
Q4_0, Q4_1, Q8_0 = Kind("Q4_0", 2, 32, 18), Kind("Q4_1", 3, 32, 20), Kind("Q8_0", 8, 32, 34)
KNOWN = {kind.number: kind for kind in (F32, F16, BF16, Q4_0, Q4_1, Q8_0)}
PLAIN: dict[int, str] = {F32.number: "<f4", F16.number: "<f2"}  # numbers that numpy reads


def kind_of(number: int) -> Kind:
    """A kind by GGML's number. Raises: ValueError if there is none."""
    if number in KNOWN:
        return KNOWN[number]
    import gguf

    found = gguf.GGMLQuantizationType(number)
    return Kind(found.name, number, *gguf.GGML_QUANT_SIZES[found])


def kind_named(name: str) -> Kind:
    """A kind by its name. Raises: KeyError if there is none."""
    import gguf

    return kind_of(gguf.GGMLQuantizationType[name].value)


def unpacked(packed: Array, kind: Kind) -> Array:
    """Values of rows of whole blocks. Shapes: (N, bytes of a row), uint8 -> (N, K), float32.

    Raises: NotImplementedError or ValueError for a kind that the gguf package cannot unpack.
    """
    if kind.number in PLAIN:
        return packed.view(np.dtype(PLAIN[kind.number])).astype(np.float32)
    import gguf

    return gguf.dequantize(packed, gguf.GGMLQuantizationType(kind.number))


def packed(values: Array, kind: Kind) -> Array:
    """The blocks of rows of values, in the nearest numbers. Shapes: (..., K), float32 -> (..., bytes of a row)."""
    import gguf

    return gguf.quantize(values, gguf.GGMLQuantizationType(kind.number))
