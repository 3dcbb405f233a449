from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from danlu.training.curves import Curves


def test_tensorboard_reads_every_point_though_the_disk_was_away(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "board")
    curves.add("loss_nats", 5.5, 1)
    curves.flush()
    (tmp_path / "board").rename(tmp_path / "away")
    curves.add("loss_nats", 4.25, 2)
    curves.flush()
    (tmp_path / "away").rename(tmp_path / "board")
    curves.add("rate", 0.5, 2)
    curves.flush()
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(point.step, point.value) for point in read.Scalars("loss_nats")] == [(1, 5.5), (2, 4.25)]
    assert [(point.step, point.value) for point in read.Scalars("rate")] == [(2, pytest.approx(0.5))]
