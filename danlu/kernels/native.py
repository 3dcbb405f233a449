"""The kernels of native/, called: one call is one step. Where no compiler built them, twin.py computes the same."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.base.builds import built, outdated
from danlu.kernels.packing import PRECISIONS, Packed
from danlu.kernels.steps import CACHES, Found, Steps, StepWork
from danlu.kernels.table import Layer, Norm, Table

LAYOUT = 3  # of panels, pages and structs, as native/model.h counts
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")  # in the order of native/model.h


class CMatrix(Structure):
    _fields_ = [
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("panel_bytes", c_int64),
        *((name, c_int32) for name in ("kind", "rows", "columns", "minimums", "pairs", "pad")),
    ]


class CNorm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_float), ("pad", c_int32)]


class CLayer(Structure):
    _fields_ = [
        *((name, CNorm) for name in ("attention_norm", "query_norm", "key_norm", "feedforward_norm")),
        *((name, CMatrix) for name in ("query_key_value", "output", "up", "down")),
    ]


class CModel(Structure):
    _fields_ = [
        ("layers", POINTER(CLayer)),
        ("norm", CNorm),
        ("embedding", CMatrix),
        ("head", CMatrix),
        *((name, c_void_p) for name in ("cosines", "sines", "positions")),
        *(
            (name, c_int32)
            for name in ("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "hidden_width", "activation", "vocabulary_size")
        ),
        ("score_scale", c_float),
        ("cache_kind", c_int32),
    ]


class CStep(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("tokens", "positions", "part_rows", "part_first_page", "pages", "wanted")),
        *((name, c_void_p) for name in ("logits", "likeliest", "finite", "cache")),
        ("num_pages", c_int64),
        *((name, c_int32) for name in ("rows", "parts", "num_wanted", "read")),
    ]


class CDrawing(Structure):
    _fields_ = [
        *((name, c_float) for name in ("temperature", "top_p", "min_p")),
        ("top_k", c_int32),
        ("key", c_uint64),
    ]


@cache
def found() -> tuple[str, Any] | None:
    """The fastest build that is there and that this processor can run: its name and the library; None if there is none."""
    for name, library in _built():
        return name, library
    return None


def tiles() -> bool:
    """Whether the build that answers computes prompts by tiles."""
    build = found()
    return build is not None and bool(build[1].danlu_tiles())


def _built() -> Iterator[tuple[str, Any]]:
    return ((name, _open(file)) for name, file in built("step", __file__))


def _open(file: Path) -> Any:
    library = ctypes.CDLL(str(file))
    library.danlu_open.restype, library.danlu_open.argtypes = c_void_p, [c_int32]
    library.danlu_close.restype, library.danlu_close.argtypes = None, [c_void_p]
    library.danlu_step.argtypes = [c_void_p, POINTER(CModel), POINTER(CStep)]
    library.danlu_multiply.argtypes = [POINTER(CMatrix), c_void_p, c_int32, c_int32, c_void_p]
    sizes = (c_int32 * 5)()
    library.danlu_sizes(sizes)
    mine = [*(ctypes.sizeof(kind) for kind in (CMatrix, CLayer, CModel, CStep)), LAYOUT]
    if list(sizes) != mine:
        raise outdated(file)
    library.danlu_draw.argtypes = [c_void_p, c_int32, POINTER(CDrawing)]
    return library


class NativeSteps(Steps):
    """Steps by the kernels; the weights are the table's, in place."""

    def __init__(self, table: Table, cache: Tensor, threads: int, library: Any) -> None:
        self.table, self.cache, self.library = table, cache, library
        config = table.config
        self.layers = (CLayer * config.num_layers)(*(_layer(layer) for layer in table.layers))
        self.model = CModel(
            layers=self.layers,
            norm=_norm(table.norm),
            embedding=_matrix(table.embedding),
            head=_matrix(table.head),
            cosines=None if table.turning is None else table.turning.cosines.data_ptr(),
            sines=None if table.turning is None else table.turning.sines.data_ptr(),
            positions=_address(table.positions),
            num_layers=config.num_layers,
            width=config.width,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            hidden_width=config.feedforward.hidden_width,
            activation=ACTIVATIONS.index(config.feedforward.activation),
            vocabulary_size=config.vocabulary_size,
            score_scale=table.score_scale,
            cache_kind=PRECISIONS.index(CACHES[table.precision]),
        )
        self.threads, self.tiles = threads, table.precision != "float32" and bool(library.danlu_tiles())
        self._open()

    def _open(self) -> None:
        self.engine, self.process = self.library.danlu_open(self.threads), os.getpid()
        if not self.engine:
            raise MemoryError("no room for the threads that compute")

    def step(self, work: StepWork) -> Found:
        if self.process != os.getpid():  # a fork has no threads but the one that forked: what it has of the others is let go
            self._open()
        if self.table.turning is not None:
            self.table.turning.reach(max(work.positions) + 1)
        wanted = len(work.wanted)
        logits = torch.empty(wanted, self.table.config.vocabulary_size)
        likeliest, finite = np.zeros(wanted, np.int32), np.zeros(wanted, np.int32)
        given = [
            np.asarray(x, np.int32) for x in (work.tokens, work.positions, work.part_rows, work.part_first_page, work.pages, work.wanted)
        ]
        names = ("tokens", "positions", "part_rows", "part_first_page", "pages", "wanted")
        arrays = {name: array.ctypes.data for name, array in zip(names, given, strict=True)}
        step = CStep(
            **arrays,
            logits=logits.data_ptr(),
            likeliest=likeliest.ctypes.data,
            finite=finite.ctypes.data,
            cache=self.cache.data_ptr(),
            num_pages=self.cache.shape[2],
            rows=len(work.tokens),
            parts=len(work.part_rows),
            num_wanted=wanted,
            read=work.read,
        )
        if self.library.danlu_step(self.engine, ctypes.byref(self.model), ctypes.byref(step)):
            raise MemoryError(f"no memory for a step of {len(work.tokens)} positions")
        return Found(logits=logits, likeliest=likeliest.tolist(), finite=finite.tolist())

    def close(self) -> None:
        """End the threads."""
        if self.engine and self.process == os.getpid():
            self.library.danlu_close(self.engine)
            self.engine = None

    def __del__(self) -> None:
        if os is not None:  # else Python is ending, and takes the threads with it
            self.close()


