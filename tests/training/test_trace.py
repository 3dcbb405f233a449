from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.nn.attention import Attention, AttentionConfig, Look
from danlu.nn.linear import WEIGHT_GRADIENT
from danlu.nn.loss import token_loss
from danlu.nn.norm import NormConfig, make_norm
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
            event("_HalfProduct", 50, 6, sequence=6),
            event(f"{node}_HalfProductBackward", 92, 8, sequence=6),
            event(f"{WEIGHT_GRADIENT} 2 4 8", 93, 5),
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
    assert kinds == {"data": 4, "products": 29, "copies": 5, "normalisation": 14, "optimizer": 10, REST: 38}
    assert shares.rest == {"Python": 31, "SiluBackward0": 7}
    assert shares.products == {  # not the optimizer's
        Product("aten::mm", ((4, 8), (8, 2)), ((8, 1), (2, 1)), ("float", "float")): 1,
        Product("aten::mm", ((2, 4), (4, 8)), ((1, 2), (8, 1)), ("c10::BFloat16", "c10::BFloat16")): 1,
    }
    assert [one.flop for one in shares.products] == [2 * 4 * 8 * 2, 2 * 2 * 4 * 8]


@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_a_real_trace_is_understood(numbers: torch.dtype, tmp_path: Path) -> None:
    """Attention by torch's blocks or all scores at once, a norm, and the loss that training makes smaller."""
    config = AttentionConfig(num_heads=4, num_kv_heads=4, head_dim=16)
    attention, norm, words = Attention(config, 64, NormConfig()), make_norm(NormConfig(), 64), torch.nn.Linear(64, 32, bias=False)
    x, targets = torch.randn(2, 48, 64, requires_grad=True), torch.zeros(2, 48, dtype=torch.long)
    with torch.profiler.profile(record_shapes=True) as recorded, torch.profiler.record_function(f"{STEP} 1"):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=numbers == torch.bfloat16):
            loss = token_loss(words, attention(norm(x), Look()), targets, 32)
        loss.backward()
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    shares = read_shares(json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"], 1)
    for kind in ("products", "attention", "cross-entropy", "normalisation"):
        assert shares.kinds[kind] > 0, kind
    assert shares.kinds["optimizer"] == shares.kinds["data"] == 0
    weights = 4 * 64 * 64 + 64 * 32  # attention's own products are not counted
    assert sum(count * each.flop for each, count in shares.products.items()) == 3 * 2 * 2 * 48 * weights  # forward, and both ways back
    for own in ("_Nats", "_NatsBackward", "exp_", "scatter_add_", "_softmax", "SoftmaxBackward0", "PowBackward0", "RsqrtBackward0"):
        assert own not in shares.rest
