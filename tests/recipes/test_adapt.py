"""A model that is there, adapted in part: what learns, what is saved, and what opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

import danlu
from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.run import Run
from danlu.models.loading import load_model
from danlu.training.adapt import rate_factor

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1, "batch_rows": 2, "context_length": 32}
LORA: dict[str, Any] = OPTIONS | {"adapt": "lora", "lora_rank": 4}
WORDS = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills", "while", "ships")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trained GPT; beside it the prepared text, and another."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "raw.txt").write_text("\n".join(" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 40)) for i in range(300)))
    danlu.prepare(str(folder / "raw.txt"), out=folder / "text", vocabulary_size=300, workers=1)
    danlu.train("gpt/nano", data=str(folder / "text"), steps=40, runs=folder, name="base", **OPTIONS)
    (folder / "other.txt").write_text(" ".join(WORDS[-k % len(WORDS)] for k in range(9000)))
    danlu.prepare(str(folder / "other.txt"), out=folder / "other", tokenizer=str(folder / "base"), workers=1)
    return folder / "base"


def weights(run: str | Path) -> dict[str, Tensor]:
    return dict(load_model(str(run)).module.named_parameters())


def train(base: Path, runs: Path, **options: Any) -> Any:
    return danlu.train(str(base), **({"data": str(base.parent / "text"), "runs": runs, "name": "a", "steps": 60} | options))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_lora_learns_and_only_what_it_learnt_is_saved(base: Path, tmp_path: Path) -> None:
    before = weights(base)
    made = train(base, tmp_path, data=str(base.parent / "other"), **LORA)
    losses = [row["loss_nats"] for row in Run(tmp_path / "a").metrics() if "kind" not in row]
    assert sum(losses[-5:]) / 5 < 0.5 < 1.0 < losses[0]
    final = tmp_path / "a" / "final"
    size = sum(file.stat().st_size for file in final.glob("*.safetensors"))
    assert size < sum(tensor.numel() for tensor in before.values())  # bytes, where the base has four for each of its weights
    checkpoint = Run(tmp_path / "a").checkpoints()[-1]
    assert not list(checkpoint.glob("model*.safetensors"))
    with safe_open(checkpoint / "training" / "optimizer.safetensors", framework="pt") as state:
        kept = {name.partition("#")[0] for name in state.keys()} - {""}  # noqa: SIM118
    assert kept and all(name.endswith(("lora_A", "lora_B")) for name in kept)
    after = weights(made.run)
    projections = [name for name in after if ".attention." in name or ".feedforward." in name]
    assert all(torch.equal(after[name], before[name]) != (name in projections and "norm" not in name) for name in after)
    danlu.export(made.run, format="hf", out=tmp_path / "merged")
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base / "final"), final).eval()
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with danlu.load(made.run) as model, torch.inference_mode():
        ids = model.tokenizer.encode("the river 丹炉 runs")
        ours = model.logits([ids])
        for other in (theirs, alone):
            assert (ours - other(torch.tensor([ids])).logits).abs().max() < 1e-5 * ours.abs().max()
        assert model.generate("the river", max_tokens=5, temperature=0).text


def test_a_lora_run_goes_on_to_the_bit(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path, **LORA, steps=12, name="whole")
    train(base, tmp_path, **LORA, steps=12, name="cut", checkpoint_every=5)
    for place in Run(tmp_path / "cut").checkpoints()[1:]:  # as if it had been killed after step 5
        place.rename(tmp_path / place.name)
    danlu.train(str(tmp_path / "cut"), resume=True)
    losses = [[float(row["loss_nats"]).hex() for row in Run(tmp_path / name).metrics() if "kind" not in row] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_does_not_go_on_over_another_base(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path, steps=2, name="first", **OPTIONS)
    train(tmp_path / "first", tmp_path, data=str(base.parent / "text"), steps=4, **LORA)
    danlu.train(str(tmp_path / "first"), resume=True, steps=3)
    with pytest.raises(CheckpointError, match=r"was trained over .*first, and .*first has other weights"):
        danlu.train(str(tmp_path / "a"), resume=True, steps=6)
    with pytest.raises(CheckpointError, match="has other weights"):
        danlu.load(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("adapt", "learns"),
    [("head", ("embedding",)), ("last:1", ("embedding", "norm.", "blocks.1.")), ("last:2", ("embedding", "norm.", "blocks."))],
)
def test_a_part_learns_and_the_rest_stays(adapt: str, learns: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    before = weights(base)
    after = weights(train(base, tmp_path, adapt=adapt, steps=3, **OPTIONS).run)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {name for name in after if name.startswith(learns)}
    assert (tmp_path / "a" / "final" / "model.safetensors").is_file()


def test_a_task_learns_its_head_and_an_adapter(tmp_path: Path) -> None:
    words = {"bad": ("cold", "dull", "bleak", "坏"), "good": ("fine", "warm", "bright", "好")}
    labels = [("bad", "good")[i % 2] for i in range(200)]
    rows = [{"text": f"a {words[label][i // 2 % 4]} tale no {i}", "label": label} for i, label in enumerate(labels)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    given = {"data": str(file), "runs": tmp_path, "threads": 1, "precision": "float32"}
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text("\n".join(json.dumps(row | {"label": len(row["text"])}, ensure_ascii=False) for row in rows))
    first = danlu.train("bert/nano", task="regress", steps=3, name="first", **given | {"data": str(numbers)})
    made = danlu.train(first.run, task="classify", epochs=12, rate=5e-3, batch_rows=32, adapt="lora", name="a", **given)
    assert made.val_accuracy is not None and made.val_accuracy > 0.9
    assert load_model(made.run).config.head.names == ("bad", "good")
    assert json.loads((Path(made.model) / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(
    ("start", "options", "says"),
    [
        ("gpt/nano", {"adapt": "lora"}, "fresh weights"),
        ("gpt/nano", {"adapt": "last:1"}, "fresh weights"),
        (None, {"adapt": "last:3"}, "has 2 blocks"),
        (None, {"adapt": "last:0"}, "expected all, lora, head, or last:N"),
        (None, {"adapt": "lora", "lora_rank": 0}, "expected positive numbers"),
    ],
)
def test_what_cannot_be_adapted_is_told(start: str | None, options: dict[str, Any], says: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        danlu.train(start or str(base), data=str(base.parent / "text"), runs=tmp_path, name="x", steps=1, **options)


def test_an_adapter_over_an_adapter_is_refused_since_others_could_not_open_it(base: Path, tmp_path: Path) -> None:
    first = train(base, tmp_path, steps=2, **LORA)
    with pytest.raises(ConfigError, match=r"is an adapter itself.*danlu export"):
        train(Path(first.run), tmp_path, steps=2, name="b", data=str(base.parent / "text"), **LORA)


def test_a_recurrent_network_has_nothing_for_lora(base: Path, tmp_path: Path) -> None:
    given = {"data": str(base.parent / "text"), "runs": tmp_path, "steps": 1} | OPTIONS
    made = danlu.train("rnn/gru-nano", name="rnn", **given)
    with pytest.raises(ConfigError, match="has no attention"):
        danlu.train(made.run, name="x", adapt="lora", **given)
    danlu.train(made.run, name="y", adapt="last:1", **given)


@pytest.mark.parametrize(
    ("adapt", "kind", "factor"),
    [
        ("all", None, 1), ("lora", None, 10), ("last:2", None, 1), ("head", "chat", 1), ("lora", "chat", 10), ("all", "classify", 2),
        ("all", "span", 3), ("lora", "classify", 30), ("last:6", "classify", 2), ("last:2", "label", 9), ("last:9", "regress", 2),
        ("head", "classify", 100),
    ],
)  # fmt: skip
def test_the_less_learns_the_larger_the_rate(adapt: str, kind: Any, factor: float) -> None:
    assert rate_factor(adapt, kind, 6) == pytest.approx(factor)


KINDS = (("animal", "horse"), ("animal", "dog"), ("tool", "hammer"), ("tool", "saw"), ("food", "bread"), ("food", "soup"))


def test_a_head_alone_learns_at_its_own_rate(tmp_path: Path) -> None:
    """At the rate of all weights, which it had once, it hardly begins in as many steps."""
    rows = [{"text": f"The {word} number {i} is here.", "label": label} for i in range(16) for label, word in KINDS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given: dict[str, Any] = {"task": "classify", "adapt": "head", "steps": 40, "data": tmp_path / "rows.jsonl", "runs": tmp_path}
    losses = [danlu.train("minilm-l6", name=f"{rate}", rate=rate, **given).train_loss_nats for rate in (None, 5.5e-5)]
    assert losses[0] < 0.05 < 0.8 < losses[1]
