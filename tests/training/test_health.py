from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import danlu
from danlu.base.run import Run
from danlu.training import loop
from danlu.training.average import Average
from danlu.training.health import WINDOW, Health
from danlu.training.loop import Diverged


def first_fault(losses: list[float], answers: int = 4096) -> int | None:
    health = Health()
    return next((number for number, loss in enumerate(losses) if health.fault(loss, 1.0, answers)), None)


def test_numbers_that_are_none_are_seen_at_once() -> None:
    assert first_fault([3.0, math.nan]) == 1
    assert first_fault([math.inf]) == 0
    assert Health().fault(3.0, math.nan, 1)


def test_leaps_and_rises_are_seen_and_noise_is_not() -> None:
    torch.manual_seed(0)
    falling = [8 * 0.99**step + 2 + float(torch.randn(()).abs()) * 0.5 for step in range(400)]
    assert first_fault(falling) is None
    assert first_fault([*falling, 12.0]) == 400
    rising = [*falling, *(falling[-1] + 0.1 * step for step in range(60))]
    assert 400 < (first_fault(rising) or 0) < 400 + 2 * WINDOW
    assert first_fault([0.01] * 30 + [0.3] * 10) is None  # small in nats, as at the end of fine-tuning
    few = [0.7] * 20 + [0.05] * 30
    assert first_fault([*few, 6.0, 0.05, 4.0, *few[20:]], answers=2) is None  # two answers may both be wrong
    assert first_fault([*few, *[40.0] * 20], answers=2) is not None


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("health")
    (folder / "raw.txt").write_text("\n".join(f"the old river {i % 7} runs past {i % 11} green hills" for i in range(500)))
    danlu.prepare(folder / "raw.txt", out=folder / "text", vocabulary_size=280, workers=1)
    return folder / "text"


OPTIONS = {"steps": 30, "batch_rows": 4, "context_length": 32, "precision": "float32", "threads": 1}


@pytest.mark.parametrize("checkpoint_every", [7, None])
def test_a_setback_goes_back_once_with_half_the_rate_and_then_stops(
    checkpoint_every: int | None, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loop._gradients
    left = [1]

    def troubled(learner: object, objective: object, config: object, progress: object, *more: object) -> tuple[float, int, int]:
        found = before(learner, objective, config, progress, *more)  # type: ignore[arg-type]
        if progress.step == 17 and left[0]:  # type: ignore[attr-defined]
            left[0] -= 1
            return math.nan, found[1], found[2]
        return found

    monkeypatch.setattr(loop, "_gradients", troubled)
    made = danlu.train("gpt/nano", data=text, runs=tmp_path, name="once", checkpoint_every=checkpoint_every, **OPTIONS)
    rows = list(Run(tmp_path / "once").metrics())
    steps = [row for row in rows if "kind" not in row]
    assert [row["step"] for row in steps] == list(range(1, 31))
    [setback] = [row for row in rows if row.get("kind") == "setback"]
    assert setback["step"] == (14 if checkpoint_every else 0) and "nan" in setback["reason"]
    assert made.steps == 30 and made.train_loss_nats < steps[0]["loss_nats"] - 1
    left[0] = 2
    with pytest.raises(Diverged, match=r"nan.*gone back once.*--rate below"):
        danlu.train("gpt/nano", data=text, runs=tmp_path, name="twice", checkpoint_every=checkpoint_every, **OPTIONS)


def test_a_rate_far_too_high_is_told(text: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"--rate below"):
        danlu.train("gpt/nano", data=text, runs=tmp_path, name="a", optimizer="sgd", rate=1e4, clip=1e9, **OPTIONS)


def test_the_average_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    average, expected = Average(module, 0.9), module.weight.detach().clone().double()
    for step in range(1, 200):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
        average.follow(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    last = module.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(module.weight.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(module.weight, last)


def test_training_stops_when_nothing_gets_better_and_takes_the_best_away(text: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"steps": 400, "context_length": 16, "batch_rows": 2}
    made = danlu.train("gpt/nano", data=text, runs=tmp_path, name="a", patience=2, checkpoint_every=10, rate=2e-2, **options)
    rows = [row for row in Run(tmp_path / "a").metrics() if row.get("kind") == "evaluation"]
    measured = {row["step"]: row["val_loss_nats"] for row in rows if not row["final"]}
    assert made.steps < 400
    best = min(measured, key=measured.__getitem__)
    assert made.steps - best >= 20
    assert rows[-1]["final"] and rows[-1]["step"] == best  # measured on the weights that are taken away
    assert made.val_loss_nats is not None and made.val_loss_nats < 1.15 * measured[best]
    with danlu.load(made.run) as model, danlu.load(str(Run(tmp_path / "a").checkpoint(best))) as at_best:
        ids = torch.tensor([[1, 2, 3, 4]])
        assert torch.equal(model.logits(ids), at_best.logits(ids))


def test_averaged_weights_are_taken_away_and_go_on_to_the_bit(text: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"data": text, "runs": tmp_path, "average": 0.9, "checkpoint_every": 10}
    whole = danlu.train("gpt/nano", name="whole", **options)
    danlu.train("gpt/nano", name="cut", **options)
    run = Run(tmp_path / "cut")
    newest = run.checkpoints()[-1]
    newest.rename(tmp_path / "gone")  # as if it had been killed before the end
    again = danlu.train(str(run.folder), resume=True)
    ids = torch.tensor([[1, 2, 3, 4]])
    with danlu.load(whole.run) as one, danlu.load(again.run) as other, danlu.load(str(tmp_path / "gone")) as last:
        assert torch.equal(one.logits(ids), other.logits(ids))
        assert not torch.equal(one.logits(ids), last.logits(ids))


@pytest.mark.parametrize("rows", [1, 4])
def test_few_and_wrong_answers_are_no_divergence(rows: int, tmp_path: Path) -> None:
    """One label in thirty is wrong, and a step has few rows: single losses are many times the mean."""
    lines = ["text,label"]
    for number in range(240):
        good = number % 2 == 0
        said = "good" if good != (number % 30 == 7) else "bad"
        lines.append(f"the {('green', 'old', 'high')[number % 3]} river {number % 11} is {'lovely' if good else 'awful'},{said}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    options = OPTIONS | {"steps": 160, "batch_rows": rows, "task": "classify"}
    made = danlu.train("bert/nano", data=tmp_path / "rows.csv", runs=tmp_path, name="a", **options)
    assert made.steps == 160
    assert not [row for row in Run(tmp_path / "a").metrics() if row.get("kind") == "setback"]


def test_without_checkpoints_asked_for_what_is_held_out_is_measured_ten_times(text: Path, tmp_path: Path) -> None:
    danlu.train("gpt/nano", data=text, runs=tmp_path, name="a", patience=30, **OPTIONS)
    rows = [row for row in Run(tmp_path / "a").metrics() if row.get("kind") == "evaluation"]
    assert [row["step"] for row in rows if not row["final"]] == [*range(3, 30, 3), 30]
    assert [row["final"] for row in rows] == [False] * 10 + [True]
