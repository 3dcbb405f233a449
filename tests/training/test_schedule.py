"""The rate over a run, against its formula."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from danlu.base.errors import ConfigError
from danlu.training.config import Extent, TrainingConfig, read_seconds
from danlu.training.schedule import rate_share

CONFIG = TrainingConfig(rate=2e-3, batch_rows=4, context_length=64, warmup=0.1, final_rate=0.2, schedule="cosine")


def test_rises_to_the_peak_and_falls_to_its_share() -> None:
    assert rate_share(CONFIG, 0.05) == pytest.approx(0.5)
    assert rate_share(CONFIG, 0.1) == pytest.approx(1.0)
    assert rate_share(CONFIG, 0.55) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2)
    assert rate_share(CONFIG, 1.0) == pytest.approx(0.2)


def test_extent_by_steps_and_by_seconds() -> None:
    assert Extent(steps=200).done(50, 1e9) == 0.25
    assert Extent(seconds=60).done(10**9, 15) == 0.25
    for bad in ({}, {"steps": 1, "seconds": 1.0}, {"steps": 0}):
        with pytest.raises(ConfigError):
            Extent(**bad)


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("5m", 300), ("1.5h", 5400), ("90", 90)])
def test_budget(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-5s", "soon", "5d", "nan"])
def test_budget_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        read_seconds(text)


@pytest.mark.parametrize("field", ["rate", "batch_rows", "muon_rate", "clip"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_settings_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        TrainingConfig(**({"rate": 1e-3, "batch_rows": 1, "context_length": 8} | {field: value}))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.6, 0.36, 0.2]),
        ("exponential", [1, 0.2**0.5, 0.2**0.8, 0.2]),
        ("wsd", [1, 1, 1, 0.2]),
    ],
)
def test_other_schedules(schedule: Any, expected: list[float]) -> None:
    config = dataclasses.replace(CONFIG, schedule=schedule)
    assert rate_share(config, 0.05) == pytest.approx(0.5)
    assert [rate_share(config, done) for done in (0.1, 0.55, 0.82, 1.0)] == pytest.approx(expected)


def test_the_last_fifth_of_wsd_falls_by_a_square_root() -> None:
    config = dataclasses.replace(CONFIG, schedule="wsd", final_rate=0.0, warmup=0.0)
    assert rate_share(config, 0.85) == pytest.approx(1 - math.sqrt(0.25))
    exponential = dataclasses.replace(CONFIG, schedule="exponential", final_rate=0.0)
    assert 0 < rate_share(exponential, 1.0) <= 1e-3
