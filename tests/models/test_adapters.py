"""Adapters against the peft library: what Danlu writes opens there, what peft writes opens here, and the answers are equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.base.errors import CheckpointError
from danlu.models.adapters import base_digest
from danlu.models.base import Head
from danlu.models.loading import Loaded, load_model, restore, save_loaded, with_adapter, with_head
from danlu.models.peft import CONFIG, OWN, WEIGHTS
from danlu.nn.lora import adapted, is_added
from danlu.training.adapt import adapt
from danlu.training.config import Options

from .shapes import ALL, class_of, distance, foreign_logits, make_foreign, own_logits, some_ids, write_foreign

# peft asks transformers for what transformers deprecates
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SHAPES = ("gpt2", "llama-grouped", "llama-all-bias", "qwen2", "qwen3", "bert-plain", "bert-words", "bert-classes", "roberta-labels")
SHAPES += ("t5", "t5-gated", "bart", "marian")
TARGETS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "llama-grouped": ["q_proj", "v_proj", "down_proj"],
    "qwen3": ["k_proj", "o_proj", "gate_proj"],
    "bert-plain": ["query", "intermediate.dense"],
    "bert-classes": ["attention.output.dense", "value"],
    "t5-gated": ["q", "wi_0", "o"],
    "bart": ["out_proj", "fc1"],
}
Change = Callable[[Path], Any]


def limit(name: str) -> float:
    """T5's scores, which are not divided, make float32's last digits large, without adapters too (see test_seq2seq)."""
    return 1e-4 if name.startswith("t5") else 1e-5


def inputs(name: str) -> tuple[Tensor, Tensor | None]:
    ids = some_ids(ALL[name].vocab_size)
    return ids, ids.flip(1) if ALL[name].is_encoder_decoder else None


@torch.no_grad()
def shake(module: torch.nn.Module, chosen: Callable[[str], bool], std: float = 0.3) -> None:
    """Adapters as if they had learnt: none of their numbers is zero."""
    draw = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        if chosen(name):
            parameter.copy_(std * torch.randn(parameter.shape, generator=draw))


def learnt(base: Loaded, rank: int = 4) -> Loaded:
    loaded = adapt(base, Options(adapt="lora", lora_rank=rank, lora_alpha=6.0))
    std = 0.1 if hasattr(base.config, "start_id") else 0.3
    shake(loaded.module, lambda name: is_added(name) or name in loaded.fresh, std)
    return loaded


def saved(loaded: Loaded, folder: Path) -> Path:
    folder.mkdir()
    save_loaded(loaded, folder)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_peft_opens_what_danlu_learnt(name: str, tmp_path: Path) -> None:
    base, (ids, source) = write_foreign(name, tmp_path / "base"), inputs(name)
    plain = own_logits(load_model(str(base)).module, ids, source)
    loaded = learnt(load_model(str(base)))
    folder = saved(loaded, tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == sorted((CONFIG, OWN, WEIGHTS))
    expected = own_logits(loaded.module, ids, source)
    assert distance(expected, plain) > 0.05
    theirs = peft.PeftModel.from_pretrained(make_foreign(name), folder).eval()
    assert distance(foreign_logits(theirs, ids, source), expected) < limit(name)
    for merged in (True, False):
        again = with_adapter(load_model(str(base)), folder, merged=merged)
        assert any(adapted(again.module)) != merged
        assert distance(own_logits(again.module, ids, source), expected) < limit(name)
    assert distance(own_logits(load_model(str(folder)).module, ids, source), expected) < limit(name)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"patterns": "{}"}, {"patterns": r".*\.{}|nothing"}],
    ids=["plain", "rslora", "patterns", "regular"],
)
@pytest.mark.parametrize("name", TARGETS)
def test_danlu_opens_what_peft_learnt(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    base, (ids, source) = write_foreign(name, tmp_path / "base"), inputs(name)
    model = class_of(ALL[name]).from_pretrained(base).eval()
    if options.get("patterns"):
        last = TARGETS[name][-1]
        options = {"rank_pattern": {last: 6}, "alpha_pattern": {str(options["patterns"]).format(last): 11}}
    whole = ["classifier"] if name == "bert-classes" else None
    given = {"target_modules": TARGETS[name], "fan_in_fan_out": name == "gpt2", "modules_to_save": whole} | options
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=7, **given)).eval()
    shake(theirs, lambda name: "lora_" in name or "modules_to_save" in name, 0.1 if source is not None else 0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    expected = foreign_logits(theirs, ids, source)
    assert distance(own_logits(load_model(str(tmp_path / "adapter")).module, ids, source), expected) < limit(name)
    apart = with_adapter(load_model(str(base)), tmp_path / "adapter", merged=False)
    assert distance(own_logits(apart.module, ids, source), expected) < limit(name)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "t5"])
def test_what_was_saved_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    base = write_foreign(name, tmp_path / "base")
    loaded = learnt(load_model(str(base)))
    folder = saved(loaded, tmp_path / "adapter")
    again = adapt(load_model(str(base)), Options(adapt="lora", lora_rank=4, lora_alpha=6.0))
    held = dict(again.module.named_parameters())
    restore(again, folder)
    for at, parameter in again.module.named_parameters():
        assert parameter is held[at]  # the optimizer holds the very same
        assert torch.equal(parameter, dict(loaded.module.named_parameters())[at]), at
        assert parameter.requires_grad == is_added(at)


def test_a_new_head_is_saved_with_the_adapter(tmp_path: Path) -> None:
    base, ids = write_foreign("bert-plain", tmp_path / "base"), inputs("bert-plain")[0]
    head = Head(kind="classes", names=("no", "yes", "或"))
    loaded = learnt(with_head(load_model(str(base)), head))
    folder = saved(loaded, tmp_path / "adapter")
    again = load_model(str(folder))
    assert again.config.head == head
    assert distance(own_logits(again.module, ids), own_logits(loaded.module, ids)) < 1e-5
    bare = class_of(ALL["bert-classes"]).from_pretrained(base, num_labels=3)
    theirs = peft.PeftModel.from_pretrained(bare, folder).eval()
    assert distance(foreign_logits(theirs, ids), own_logits(loaded.module, ids)) < 1e-5


def test_several_adapters_share_one_base(tmp_path: Path) -> None:
    path, ids = write_foreign("llama-grouped", tmp_path / "base"), inputs("llama-grouped")[0]
    folders = [saved(learnt(load_model(str(path)), rank), tmp_path / f"rank-{rank}") for rank in (1, 5)]
    base = load_model(str(path))
    before, digest = own_logits(base.module, ids), base_digest(base.module)
    for merged in (True, False):
        one, other = (with_adapter(base, folder, merged=merged) for folder in folders)
        assert one.module.embedding.weight is base.module.embedding.weight is other.module.embedding.weight
        if not merged:
            assert one.module.blocks[0].attention.query.weight is base.module.blocks[0].attention.query.weight
        assert distance(own_logits(one.module, ids), own_logits(other.module, ids)) > 0.05
    assert base_digest(base.module) == digest and torch.equal(own_logits(base.module, ids), before)
    with pytest.raises(CheckpointError, match="expected a base"):
        with_adapter(with_adapter(base, folders[0], merged=False), folders[1])


def test_another_base_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(learnt(load_model(str(write_foreign("llama-grouped", tmp_path / "base")))), tmp_path / "adapter")
    other = tmp_path / "other"
    make_foreign("llama-grouped", seed=1).save_pretrained(other)
    with pytest.raises(CheckpointError, match=rf"was trained over {tmp_path / 'base'}, and {other} has other weights"):
        with_adapter(load_model(str(other)), folder)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="which is not here"):
        load_model(str(folder))
    with_adapter(load_model(str(tmp_path / "moved")), folder)


def settings(folder: Path, **changes: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))


def tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS)


QUERY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
DAMAGES: dict[str, tuple[Change, str]] = {
    "dora": (lambda folder: settings(folder, use_dora=True), "use_dora = True"),
    "another method": (lambda folder: settings(folder, peft_type="IA3"), "peft_type = 'IA3'"),
    "no rank": (lambda folder: settings(folder, r=None), "damaged adapter"),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
    "a layer that is not there": (lambda folder: tensors(folder, lambda held: held.update(x=torch.zeros(1))), "has no place: x"),
    "half": (lambda folder: tensors(folder, lambda held: held.pop(QUERY.replace("_A", "_B"))), "no tensor"),
    "narrow": (lambda folder: tensors(folder, lambda held: held.update({QUERY: held[QUERY][:, 1:].clone()})), "with shapes"),
    "empty": (lambda folder: tensors(folder, lambda held: held.clear()), "is empty"),
    "cut": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "cannot be read as safetensors"),
    "gone": (lambda folder: (folder / WEIGHTS).unlink(), "cannot be read as safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_a_line(damage: str, tmp_path: Path) -> None:
    folder = saved(learnt(load_model(str(write_foreign("llama-grouped", tmp_path / "base")))), tmp_path / "adapter")
    change, says = DAMAGES[damage]
    change(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_an_adapter_over_itself_is_no_endless_search(tmp_path: Path) -> None:
    loaded = learnt(load_model(str(write_foreign("llama-grouped", tmp_path / "base"))))
    assert loaded.adapter is not None
    itself = replace(loaded.adapter, base=str(tmp_path / "adapter"), place="")
    with pytest.raises(CheckpointError, match="which is not here"):
        load_model(str(saved(replace(loaded, adapter=itself), tmp_path / "adapter")))
