"""Each optimizer's steps, against its formula in numpy and double precision."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from danlu.base.errors import ConfigError
from danlu.nn import linear as products
from danlu.training import muon
from danlu.training import muon as muon_module
from danlu.training.checkpoint import Progress, Snapshot, load_training_state
from danlu.training.config import TrainingConfig
from danlu.training.muon import Muon, orthogonal
from danlu.training.optimizer import make_optimizers, sparing

Numbers = NDArray[np.float64]
RATE, DECAY, EPSILON = 0.01, 0.3, 1e-8


def sgd(weight: Numbers, gradients: Sequence[Numbers], momentum: float, **_: float) -> Numbers:
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        weight = weight - RATE * velocity
    return weight


def adam(weight: Numbers, gradients: Sequence[Numbers], beta1: float, beta2: float, decay: float, **_: float) -> Numbers:
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for t, gradient in enumerate(gradients, 1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        step = (mean / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + EPSILON)
        weight = weight - RATE * (step + decay * weight)
    return weight


class Parts(nn.Module):
    """A matrix within blocks, a matrix outside and a vector: all that optimizers tell apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(4, 3, bias=False)])
        self.head = nn.Linear(3, 5)


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**({"rate": RATE, "batch_rows": 1, "context_length": 8, "weight_decay": DECAY} | changes))


def gradients_for(module: nn.Module, steps: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(parameter.shape, generator=generator) for parameter in module.parameters()] for _ in range(steps)]


def take(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], steps: Sequence[Sequence[torch.Tensor]]) -> None:
    for gradients in steps:
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("changes", "formula", "matrix_decay"),
    [
        ({"optimizer": "sgd"}, sgd, 0.0),
        ({"optimizer": "sgd", "momentum": 0.0}, sgd, 0.0),
        ({"optimizer": "sgd", "momentum": 0.5}, sgd, 0.0),
        ({"optimizer": "adam"}, adam, 0.0),
        ({"optimizer": "adam", "beta1": 0.7, "beta2": 0.8}, adam, 0.0),
        ({"optimizer": "adamw"}, adam, DECAY),
    ],
)
def test_steps_are_those_of_the_formula(changes: dict[str, Any], formula: Callable[..., Numbers], matrix_decay: float, steps: int) -> None:
    module, config = Parts(), settings(**changes)
    gradients = gradients_for(module, steps)
    before = [parameter.detach().numpy().astype(np.float64) for parameter in module.parameters()]
    take(module, make_optimizers(module, config), gradients)
    for index, parameter in enumerate(module.parameters()):
        expected = formula(
            before[index],
            [step[index].numpy().astype(np.float64) for step in gradients],
            momentum=config.momentum,
            beta1=config.beta1,
            beta2=config.beta2,
            decay=matrix_decay if parameter.dim() > 1 else 0.0,
        )
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-6)
        assert np.abs(expected - before[index]).max() > 1e-3


def test_muon_steps_are_nearly_orthogonal_and_only_within_blocks() -> None:
    module, other = Parts(), Parts()
    gradients = gradients_for(module, 1)
    take(module, make_optimizers(module, settings(optimizer="muon", muon_rate=0.5)), gradients)
    take(other, make_optimizers(other, settings(optimizer="adamw")), gradients)
    for (name, parameter), alike in zip(module.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, alike) == (not name.startswith("blocks."))
    step = (Parts().blocks[0].weight - module.blocks[0].weight).detach().numpy() / 0.5
    left, _, right = np.linalg.svd(gradients[0][0].numpy(), full_matrices=False)
    assert np.diag(left.T @ step @ right.T) == pytest.approx(np.ones(3), abs=0.35)  # bfloat16 and five iterations come that near
    assert np.abs(left.T @ step @ right.T - np.diag(np.diag(left.T @ step @ right.T))).max() < 0.02


