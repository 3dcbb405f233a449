"""What layers do to each number, by native/layers.cpp: one pass over memory, with its gradient, where torch takes several.

Where no compiler built it, on accelerators and in other number formats torch's own operations do the same.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from danlu.base.builds import built, outdated

ACTIVATIONS = {"silu": 0, "gelu_tanh": 2}  # as native/model.h counts; GELU by erf is as quick in torch
LAYOUT = 8  # of what its functions take, as native/layers.cpp counts
SHARED = 2**15  # numbers from which several threads are quicker than one
LANES = 16  # channels come in so many
FEW_POSITIONS = 512  # up to which a head is quickly done
BLOCK = 32  # rows and columns of a gradient by tiles do


class Strided(Structure):
    """An array (B, H, T, E) whose channels lie side by side, as native/whole_attention.h has it."""

    _fields_ = [("first", c_void_p), *((name, c_int64) for name in ("batch", "head", "position"))]

    @classmethod
    def of(cls, tensor: Tensor) -> Strided:
        return cls(tensor.data_ptr(), *tensor.stride()[:3])


class Whole(Structure):
    """One attention, as native/whole_attention.h has it."""

    _fields_ = [
        *((name, Strided) for name in ("query", "key", "value", "mixed", "mixed_back", "query_back", "key_back", "value_back")),
        ("rests", c_void_p),
        *((name, c_int32) for name in ("batches", "heads", "kv_heads", "length", "channels", "causal", "halves")),
        ("scale", c_float),
    ]  # fmt: skip


class NormRows(Structure):
    """One normalisation, as native/norms.h has it."""

    _fields_ = [
        *((name, c_void_p) for name in ("x", "added", "y_back", "total_back", "total", "y", "x_back", "added_back")),
        *((name, c_void_p) for name in ("weight", "bias", "found", "sums")),
        *((name, c_int64) for name in ("rows", "width")),
        *((name, c_int32) for name in ("half_x", "half_added", "half_y", "centred")),
        ("epsilon", c_float),
    ]  # fmt: skip


class WeightGradient(Structure):
    """The gradient of one product's weights, as native/weight_gradient.h has it."""

    _fields_ = [
        *((name, c_void_p) for name in ("back", "x", "weight", "bias")),
        *((name, c_int64) for name in ("rows", "outs", "ins", "back_stride", "x_stride")),
    ]  # fmt: skip


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels take these: on a processor, all in one of their two formats."""
    kind = tensors[0].dtype
    fits = kind in (torch.float32, torch.bfloat16) and all(one.dtype == kind and one.device.type == "cpu" for one in tensors)
    return fits and _library() is not None


def bent(activation: str, x: Tensor, other: Tensor | None = None) -> Tensor:
    """activation(x), times `other` if there is one. Shapes: equal."""
    return _Bent.apply(activation, x, other)  # type: ignore[no-any-return]


def nats(logits: Tensor, targets: Tensor, smoothing: float, gradient: Tensor | None) -> Tensor:
    """-ln p(target) of each row, 0 where the target is below 0; `gradient`, if given, takes that of their sum.

    Shapes: logits and gradient (N, V), both contiguous, targets (N) -> (N) float32.
    Raises: IndexError for a target that is no word.
    """
    rows, words = logits.shape
    if rows and not int(targets.max()) < words:
        raise IndexError(f"a target came as {int(targets.max())}; expected less than the {words} words")
    assert len(targets) == rows and logits.is_contiguous() and (gradient is None or gradient.is_contiguous())
    targets = targets.long().contiguous()
    found = torch.empty(rows, dtype=torch.float32)
    sizes = (_half(logits), rows, words, logits.data_ptr(), targets.data_ptr(), smoothing, found.data_ptr())
    if _library().danlu_nats(*sizes, None if gradient is None else gradient.data_ptr(), _threads(logits)):
        raise MemoryError("no memory for a row of logits")
    return found


def attends(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> bool:
    """Whether the kernel takes these, (B, H, T, E) and two of (B, K, T, E): where it is quicker than torch, in bfloat16 or float32."""
    fits = all(one.dtype == query.dtype and one.device.type == "cpu" for one in (query, key, value)) and query.numel() > 0
    batch, kv_heads, *rest = key.shape
    belong = key.shape == value.shape and [batch, *rest] == [len(query), *query.shape[2:]] and query.shape[1] % kv_heads == 0
    if not (fits and belong and query.shape[3] % LANES == 0 and _library() is not None):
        return False
    # A thread takes whole heads: long ones that are fewer than the threads are left to torch, which shares one head among several.
    shared = query.shape[2] <= FEW_POSITIONS or batch * kv_heads >= torch.get_num_threads()
    return shared and query.shape[2] <= _library().longest.get((query.dtype, causal), 0)


def attended(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
    """softmax(q k^T * scale) v. Shapes: query (B, H, T, E), key and value (B, K, T, E) -> (B, H, T, E), in memory (B, T, H, E)."""
    return _Attended.apply(query, key, value, causal, scale)  # type: ignore[no-any-return]


class _Attended(Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
        query, key, value = (one if one.stride(3) == 1 else one.contiguous() for one in (query, key, value))
        mixed, rests = _heads_within(query), torch.empty(query.shape[:3], dtype=torch.float32)
        whole = _whole(query, key, value, mixed, rests, causal, scale)
        if _library().danlu_attend(ctypes.byref(whole), torch.get_num_threads()):
            raise MemoryError("no memory for a head's scores")
        context.save_for_backward(query, key, value, mixed, rests)
        context.causal, context.scale = causal, scale
        return mixed

    @staticmethod
    @once_differentiable
    def backward(context: Any, back: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, mixed, rests = context.saved_tensors
        back = back if back.stride(3) == 1 else back.contiguous()
        whole = _whole(query, key, value, mixed, rests, context.causal, context.scale)
        given = [_heads_within(one) for one in (query, key, value)]
        whole.mixed_back = Strided.of(back)
        whole.query_back, whole.key_back, whole.value_back = map(Strided.of, given)
        if _library().danlu_attend_back(ctypes.byref(whole), torch.get_num_threads()):
            raise MemoryError("no memory for a head's scores")
        return given[0], given[1], given[2], None, None


def _heads_within(like: Tensor) -> Tensor:
    """Room for an array of this shape (B, H, T, E) that lies in memory as (B, T, H, E), as the products before and after it want it."""
    batch, heads, length, channels = like.shape
    return torch.empty(batch, length, heads, channels, dtype=like.dtype).transpose(1, 2)


def _whole(query: Tensor, key: Tensor, value: Tensor, mixed: Tensor, rests: Tensor, causal: bool, scale: float) -> Whole:
    batches, heads, length, channels = query.shape
    return Whole(
        query=Strided.of(query), key=Strided.of(key), value=Strided.of(value), mixed=Strided.of(mixed), rests=rests.data_ptr(),
        batches=batches, heads=heads, kv_heads=key.shape[1], length=length, channels=channels, causal=causal, halves=_half(query),
        scale=scale,
    )  # fmt: skip


def norms(x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, numbers: torch.dtype) -> bool:
    """Whether the kernel normalises these: on a processor, float32 weights, x, what is added and what comes out in formats that it has."""
    kinds, weights = (x.dtype, numbers if added is None else added.dtype, numbers), (weight, weight if bias is None else bias)
    fits = kinds in NORM_KINDS and (added is None or added.shape == x.shape)
    here = all(one.device.type == "cpu" for one in (x, x if added is None else added, *weights))
    fits = fits and here and all(one.dtype == torch.float32 and one.is_contiguous() for one in weights)
    return fits and x.shape[-1:] == weight.shape and x.shape[-1] % LANES == 0 and x.numel() > 0 and _library() is not None


_WHOLE, _HALF = torch.float32, torch.bfloat16
NORM_KINDS = ((_WHOLE, _WHOLE, _WHOLE), (_WHOLE, _HALF, _WHOLE), (_WHOLE, _HALF, _HALF), (_HALF, _HALF, _HALF))  # x, what is added, y


def normed(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float, centred: bool, numbers: torch.dtype
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x + added (or x alone), and that less its mean, over its size, times weight, plus bias: over the last axis, in `numbers`.

    Its size is sqrt(mean((x - mean)^2) + epsilon); if not centred, the mean is taken for 0.
    Shapes: x and added (..., D), weight and bias (D) -> two of (..., D).
    """
    if added is None:
        return x, _Normed.apply(x, None, weight, bias, epsilon, centred, numbers)
    return _Normed.apply(x, added, weight, bias, epsilon, centred, numbers)  # type: ignore[no-any-return]