def multiply(packed: Packed, x: Tensor, library: Any = None, read: bool = False) -> Tensor:
    """x W^T + bias by the kernel alone, on one thread; `read`: as rows of prompts, by tiles. Shapes: x (rows, K) -> (rows, N)."""
    chosen = library if library is not None else found()[1]  # type: ignore[index]
    x = x.float().contiguous()
    y, matrix = torch.empty(len(x), len(packed.panels) * 16), _matrix(packed)
    if chosen.danlu_multiply(ctypes.byref(matrix), x.data_ptr(), len(x), read, y.data_ptr()):
        raise MemoryError("no memory for a product")
    return y[:, : packed.rows]


def draw(logits: Tensor, key: int, temperature: float, top_k: int, top_p: float, min_p: float, library: Any = None) -> int:
    """One token, as inference/sampling.py says it: all but a few are passed over without a look. Shapes: logits (V,)."""
    chosen = library if library is not None else found()[1]  # type: ignore[index]
    logits = logits.float().contiguous()
    how = CDrawing(temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, key=key)
    token: int = chosen.danlu_draw(logits.data_ptr(), len(logits), ctypes.byref(how))
    if token < 0:
        raise MemoryError("no memory for drawing a token")
    return token


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _norm(norm: Norm | None) -> CNorm:
    return CNorm() if norm is None else CNorm(weight=_address(norm.weight), bias=_address(norm.bias), epsilon=norm.epsilon)


def _matrix(packed: Packed) -> CMatrix:
    return CMatrix(
        panels=_address(packed.panels),
        bias=_address(packed.bias),
        panel_bytes=packed.panels.shape[1],
        kind=PRECISIONS.index(packed.precision),
        rows=packed.rows,
        columns=packed.columns,
        minimums=packed.minimums,
        pairs=packed.pairs,
    )


def _layer(layer: Layer) -> CLayer:
    norms = {name: _norm(getattr(layer, name)) for name in ("attention_norm", "query_norm", "key_norm", "feedforward_norm")}
    return CLayer(**norms, **{name: _matrix(getattr(layer, name)) for name in ("query_key_value", "output", "up", "down")})
