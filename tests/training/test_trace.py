from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from danlu.training.trace import REST, STEP, Product, read_shares


def event(name: str, start: float, length: float, sequence: int | None = None, tid: int = 1, **arguments: Any) -> dict[str, Any]:
    kind = "cpu_op" if "::" in name and not name.startswith("danlu") else "user_annotation"
    told = arguments | ({} if sequence is None else {"Sequence number": sequence})
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": length, "tid": tid, "args": told}


def product(start: float, length: float, shapes: list[list[int]]) -> dict[str, Any]:
    strides = [[shape[-1], 1] for shape in shapes]
    return event("aten::mm", start, length, **{"Input Dims": shapes, "Input Strides": strides, "Input type": ["float", "float"]})


def test_every_microsecond_belongs_to_one_kind() -> None:
    node = "autograd::engine::evaluate_function: "
    shares = read_shares(
        [
            event("aten::add", 0, 5),  # before the step: not counted
            event(f"{STEP} 4", 10, 100),
            event("danlu::batch", 10, 4),
            event("aten::to", 11, 2),
            event("aten::linear", 20, 20, sequence=3),
            event("aten::copy_", 21, 5),
            product(28, 10, [[4, 8], [8, 2]]),
            event("aten::rms_norm", 40, 6, sequence=4),
            event("aten::pow", 41, 2, sequence=4),
            event(f"{node}PowBackward0", 60, 8, sequence=4),
            event("aten::mul", 61, 5),
            event(f"{node}SiluBackward0", 70, 7, sequence=5),
            event("Optimizer.step#Muon.step", 80, 10),
            product(81, 6, [[8, 8], [8, 8]]),
            event("aten::add", 12, 3, tid=2),
            event(f"{STEP} 5", 110, 50),  # cut short
            event("aten::add", 111, 3),
        ],
        1,
    )
    assert shares.steps == 1 and shares.total == pytest.approx(100)
    kinds = {kind: value for kind, value in shares.kinds.items() if value}
    assert kinds == {"data": 4, "products": 15, "copies": 5, "normalisation": 14, "optimizer": 10, REST: 52}
    assert shares.rest == {"Python": 45, "SiluBackward0": 7}
    assert shares.products == {Product("aten::mm", ((4, 8), (8, 2)), ((8, 1), (2, 1)), ("float", "float")): 1}  # not the optimizer's
    assert next(iter(shares.products)).flop == 2 * 4 * 8 * 2


def test_a_real_trace_is_understood(tmp_path: Any) -> None:
    import json

    weight, x = torch.nn.Linear(64, 32), torch.ones(8, 4, 16, 64, requires_grad=True)
    with torch.profiler.profile(record_shapes=True) as recorded, torch.profiler.record_function(f"{STEP} 1"):
        mixed = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        scores = weight(F.rms_norm(mixed, (64,)))
        F.cross_entropy(scores.flatten(0, -2), torch.zeros(8 * 4 * 16, dtype=torch.long)).backward()
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    shares = read_shares(json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"], 1)
    for kind in ("products", "attention", "cross-entropy", "normalisation"):
        assert shares.kinds[kind] > 0, kind
    assert shares.kinds["optimizer"] == shares.kinds["data"] == 0
    rows = 8 * 4 * 16
    assert sum(count * each.flop for each, count in shares.products.items()) == 3 * 2 * rows * 64 * 32  # forward, and both ways back
    assert "PowBackward0" not in shares.rest and "RsqrtBackward0" not in shares.rest  # the norm's