class _Normed(Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float, centred: bool, numbers: Any
    ) -> Any:  # fmt: skip
        x = x.contiguous()
        y, found = torch.empty_like(x, dtype=numbers), x.new_empty(x.numel() // x.shape[-1], 2, dtype=torch.float32)
        norm = _norm(x, y, weight, found, epsilon, centred)
        norm.y, norm.bias = y.data_ptr(), None if bias is None else bias.data_ptr()
        total = x
        if added is not None:
            added, total = added.contiguous(), torch.empty_like(x)
            norm.added, norm.total, norm.half_added = added.data_ptr(), total.data_ptr(), _half(added)
        _library().danlu_norm(ctypes.byref(norm), _threads(x))
        context.save_for_backward(total, weight, found)
        context.epsilon, context.centred, context.added = epsilon, centred, None if added is None else added.dtype
        context.set_materialize_grads(False)
        return y if added is None else (total, y)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *backs: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total, weight, found = context.saved_tensors
        total_back, back = (None, *backs) if context.added is None else backs
        if back is None:  # nobody asked for what is normalised
            return total_back, None if total_back is None else total_back.to(context.added), *[None] * 5
        back, given = back.contiguous(), torch.empty_like(total)
        norm = _norm(total, back, weight, found, context.epsilon, context.centred)
        _, _, for_weight, for_bias, *_ = context.needs_input_grad
        parts = -(-norm.rows // _library().danlu_norm_part()) if for_weight or for_bias else 0
        sums = total.new_empty(parts, 2, norm.width, dtype=torch.float32)
        norm.y_back, norm.x_back, norm.sums = back.data_ptr(), given.data_ptr(), sums.data_ptr() if parts else None
        if total_back is not None:
            total_back = total_back.contiguous()
            norm.total_back = total_back.data_ptr()
        also = given  # of what was added
        if context.added not in (None, total.dtype):
            also = torch.empty_like(total, dtype=context.added)
            norm.added_back, norm.half_added = also.data_ptr(), _half(also)
        _library().danlu_norm_back(ctypes.byref(norm), _threads(total))
        by_weight, by_bias = sums.sum(0)
        return given, None if context.added is None else also, by_weight if for_weight else None, by_bias if for_bias else None, *[None] * 3


def _norm(x: Tensor, y: Tensor, weight: Tensor, found: Tensor, epsilon: float, centred: bool) -> NormRows:
    return NormRows(
        x=x.data_ptr(), weight=weight.data_ptr(), found=found.data_ptr(), rows=len(found), width=x.shape[-1],
        half_x=_half(x), half_y=_half(y), centred=centred, epsilon=epsilon,
    )  # fmt: skip


def makes_weight_gradient(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel makes the gradient of these weights (N, D), by which x (..., D) is multiplied: on processors with tiles."""
    fits = x.dtype == torch.bfloat16 and weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    fits = fits and weight.dim() == 2 and x.shape[-1] == weight.shape[1] and x.numel() > 0
    return fits and all(size % BLOCK == 0 for size in weight.shape) and _library() is not None and _library().tiled


def weight_gradient(back: Tensor, x: Tensor, biased: bool) -> tuple[Tensor, Tensor | None]:
    """The gradients of the weights and the bias of y = x W^T + b, in float32, of that of y.

    Shapes: back (M, N), x (M, D), bfloat16 -> (N, D) and (N).
    """
    back, x = (one if one.stride(1) == 1 else one.contiguous() for one in (back, x))
    [rows, outs], ins = back.shape, x.shape[1]
    weight = torch.empty(outs, ins, dtype=torch.float32)
    bias = torch.empty(outs, dtype=torch.float32) if biased else None
    work = WeightGradient(
        back=back.data_ptr(), x=x.data_ptr(), weight=weight.data_ptr(), bias=None if bias is None else bias.data_ptr(),
        rows=rows, outs=outs, ins=ins, back_stride=back.stride(0), x_stride=x.stride(0),
    )  # fmt: skip
    if _library().danlu_weight_gradient(ctypes.byref(work), torch.get_num_threads()):
        raise MemoryError("no memory for some rows of a product")
    return weight, bias


class _Bent(Function):
    @staticmethod
    def forward(context: Any, activation: str, x: Tensor, other: Tensor | None) -> Tensor:
        context.activation = activation
        x, other = x.contiguous(), None if other is None else other.contiguous()
        context.save_for_backward(x, other)
        y = torch.empty_like(x)
        _bend(activation, x, other, None, y, None)
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, back: Tensor) -> tuple[None, Tensor, Tensor | None]:  # type: ignore[override]
        x, other = context.saved_tensors
        given, other_given = torch.empty_like(x), None if other is None else torch.empty_like(other)
        _bend(context.activation, x, other, back.contiguous(), given, other_given)
        return None, given, other_given


def _bend(activation: str, x: Tensor, other: Tensor | None, back: Tensor | None, y: Tensor, other_back: Tensor | None) -> None:
    places = (None if tensor is None else tensor.data_ptr() for tensor in (x, other, back, y, other_back))
    _library().danlu_bend(ACTIVATIONS[activation], _half(x), x.numel(), *places, _threads(x))


def _half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def _threads(tensor: Tensor) -> int:
    return torch.get_num_threads() if tensor.numel() >= SHARED else 1


@cache
def _library() -> Any:
    for name, file in built("layers", __file__):
        library = opened(str(file))
        if name != "amx" or library.tiled:  # else the system keeps the tiles to itself
            return library
    return None


def opened(file: str) -> Any:
    """A build, ready to be called."""
    library: Any = ctypes.CDLL(file)
    if library.danlu_layers() != LAYOUT:
        raise outdated(Path(file))
    library.danlu_norm_part.restype = c_int64
    library.danlu_bend.restype = library.danlu_norm.restype = library.danlu_norm_back.restype = None
    library.danlu_bend.argtypes = [c_int32, c_int32, c_int64, *[c_void_p] * 5, c_int32]
    library.danlu_norm.argtypes = library.danlu_norm_back.argtypes = [POINTER(NormRows), c_int32]
    library.danlu_attend.argtypes = library.danlu_attend_back.argtypes = [POINTER(Whole), c_int32]
    library.danlu_nats.argtypes = [c_int32, c_int64, c_int64, c_void_p, c_void_p, c_float, c_void_p, c_void_p, c_int32]
    library.danlu_weight_gradient.argtypes = [POINTER(WeightGradient), c_int32]
    library.tiled = bool(library.danlu_tiled())  # asks the system for them, too
    kinds = ((torch.bfloat16, True), (torch.bfloat16, False), (torch.float32, True), (torch.float32, False))
    library.longest = {(kind, causal): library.danlu_longest(kind == torch.bfloat16, causal) for kind, causal in kinds}
    return library
