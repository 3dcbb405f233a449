"""Every build of native/layers.cpp does what torch's own operations do, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.base.errors import ConfigError
from danlu.nn import loss, native
from danlu.nn.feedforward import ACTIVATIONS
from danlu.nn.norm import NormConfig, make_norm

TORCHS = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 8e-3}  # of the larger of 1 and the number
FORMATS = list(BOUNDS)


def near(found: Tensor, expected: Tensor, bound: float) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("numbers", FORMATS)
@pytest.mark.parametrize("activation", TORCHS)
@pytest.mark.parametrize("shape", [(1,), (16,), (3, 5003), (7, 9000)])
@pytest.mark.parametrize("gated", [False, True])
def test_activations_and_their_gradients(build: Any, activation: str, numbers: torch.dtype, shape: tuple[int, ...], gated: bool) -> None:
    torch.manual_seed(0)
    x, other, back = ((torch.randn(shape) * factor).to(numbers) for factor in (5, 1, 1))
    given = [x.requires_grad_(), *([other.requires_grad_()] if gated else [])]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    found, expected = ACTIVATIONS[activation](*given), TORCHS[activation](exact[0])
    expected = expected * exact[1] if gated else expected
    near(found, expected, BOUNDS[numbers])
    for one, other_one in zip(torch.autograd.grad(found, given, back), torch.autograd.grad(expected, exact, back.double()), strict=True):
        near(one, other_one, 4 * BOUNDS[numbers])


def test_numbers_that_are_none_stay_so_and_large_ones_bend_as_they_should(build: Any) -> None:
    x = torch.tensor([float("nan"), -1e4, 1e4, 0.0, -300.0, 1e15, -1e15], requires_grad=True)
    for activation, function in TORCHS.items():
        found, expected = ACTIVATIONS[activation](x), function(x)
        torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-20, rtol=1e-6)
        slopes = (torch.autograd.grad(y.nansum(), x)[0][1:] for y in (found, expected))
        torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-6)


def test_turned_numbers_are_laid_out_first(build: Any) -> None:
    x = torch.randn(40, 70).t()
    torch.testing.assert_close(ACTIVATIONS["silu"](x), F.silu(x))


@pytest.mark.parametrize("numbers", FORMATS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "words"), [(1, 1), (37, 1003), (64, 4096)])
def test_cross_entropy_and_its_gradient(build: Any, numbers: torch.dtype, smoothing: float, rows: int, words: int) -> None:
    torch.manual_seed(0)
    logits, targets = (torch.randn(rows, words) * 3).to(numbers), torch.randint(words, (rows,))
    targets[1::5] = loss.IGNORED
    exact, gradient = logits.double().requires_grad_(), torch.empty_like(logits)
    expected = F.cross_entropy(exact, targets, reduction="none", label_smoothing=smoothing, ignore_index=loss.IGNORED)
    found = native.nats(logits, targets, smoothing, gradient)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-6)
    near(gradient, torch.autograd.grad(expected.sum(), exact)[0], BOUNDS[numbers] / 2)
    assert torch.equal(native.nats(logits, targets, smoothing, None), found)


@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0, -1e4])
def test_small_losses_survive_large_logits(build: Any, offset: float) -> None:
    logits = torch.tensor([[offset, offset - 12]])
    expected = F.cross_entropy(logits.double(), torch.tensor([0]), reduction="none")
    torch.testing.assert_close(native.nats(logits, torch.tensor([0]), 0.0, None).double(), expected, rtol=0.03, atol=0)


def test_logits_that_lie_the_other_way_round_have_the_same_gradient(build: Any) -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(1, 9, 4), torch.randn(50, 4), torch.randint(50, (1, 9), dtype=torch.int32)
    found = []
    for logits_of in (lambda rows: rows @ weight.t(), lambda rows: (weight @ rows.t()).t()):
        given = hidden.clone().requires_grad_()
        found.append(torch.autograd.grad(loss.token_loss(logits_of, given, targets, 50), given)[0])
    torch.testing.assert_close(*found)


def test_what_multiplies_may_be_smaller(build: Any) -> None:
    x, other = torch.randn(4, 5), torch.randn(4, 1)
    torch.testing.assert_close(ACTIVATIONS["silu"](x, other), F.silu(x) * other)


def test_a_build_of_another_version_is_refused(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LAYOUT", native.LAYOUT + 1)
    with pytest.raises(ConfigError, match="was built from another version"):
        native.opened(build._name)


def test_threads_change_no_bit(build: Any) -> None:
    torch.manual_seed(0)
    x, targets = torch.randn(90, 1001), torch.randint(1001, (90,))
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        gradient = torch.empty_like(x)
        found.append((native.nats(x, targets, 0.1, gradient), gradient, native.bent("silu", x)))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_word_that_there_is_not_is_refused(build: Any) -> None:
    with pytest.raises(IndexError, match="a target came as 7; expected less than the 7 words"):
        native.nats(torch.zeros(2, 7), torch.tensor([0, 7]), 0.0, None)


def test_without_a_build_torch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, targets = torch.randn(9, 33, requires_grad=True), torch.randint(33, (9,))
    targets[2] = loss.IGNORED
    found = []
    for _ in range(2):
        total = loss.token_loss(lambda rows: ACTIVATIONS["gelu_tanh"](rows, rows), x[None], targets[None], 33, 0.1)
        found.append((total, torch.autograd.grad(total, x)[0]))
        monkeypatch.setattr(native, "_library", lambda: None)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("numbers", "wanted"), [(torch.float32,) * 2, (torch.float32, torch.bfloat16), (torch.bfloat16,) * 2])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 16), (3, 67, 384), (2, 5, 64, 48)])
def test_norms_and_their_gradients(build: Any, numbers: torch.dtype, wanted: torch.dtype, centred: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = (torch.randn(shape) * 3 + 1).to(numbers).transpose(0, 1)  # as heads come: another order in memory
    weight, bias = torch.randn(shape[-1]), torch.randn(shape[-1]) if centred else None
    given = [one.requires_grad_() for one in (x, weight, bias) if one is not None]
    exact = [one.detach().double().requires_grad_() for one in given]
    assert native.norms(x, None, weight, bias, wanted)
    same, found = native.normed(x, None, weight, bias, 1e-5, centred, wanted)
    assert same is x
    expected = (F.layer_norm if centred else F.rms_norm)(exact[0], shape[-1:], *exact[1:], eps=1e-5)
    near(found, expected, BOUNDS[wanted])
    back = torch.randn(found.shape).to(wanted)
    for one, other in zip(torch.autograd.grad(found, given, back), torch.autograd.grad(expected, exact, back.double()), strict=True):
        near(one, other, 1e-5 * max(1, len(x.flatten()) // 1000) if numbers == torch.float32 else BOUNDS[numbers])


@pytest.mark.parametrize("asked", ["both", "normed", "total"])
@pytest.mark.parametrize("kinds", native.NORM_KINDS, ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_sums_and_their_norms_and_gradients(build: Any, kinds: tuple[torch.dtype, ...], centred: bool, asked: str) -> None:
    torch.manual_seed(0)
    x, added = ((torch.randn(3, 67, 48) * 3 + 1).to(kind).transpose(0, 1) for kind in kinds[:2])
    weight, bias = torch.randn(48), torch.randn(48) if centred else None
    given = [one.requires_grad_() for one in (x, added, weight, bias) if one is not None]
    exact = [one.detach().double().requires_grad_() for one in given]
    assert native.norms(x, added, weight, bias, kinds[2])
    found = native.normed(x, added, weight, bias, 1e-5, centred, kinds[2])
    total = exact[0] + exact[1]
    total = total + (total.detach().to(kinds[0]).double() - total.detach())  # rounded as it is kept
    expected = (total, (F.layer_norm if centred else F.rms_norm)(total, (48,), *exact[2:], eps=1e-5))
    for one, other, kind in zip(found, expected, (kinds[0], kinds[2]), strict=True):
        assert one.dtype == kind
        near(one, other, BOUNDS[kind])
    backs = [torch.randn(one.shape).to(one.dtype) for one in found]
    chosen = {"both": [0, 1], "normed": [1], "total": [0]}[asked]
    outs, theirs = [[them[i] for i in chosen] for them in (found, expected)]
    ours = torch.autograd.grad(outs, given, [backs[i] for i in chosen], allow_unused=True)
    right = torch.autograd.grad(theirs, exact, [backs[i].double() for i in chosen], allow_unused=True)
    assert [one is None for one in ours] == [other is None for other in right] and ours[0] is not None
    for one, other, tensor in zip(ours, right, given, strict=True):
        if one is not None:
            assert one.dtype == tensor.dtype
            near(one, other, 2e-4 if kinds[2] == torch.float32 and tensor.dtype == torch.float32 else 2 * BOUNDS[torch.bfloat16])


def test_norms_show_what_overflows_and_threads_change_no_bit(build: Any) -> None:
    x = torch.full((2, 32), 1e30, requires_grad=True)
    assert native.normed(x, None, torch.ones(32), None, 1e-5, False, torch.float32)[1].isnan().all()
    x, weight = torch.randn(20_000, 64, requires_grad=True), torch.randn(64, requires_grad=True)
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        total, y = native.normed(x, x.detach().bfloat16(), weight, None, 1e-5, False, torch.bfloat16)
        found.append([total, y, *torch.autograd.grad(y.float().square().sum() + total.sum(), (x, weight))])
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("learnt", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_as_modules(build: Any, kind: Any, learnt: tuple[str, ...], default: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = make_norm(NormConfig(kind=kind), 48), torch.randn(3, 70, 48, requires_grad=True)
    for name, parameter in norm.named_parameters():
        torch.nn.init.normal_(parameter)
        parameter.requires_grad_(name in learnt)
    given = [x, *(parameter for parameter in norm.parameters() if parameter.requires_grad)]
    torch.set_default_dtype(default)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = norm(x, torch.bfloat16)
        found = torch.autograd.grad(y.sum(), given)  # the gradient of y is one number for all
    finally:
        torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(native, "_library", lambda: None)
    expected = norm(x, torch.bfloat16)
    assert y.dtype == expected.dtype == torch.bfloat16
    near(y, expected.double(), BOUNDS[torch.bfloat16])
    for one, other in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        near(one, other.double(), 1e-4)
    with torch.no_grad():
        near(norm(x, torch.bfloat16), expected.double(), BOUNDS[torch.bfloat16])


def test_tiles_that_the_system_keeps_leave_the_build_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        tiled = False

    opened = native.opened
    monkeypatch.setattr(native, "opened", lambda file: Kept() if "_amx" in file else opened(file))
    monkeypatch.setattr(native, "_library", native._library.__wrapped__)
    assert not isinstance(native._library(), Kept)


@pytest.mark.parametrize("shape", [(1, 32, 32), (37, 64, 96), (513, 32, 544), (1030, 96, 1056)])
def test_gradients_of_weights_by_tiles(build: Any, shape: tuple[int, int, int]) -> None:
    if not native._library().tiled:
        pytest.skip("no tiles here")
    torch.manual_seed(0)
    rows, outs, ins = shape
    back, x = torch.randn(rows, 2, outs).bfloat16()[:, 1], torch.randn(ins, rows).bfloat16().t()  # rows apart, and turned
    weight, bias = native.weight_gradient(back, x, biased=True)
    near(weight, back.double().t() @ x.double(), 1e-4)
    assert bias is not None
    near(bias, back.double().sum(0), 1e-4)
    alone, none = native.weight_gradient(back, x, biased=False)
    assert none is None and torch.equal(alone, weight)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    shared, _ = native.weight_gradient(back, x, biased=False)
    torch.set_num_threads(threads)
    assert torch.equal(shared, weight)
