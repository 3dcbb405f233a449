"""Where a step's time went, read from the trace that torch's profiler writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.nn.linear import WEIGHT_GRADIENT

STEP, BATCH = "danlu::step", "danlu::batch"  # what we mark in a trace ourselves
REST = "everything else"
# The first that an operation, or one that it is part of, belongs to.
BEFORE_ALL = {"data": (BATCH,), "optimizer": ("Optimizer.", "aten::_foreach_", "aten::_fused_adam", "aten::_fused_sgd")}
KINDS = {
    "attention": ("aten::scaled_dot_product_attention", "aten::_scaled_dot_product", "danlu::attention"),
    "cross-entropy": ("aten::cross_entropy", "aten::log_softmax", "aten::_log_softmax", "aten::nll_loss", "_Nats"),
    "normalisation": ("_Normed", "_RMSNorm", "aten::rms_norm", "aten::_fused_rms_norm", "aten::layer_norm", "aten::native_layer_norm"),
}
COPIES = ("aten::copy_", "aten::to", "aten::_to_copy", "aten::contiguous", "aten::clone", "aten::cat", "aten::stack")
PRODUCTS = (
    *("aten::linear", "aten::matmul", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::einsum"),
    *("_HalfProduct", "_Product", "mkldnn::_linear_pointwise", WEIGHT_GRADIENT),
)
SHARES = ("products", "attention", "cross-entropy", "normalisation", "optimizer", "copies", "data", REST)
MEASURED = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", WEIGHT_GRADIENT)  # products that compute, rather than call another
BACKWARD = "autograd::engine::evaluate_function"


@dataclass(frozen=True)
class Product:
    """One matrix product as it was called: the operands' shapes, strides in elements and number types."""

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]

    @property
    def flop(self) -> int:
        """Multiplications and additions: 2 B M K N for (B, M, K) times (B, K, N)."""
        left, right = self.shapes[-2:]
        return 2 * right[-1] * _size(left)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Microseconds of all recorded steps together, by kind of work and, within the rest, by operation; and their products, counted."""

    steps: int
    kinds: Mapping[str, float]
    rest: Mapping[str, float]
    products: Mapping[Product, int]

    @property
    def total(self) -> float:
        """Microseconds of all recorded steps."""
        return sum(self.kinds.values())


@dataclass(eq=False)
class _Span:
    """One operation in the trace, and the one that it is part of."""

    name: str
    start: float
    end: float
    sequence: int | None
    own: float  # microseconds in it and in nothing that it calls
    event: Mapping[str, Any]
    parent: _Span | None = None


def read_shares(events: Sequence[Mapping[str, Any]], steps: int) -> Shares:
    """Sort every microsecond within the first so many marked steps by what was done in it; one more may have been cut short.

    Events as in a chrome trace; times in microseconds.
    """
    done = [event for event in events if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation")]
    marks = sorted((event for event in done if event["name"].startswith(STEP)), key=lambda event: event["ts"])[:steps]
    within = [event for event in done if any(mark["ts"] <= event["ts"] < mark["ts"] + mark["dur"] for mark in marks)]
    threads = {mark["tid"] for mark in marks}
    spans = [span for tid in threads for span in _nest([event for event in within if event["tid"] == tid])]
    forward = {span.sequence: span for span in spans if span.sequence is not None and _node_of(span) is None}
    kinds, rest = dict.fromkeys(SHARES, 0.0), defaultdict[str, float](float)
    products: Counter[Product] = Counter()
    for span in spans:
        kind, node = _kind_of(span), _node_of(span)
        if node is not None and node.sequence in forward:  # the way back belongs to what it is the way back of
            there = _kind_of(forward[node.sequence])
            kind = there if kind is None or there in KINDS else kind
        if kind == "products" and _word(span.name) in MEASURED:
            products[_product(span.event)] += 1
        kinds[kind or REST] += span.own
        if kind is None:
            rest["Python" if span.name.startswith(STEP) else span.name.removeprefix(f"{BACKWARD}: ")] += span.own
    return Shares(steps=len(marks), kinds=kinds, rest=dict(rest), products=dict(products))


def _nest(events: Sequence[Mapping[str, Any]]) -> list[_Span]:
    """Spans of one thread, each with its parent and the time that is its own."""
    spans: list[_Span] = []
    opened: list[_Span] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        sequence = event.get("args", {}).get("Sequence number")
        span = _Span(event["name"], event["ts"], event["ts"] + event["dur"], sequence, event["dur"], event)
        while opened and opened[-1].end <= span.start:
            opened.pop()
        if opened:
            span.parent = opened[-1]
            span.parent.own -= min(span.end, span.parent.end) - span.start
        opened.append(span)
        spans.append(span)
    return spans


def _kind_of(span: _Span) -> str | None:
    """What an operation belongs to by its own name and those that it is part of, up to the autograd node that it runs in."""
    names, node = [], False
    above: _Span | None = span
    while above is not None:
        node = node or above.name.startswith(BACKWARD)
        for kind, starts in BEFORE_ALL.items():
            if _starts(above.name, starts):
                return kind
        names += [] if node else [above.name]
        above = above.parent
    for kind, starts in KINDS.items():
        if any(_starts(name, starts) for name in names):
            return kind
    nearest = next((name for name in map(_word, names) if name in COPIES or name in PRODUCTS), None)
    return None if nearest is None else "copies" if nearest in COPIES else "products"


def _node_of(span: _Span) -> _Span | None:
    above: _Span | None = span
    while above is not None and not above.name.startswith(BACKWARD):
        above = above.parent
    return above


def _product(event: Mapping[str, Any]) -> Product:
    if _word(event["name"]) == WEIGHT_GRADIENT:  # what torch would compute of two arrays of bfloat16
        outs, rows, ins = map(int, event["name"].split()[1:])
        return Product("aten::mm", ((outs, rows), (rows, ins)), ((1, outs), (ins, 1)), ("c10::BFloat16",) * 2)
    arguments = event["args"]
    kept = [place for place, shape in enumerate(arguments["Input Dims"]) if shape]
    shapes, strides = (tuple(tuple(arguments[key][place]) for place in kept) for key in ("Input Dims", "Input Strides"))
    return Product(event["name"], shapes, strides, tuple(arguments["Input type"][place] for place in kept))


def _word(name: str) -> str:
    """A name without what may follow it: the sizes that our own marks tell."""
    return name.split(" ")[0]


def _starts(name: str, beginnings: Sequence[str]) -> bool:
    return name.startswith(tuple(beginnings))


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
