from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

import danlu.nn.loss
from danlu.nn.loss import IGNORED, token_loss

V, D = 23, 6


def parts() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(V, (3, 11))
    targets[0, :4] = IGNORED
    targets[2, 10] = IGNORED
    return torch.randn(3, 11, D, requires_grad=True), torch.randn(V, D, requires_grad=True), targets


def loss_and_gradients() -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, targets = parts()
    loss = token_loss(lambda rows: rows @ weight.t(), hidden, targets, V)
    loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def test_the_loss_is_its_definition() -> None:
    hidden, weight, targets = parts()
    scores = hidden.detach().numpy().astype(np.float64) @ weight.detach().numpy().T
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = -sum(logs[b, t, targets[b, t]] for b in range(3) for t in range(11) if targets[b, t] != IGNORED)
    assert float(loss_and_gradients()[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 32, 33])
def test_in_chunks_it_is_the_same_and_so_are_its_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loss_and_gradients()
    monkeypatch.setattr(danlu.nn.loss, "CHUNK_LOGITS", rows * V + V - 1)
    for found, whole in zip(loss_and_gradients(), expected, strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_chunks_bound_the_logits_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(danlu.nn.loss, "CHUNK_LOGITS", 4 * V)
    hidden, weight, targets = parts()
    seen: list[int] = []

    def logits_of(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows @ weight.t()

    with torch.no_grad():
        without = token_loss(logits_of, hidden, targets, V)
    assert seen == [4] * 8 + [1]
    assert float(without) == pytest.approx(float(loss_and_gradients()[0]), rel=1e-6)


def test_where_nothing_is_asked_nothing_is_lost() -> None:
    hidden, weight, targets = parts()
    loss = token_loss(lambda rows: rows @ weight.t(), hidden, torch.full_like(targets, IGNORED), V)
    loss.backward()
    assert float(loss.detach()) == 0
    assert hidden.grad is not None and not hidden.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_those_of_torch(smoothing: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.nn.loss.CACHED_LOGITS", 5 * 11)  # several parts, the last a small one
    torch.manual_seed(0)
    logits, targets = (4 * torch.randn(1, 23, 11)).to(dtype).requires_grad_(), torch.randint(11, (1, 23))
    targets[0, ::4] = IGNORED
    found = token_loss(lambda rows: rows, logits, targets, 11, smoothing)
    expected = torch.nn.functional.cross_entropy(
        logits[0].float(), targets[0], ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    [own], [theirs] = torch.autograd.grad(3 * found, logits), torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(own, theirs, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-6)


def test_what_is_kept_for_the_way_back_is_no_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, words = 64, 257  # an odd number, so that no other tensor has as many columns
    monkeypatch.setattr("danlu.nn.loss.CHUNK_LOGITS", 8 * words)
    weight, hidden = torch.randn(words, 16, requires_grad=True), torch.randn(1, rows, 16)
    loss = token_loss(lambda part: part @ weight.t(), hidden, torch.zeros(1, rows, dtype=torch.long), words)
    gc.collect()
    held = sum(one.numel() for one in gc.get_objects() if type(one) is Tensor and one.dim() == 2 and one.shape[1] == words)
    assert held <= 8 * words
    whole = torch.nn.functional.cross_entropy((hidden[0] @ weight.t()), torch.zeros(rows, dtype=torch.long), reduction="sum")
    [expected] = torch.autograd.grad(whole, weight)
    for _ in range(2):  # the way back may be gone twice
        torch.testing.assert_close(torch.autograd.grad(3 * loss, weight, retain_graph=True)[0], 3 * expected, rtol=1e-4, atol=1e-4)
