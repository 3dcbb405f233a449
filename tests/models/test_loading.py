from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.run import Run
from danlu.models.loading import Opened, families, load_model, open_model

from .shapes import write_foreign

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_foreign("llama-untied", tmp_path / "model")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "has no tensor model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_a_tensor_too_many_is_named(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.layers.0.adapter.weight": torch.zeros(2)}))
    assert "does not have: model.layers.0.adapter.weight" in refusal(folder)


def test_tables_that_every_reader_computes_are_no_tensors_too_many(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    load_model(str(folder))


@pytest.mark.parametrize("shape", [(), (3,), (56, 33), (31, 56), (1, 1, 1)])
@pytest.mark.parametrize("name", ["llama-untied", "gpt2"])
def test_a_wrong_shape_is_told(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = write_foreign(name, tmp_path / "model")
    for tensor in load_file(folder / WEIGHTS):
        if ".1." in tensor:
            write_foreign(name, folder)
            change_weights(folder, lambda tensors, tensor=tensor: tensors.update({tensor: torch.zeros(shape)}))
            assert "shape" in refusal(folder)


def opened(folder: Path) -> Opened:
    found = open_model(str(folder))
    assert isinstance(found, Opened)
    return found


@pytest.mark.parametrize("name", ["llama-untied", "gpt2", "qwen3", "bert-words", "t5-gated"])
def test_an_opened_model_gives_its_weights_one_by_one(name: str, tmp_path: Path) -> None:
    folder = write_foreign(name, tmp_path / "model")
    model, loaded = opened(folder), load_model(str(folder))
    weights = dict(loaded.module.named_parameters())
    assert (model.config, model.family, model.path) == (loaded.config, loaded.family, loaded.path)
    assert model.shapes == {name: tuple(weight.shape) for name, weight in weights.items()}
    assert not model.tensors.used
    for own, weight in weights.items():
        assert torch.equal(model.weight(own), weight) and model.packed(own) is None
    model.check_left()
    filled = model.filled().module.state_dict()
    assert all(torch.equal(filled[own], weight) for own, weight in loaded.module.state_dict().items())


def test_an_opened_models_weights_are_float32(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()}))
    assert {opened(folder).weight(name).dtype for name in opened(folder).shapes} == {torch.float32}


def test_what_an_opened_model_lacks_has_too_many_or_of_another_shape_is_told(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3), "model.more": torch.zeros(2)}))
    model = opened(folder)
    for own, told in (
        ("blocks.1.feedforward.up.weight", "has no tensor model.layers.1.mlp.up_proj.weight"),
        ("norm.weight", r"norm.weight came with shape \(3,\), expected \(32,\)"),
    ):
        with pytest.raises(CheckpointError, match=told):
            model.weight(own)
    for own in model.shapes.keys() - {"blocks.1.feedforward.up.weight", "norm.weight"}:
        model.weight(own)
    with pytest.raises(CheckpointError, match=r"does not have: model.more$"):
        model.check_left()


@pytest.mark.parametrize("shape", [(), (3,), (56, 33), (31, 56), (1, 1, 1)])
@pytest.mark.parametrize("name", ["llama-untied", "gpt2"])
def test_a_wrong_shape_of_one_weight_is_told(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    folder = write_foreign(name, tmp_path / "model")
    kept = load_file(folder / WEIGHTS)
    for tensor in kept:
        if ".1." in tensor:
            change_weights(folder, lambda tensors, tensor=tensor: tensors.update({tensor: torch.zeros(shape)}))
            model = opened(folder)
            with pytest.raises(CheckpointError, match="shape"):
                for own in model.shapes:
                    model.weight(own)
            change_weights(folder, lambda tensors, tensor=tensor: tensors.update({tensor: kept[tensor]}))


def test_a_damaged_configuration_is_told_when_it_is_opened(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_model(str(folder))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exit, (7,))


def test_pickled_weights_are_never_opened_and_the_mend_is_told(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    message = refusal(folder)
    assert "pickled" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.02, 0.5, 0.999])
def test_cut_safetensors_are_refused(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(len(whole) * share)])
    assert "cut or damaged" in refusal(folder)


def test_a_missing_part_and_a_damaged_index_are_refused(tmp_path: Path) -> None:
    folder = write_foreign("llama-untied", tmp_path / "model", max_shard_size="10KB")
    index = folder / "model.safetensors.index.json"
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    assert "cannot be read" in refusal(folder)
    for damaged in ("", "[]", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": 5}}', "[" * 100_000):
        index.write_text(damaged)
        refusal(folder)


def test_a_path_in_an_index_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_foreign("llama-untied", tmp_path / "model")
    (folder / WEIGHTS).rename(tmp_path / "outside.safetensors")
    names = load_file(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "../outside.safetensors")}))
    assert "outside.safetensors cannot be read" in refusal(folder)


def test_an_unknown_architecture_names_the_known(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    for kind in ("mamba", "", None, ["llama"], {}):
        (folder / "config.json").write_text(json.dumps(raw | {"model_type": kind}))
        message = refusal(folder)
        assert all(known in message for known in families()["gpt"].model_types)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b'"llama"', b"\xff\xfe", b"{}", b"[" * 100_000])
def test_a_damaged_config_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("name", ["llama-scaled-as-llama3", "gpt2"])
def test_every_field_of_a_config_json_may_be_missing_or_absurd(name: str, tmp_path: Path) -> None:
    """Loaded or refused in one line, and nothing else."""
    folder = write_foreign(name, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    refused = 0
    for field in raw:
        for value in (..., -1, 7.5, 10**12, "x", {"rope_type": "llama3"}):
            changed = {key: old for key, old in raw.items() if key != field} | ({} if value is ... else {field: value})
            (folder / "config.json").write_text(json.dumps(changed))
            try:
                load_model(str(folder))
            except CheckpointError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 30


def test_what_would_be_computed_otherwise_is_refused(tmp_path: Path) -> None:
    for name, field in (("gpt2", "scale_attn_by_inverse_layer_idx"), ("qwen2", "use_sliding_window")):
        folder = write_foreign(name, tmp_path / name)
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | {field: True}))
        assert "this version knows" in refusal_without_path(folder)


def refusal_without_path(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(str(folder))
    return str(caught.value)


def test_an_empty_folder_and_an_unknown_name_say_what_is_expected(tmp_path: Path) -> None:
    assert "holds no model; expected" in refusal(tmp_path)
    for name in ("no-such-model", str(tmp_path / "gone"), "", "\0", "n" * 5000, "~nobody-here/model"):
        with pytest.raises((ConfigError, CheckpointError)):
            load_model(name)
    with pytest.raises(ConfigError, match=r"no model is called no-such-model.*smollm2-135m-instruct"):
        load_model("no-such-model")


def test_a_run_gives_its_last_whole_model(tmp_path: Path) -> None:
    for step in (5, 10):
        write_foreign("gpt2", tmp_path / f"checkpoints/step-{step:06d}")
    (tmp_path / "checkpoints/.partial-step-000015-x").mkdir()
    assert load_model(str(tmp_path)).path == tmp_path / "checkpoints/step-000010"
    write_foreign("qwen2", tmp_path / "final")
    assert load_model(str(tmp_path)).path == tmp_path / "final"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refusal(folder)


def test_a_run_without_weights_says_how_to_go_on(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "begun", {})
    assert refusal(run.folder) == f"{run.folder} is a run that has no weights yet; go on with it: danlu train {run.folder} --resume"
