from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import danlu
from danlu.models.loading import families
from danlu.training.config import TrainingConfig
from danlu.training.memory import FLOAT, needed_bytes


def test_what_is_frozen_has_no_gradient_no_state_and_no_copy() -> None:
    model = families()["gpt"].sizes("nano", 100, 16)
    config = TrainingConfig(rate=1e-3, batch_rows=1, context_length=16, optimizer="adamw")
    whole, part = needed_bytes(1000, 1000, model, config), needed_bytes(1000, 10, model, config)
    assert whole - part == pytest.approx(FLOAT * 990 * (1 + 2 + 1 + 2))  # gradient, two states, and the copies of weights and states


PEAK = """
import sys, danlu
from danlu.training import lesson, memory
fitted, told = lesson.fitted, []
def seen(start, weights, learning, model, config, may_recompute):
    told.append(memory.needed_bytes(weights, learning, model, config))
    return fitted(start, weights, learning, model, config, may_recompute)
lesson.fitted = seen
def peak():  # not getrusage's, which a child inherits from its parent
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
how = {"data": sys.argv[1], "runs": sys.argv[2], "precision": "float32", "threads": 1}
danlu.train("gpt/nano", name="small", batch_rows=1, steps=1, **how)
before = peak()
# One step would not do: what the optimizer keeps and what the layers keep meet from the second on.
danlu.train("gpt/mini", name="large", batch_rows=6, context_length=512, steps=4, **how)
print(peak() - before, told[-1])
"""


def test_the_estimate_is_near_what_a_training_takes(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("\n".join(f"the old river {i % 7} runs past {i * i % 911} green hills" for i in range(3000)))
    danlu.prepare(tmp_path / "raw.txt", out=tmp_path / "text", vocabulary_size=300, workers=1)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "text"), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    measured, estimated = map(int, done.stdout.split())
    assert 0.6 < measured / estimated < 1.6
