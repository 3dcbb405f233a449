from __future__ import annotations

import pytest
import torch

from danlu.kernels.packing import pack
from danlu.kernels.table import ALIGNED, Shelf, Turning
from danlu.nn.position import RotaryConfig, turns


def test_positions_are_computed_as_far_as_a_step_comes() -> None:
    turning, whole = Turning(RotaryConfig(), 8, 2500), turns(RotaryConfig(), 8, 0, 2500)
    assert turning.filled == 0
    for count, filled in ((1, 1024), (1024, 1024), (1025, 2048), (10, 2048), (2400, 2500), (2500, 2500)):
        turning.reach(count)
        assert turning.filled == filled
        for found, expected in zip((turning.cosines, turning.sines), whole, strict=True):
            assert torch.equal(found[:filled], expected[:filled]) and not found[filled:].any()


def test_matrices_lie_one_behind_the_other_and_begin_another_stretch_when_one_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "SIZE", 10_000)
    shelf = Shelf()
    made = [pack(torch.randn(rows, 40), "float32") for rows in (16, 16, 16, 100)]  # 4,096 bytes a panel
    moved = [shelf.moved(one) for one in made]
    places = [one.panels.data_ptr() for one in moved]
    assert places[1] - places[0] == made[0].num_bytes and all(place % ALIGNED == 0 for place in places)
    assert places[2] not in range(places[0], places[0] + 10_000)  # two fill what there is
    for before, after in zip(made, moved, strict=True):  # the last is larger than a stretch
        assert torch.equal(before.panels, after.panels) and before.panels.data_ptr() != after.panels.data_ptr()