@pytest.mark.parametrize(
    "changes", [{"optimizer": name} for name in ("sgd", "adam", "adamw", "muon")] + [{"optimizer": "sgd", "momentum": 0.0}]
)
def test_a_saved_state_goes_on_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    config, whole = settings(**changes), Parts()
    gradients = gradients_for(whole, 5)
    optimizers = make_optimizers(whole, config)
    take(whole, optimizers, gradients[:2])
    Snapshot.take(whole, optimizers, Progress(step=2)).write(tmp_path)
    cut = Parts()
    cut.load_state_dict(whole.state_dict())
    restored = make_optimizers(cut, config)
    assert load_training_state(tmp_path, cut, restored).step == 2
    take(whole, optimizers, gradients[2:])
    take(cut, restored, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_group_tells_its_peak_and_every_weight_has_one_owner(name: str) -> None:
    module = Parts()
    groups = [group for optimizer in make_optimizers(module, settings(optimizer=name)) for group in optimizer.param_groups]
    assert all(group["peak"] == group["lr"] for group in groups)
    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adagrad"}, "'adagrad'; expected auto, sgd, adam, adamw, muon"),
        *[({"momentum": value}, "momentum came as") for value in (-0.1, 1.0, math.nan, math.inf)],
    ],
)
def test_what_is_no_optimizer_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(**changes)


@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_muon_is_that_of_torch(numbers: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's computes in bfloat16 always, one matrix after the other, with one polynomial five times."""
    monkeypatch.setattr(muon_module, "POLYNOMIALS", ((3.4445, -4.7750, 2.0315),) * 5)
    torch.manual_seed(0)
    shapes = [(6, 6), (6, 16), (16, 6), (6, 6), (6, 16)]
    own, theirs = ([nn.Parameter(torch.randn(shape)) for shape in shapes] for _ in range(2))
    for one, other in zip(own, theirs, strict=True):
        other.data.copy_(one.data)
    muon, torchs = Muon([{"params": own}], lr=0.1, numbers=numbers), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    for _ in range(5):
        for one, other in zip(own, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        muon.step()
        torchs.step()
    apart = max(float((one - other).detach().abs().max()) for one, other in zip(own, theirs, strict=True))
    assert apart < (1e-6 if numbers == torch.bfloat16 else 0.02)


@pytest.mark.parametrize(("shape", "numbers"), [((24, 40), torch.float32), ((40, 24), torch.float32), ((32, 32), torch.bfloat16)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int], numbers: torch.dtype) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    values = torch.logspace(-2.2, 0, min(shape)).expand(3, -1)  # of the norm that they are divided by, no less than 0.003
    found = orthogonal((u * values[:, None] @ v).to(numbers)).float()
    inner = u.mT @ found @ v.mT
    slack = 0.0 if numbers == torch.float32 else 0.05
    kept = inner.diagonal(dim1=1, dim2=2)
    assert 0.79 - slack < kept.min() and kept.max() < 1.21 + slack
    assert (inner - torch.diag_embed(kept)).abs().max() < (1e-4 if numbers == torch.float32 else 0.05)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_matrices_one_by_one_give_the_same_steps(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape)
    monkeypatch.setattr(muon, "better_by_onednn", lambda: False)
    together = orthogonal(x)
    shapes, own = list[tuple[int, ...]](), products._multiplied
    monkeypatch.setattr(products, "_multiplied", lambda x, weight, bias=None: shapes.append(tuple(x.shape)) or own(x, weight, bias))  # type: ignore[func-returns-value]
    for module in (muon, products):
        monkeypatch.setattr(module, "better_by_onednn", lambda: True)
        monkeypatch.setattr(module, "FEW", 0)
    torch.testing.assert_close(orthogonal(x), together, atol=1e-5, rtol=0)
    assert len(shapes) == 3 * 3 * len(muon.POLYNOMIALS)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_sparing_the_compiler_changes_no_bit(kind: Any) -> None:
    ends = []
    for maker in (kind, sparing(kind)):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        optimizer = maker(layer.parameters(), lr=0.01, fused=True)
        for _ in range(5):
            layer(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        again = maker(layer.parameters(), lr=0.5, fused=True)
        again.load_state_dict(optimizer.state_dict())
        assert again.param_groups[0]["lr"] == 0.01
        ends.append(torch.cat([weight.flatten() for weight in layer.parameters()]))
    assert torch.equal(*ends)


def test_training_loads_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {number},{number % 2}\n" for number in range(40)))
    script = (
        "import sys, danlu\n"
        "danlu.train('bert/nano', task='classify', data='rows.csv', steps=2, checkpoint_every=1, runs='.', name='a', threads=1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
