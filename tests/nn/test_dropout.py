from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, chisquare

from danlu.nn.dropout import dropout


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_so_many_are_dropped_and_the_rest_make_up_for_them(share: float, numbers: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.ones(1001, 333, dtype=numbers)
    y = dropout(x, share)
    gone = int((y == 0).sum())
    assert y.dtype == numbers and y.shape == x.shape
    assert gone == 0 if share == 0 else binomtest(gone, x.numel(), share).pvalue > 1e-4
    torch.testing.assert_close(
        y[y != 0], torch.full_like(y[y != 0], 1 / (1 - share)), rtol=1e-4 if numbers == torch.float32 else 2**-7, atol=0
    )


def test_places_are_dropped_apart_from_each_other() -> None:
    """Of four places that one number serves, as often as chance has it, each pattern."""
    torch.manual_seed(2)
    gone = (dropout(torch.ones(400_000), 0.25) == 0).view(-1, 4).long()
    counts = torch.bincount((gone * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    expected = [100_000 * 0.25 ** bin(pattern).count("1") * 0.75 ** (4 - bin(pattern).count("1")) for pattern in range(16)]
    assert chisquare(counts.numpy(), expected).pvalue > 1e-4


def test_gradients_go_where_numbers_went() -> None:
    x = torch.randn(7, 13, requires_grad=True)  # 91 places are no multiple of four
    y = dropout(x, 0.3)
    y.sum().backward()
    assert x.grad is not None and 0 < int((y == 0).sum()) < 91
    torch.testing.assert_close(x.grad, (y / x).detach())


def test_a_seed_says_which() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(999), 0.5)

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))


def test_nothing_and_nearly_all() -> None:
    assert dropout(torch.ones(0, 5), 0.5).shape == (0, 5)
    assert int((dropout(torch.ones(1000), 1 - 1e-9) != 0).sum()) < 5
