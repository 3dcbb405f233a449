from __future__ import annotations

import pytest

from danlu.models.loading import families
from danlu.training.config import TrainingConfig
from danlu.training.memory import FLOAT, needed_bytes


def test_what_is_frozen_has_no_gradient_no_state_and_no_copy() -> None:
    model = families()["gpt"].sizes("nano", 100, 16)
    config = TrainingConfig(rate=1e-3, batch_rows=1, context_length=16, optimizer="adamw")
    whole, part = needed_bytes(1000, 1000, model, config), needed_bytes(1000, 10, model, config)
    assert whole - part == pytest.approx(FLOAT * 990 * (1 + 2 + 1 + 2))  # gradient, two states, and the copies of weights and states
