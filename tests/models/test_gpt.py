from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from danlu.base.errors import ConfigError
from danlu.base.storage import whole_folder
from danlu.inputs.vocabulary_training import train_bpe
from danlu.models.gpt import DEPTHS, FAMILY, GPT, size
from danlu.models.loading import load_model, save_model

from .shapes import SHAPES, distance, foreign_logits, make_foreign, own_logits, some_ids, write_foreign


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_those_of_transformers_and_do_so_again_after_saving(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path / "theirs")
    loaded = load_model(str(tmp_path / "theirs"))
    ids = some_ids(loaded.config.vocabulary_size)
    expected = foreign_logits(foreign, ids)
    assert loaded.tokenizer is None
    assert distance(own_logits(loaded.module, ids), expected) < 1e-4

    with whole_folder(tmp_path / "ours") as folder:
        save_model(loaded.module, loaded.family, None, folder)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(foreign)
    assert distance(foreign_logits(again, ids), expected) < 1e-5


def test_weights_over_many_files_load_as_one(tmp_path: Path) -> None:
    foreign = make_foreign("llama-untied")
    foreign.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_model(str(tmp_path))
    ids = some_ids(97)
    assert distance(own_logits(loaded.module, ids), foreign_logits(foreign, ids)) < 1e-4


def test_half_precision_folders_compute_in_float32(tmp_path: Path) -> None:
    make_foreign("qwen3").to(torch.bfloat16).save_pretrained(tmp_path)
    foreign = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loaded = load_model(str(tmp_path))
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    ids = some_ids(97)
    assert distance(own_logits(loaded.module, ids), foreign_logits(foreign, ids)) < 1e-4


def test_configurations_of_older_folders_mean_the_same(tmp_path: Path) -> None:
    """rope_theta beside rope_scaling, "type" for "rope_type", and defaults left out."""
    foreign = make_foreign("llama-scaled-linear")
    foreign.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    theta = raw.pop("rope_parameters")["rope_theta"]
    raw |= {"rope_theta": theta, "rope_scaling": {"type": "linear", "factor": 2.5}}
    for unsaid in ("head_dim", "attention_bias", "mlp_bias", "hidden_act"):
        raw.pop(unsaid, None)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ids = some_ids(97)
    assert distance(own_logits(load_model(str(tmp_path)).module, ids), foreign_logits(foreign, ids)) < 1e-4


def test_gpt2_without_its_prefix_loads(tmp_path: Path) -> None:
    foreign = make_foreign("gpt2")
    foreign.transformer.save_pretrained(tmp_path)  # the first public GPT-2 weights are named so
    ids = some_ids(101)
    assert distance(own_logits(load_model(str(tmp_path)).module, ids), foreign_logits(foreign, ids)) < 1e-4


def test_own_sizes_open_in_transformers_with_their_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_bpe(["an oven in which pills were made ", "丹炉里炼出来的大模型。", "x = [1, 2, 34]\n\n\tdef f():\r\n"] * 9, 330)
    torch.manual_seed(0)
    module = GPT(size("nano", tokenizer.vocabulary_size)).eval()
    with whole_folder(tmp_path / "nano") as folder:
        save_model(module, FAMILY, tokenizer, folder)
    foreign = AutoModelForCausalLM.from_pretrained(tmp_path / "nano", dtype=torch.float32).eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "nano")
    ids = some_ids(tokenizer.vocabulary_size)
    assert distance(own_logits(module, ids), foreign_logits(foreign, ids)) < 1e-4
    assert foreign.config.eos_token_id == theirs.eos_token_id == tokenizer.end_of_text_id
    for text in ("an oven\r\n  of 1234 pills,  don't!", "炼出 😀 é e\u0301 \u3000", " lead and trail \n\n ", ""):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


@pytest.fixture(scope="module")
def counts() -> list[int]:
    return []


@pytest.mark.parametrize("name", DEPTHS)
def test_every_size_is_sound_and_survives_its_config_json(name: str, counts: list[int]) -> None:
    config = size(name, 1000)
    assert config.width == config.num_heads * config.head_dim
    assert FAMILY.read_config(json.loads(json.dumps(FAMILY.write_config(config)))) == config
    with torch.device("meta"):
        module = GPT(config)
    assert (module.head is None) == config.tied
    counts.append(sum(parameter.numel() for parameter in module.parameters()))
    assert counts == sorted(counts)  # the names stand in the order of size


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="gpt/huge; expected one of gpt/nano"):
        size("huge", 1000)


@pytest.mark.parametrize("field", ["vocabulary_size", "context_length", "width", "num_layers"])
def test_absurd_shapes_are_refused(field: str) -> None:
    for value in (0, -3, 2**40, 1.5, "12", None):
        with pytest.raises(ConfigError, match=field):
            GPT(type(size("nano", 99))(**{**vars(size("nano", 99)), field: value}))


def test_saving_is_written_as_older_readers_know_it(tmp_path: Path) -> None:
    write_foreign("llama-scaled-as-llama3", tmp_path / "theirs")
    raw = FAMILY.write_config(load_model(str(tmp_path / "theirs")).config)
    assert raw["rope_theta"] == 500.0
    assert raw["rope_scaling"]["rope_type"] == "llama3"
    write_foreign("qwen2", tmp_path / "plain")
    assert FAMILY.write_config(load_model(str(tmp_path / "plain")).config)["rope_scaling"] is None
