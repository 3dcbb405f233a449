"""What a profile says, of figures that are known."""

from __future__ import annotations

import torch

from danlu.training.profile import _seconds, seconds_alone, summary_of
from danlu.training.trace import SHARES, Product, Shares

PRODUCT = Product("aten::mm", ((100, 200), (200, 50)), ((200, 1), (1, 200)), ("float", "c10::BFloat16"))


def shares(steps: int = 2) -> Shares:
    kinds = dict.fromkeys(SHARES, 0.0) | {"products": 6000.0, "everything else": 2000.0}
    return Shares(steps=steps, kinds=kinds, rest={"aten::mul": 1600.0, "Python": 400.0}, products={PRODUCT: 4})


def test_rates_are_of_steps_that_were_not_recorded() -> None:
    told = summary_of(shares(), 0.005, [0.004, 0.004, 0.005], tokens=1000, alone_seconds=0.001)
    assert "5.0 ms a step while recorded, 4.0 ms otherwise" in told
    assert "products          75.0%       3.00 ms" in told
    assert "(everything else: mul 20.0%, Python 5.0%)" in told
    assert "250,000 tokens/s" in told
    # Two products a step of 2 x 100 x 200 x 50 FLOP.
    assert "1.0 GFLOP/s over the whole step" in told and "4.0 GFLOP/s: the step reaches 25% of that" in told
    assert "unsteady" not in told


def test_a_busy_machine_is_said_to_be_busy() -> None:
    assert "unsteady" in summary_of(shares(), 0.005, [0.004, 0.009], tokens=1, alone_seconds=0.001)
    assert "unsteady" in summary_of(shares(), 0.005, [], tokens=1, alone_seconds=0.006)


def test_a_product_is_run_alone_as_it_was_called() -> None:
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    batched = Product("aten::baddbmm", ((2, 3, 5), (2, 3, 4), (2, 4, 5)), ((0, 5, 1), (12, 4, 1), (20, 1, 4)), ("float",) * 3)
    bias = Product("aten::addmm", ((5,), (3, 4), (4, 5)), ((0,), (4, 1), (1, 4)), ("c10::BFloat16",) * 3)
    assert batched.flop == 2 * 2 * 3 * 4 * 5 and bias.flop == 2 * 3 * 4 * 5
    assert _seconds(batched) > 0 and _seconds(bias) > 0
    one = Product("aten::mm", ((256, 256), (256, 256)), ((256, 1), (1, 256)), ("float", "float"))
    assert seconds_alone(Shares(steps=2, kinds={}, rest={}, products={one: 4})) > 0
    assert torch.equal(torch.get_rng_state(), before)
