from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from danlu.base.errors import CheckpointError
from danlu.base.weights import ONE_FILE, open_safetensors, save_safetensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.c": torch.tensor([1, -2]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "one": torch.tensor(5.0),
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_safetensors(TENSORS, tmp_path / ONE_FILE)
    found = open_safetensors(tmp_path)
    assert set(found) == set(TENSORS) and len(found) == 4
    assert "a" in found and "z" not in found
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / ONE_FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without


def test_turned_and_needed_tensors_can_be_saved(tmp_path: Path) -> None:
    turned = torch.arange(6.0, requires_grad=True).reshape(2, 3).t()
    save_safetensors({"turned": turned}, tmp_path / ONE_FILE)
    assert open_safetensors(tmp_path)["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_what_was_read_is_remembered_and_what_is_missing_named(tmp_path: Path) -> None:
    save_safetensors(TENSORS, tmp_path / ONE_FILE)
    found = open_safetensors(tmp_path)
    assert found["a"] is not None and found.used == {"a"}
    with pytest.raises(CheckpointError, match="has no tensor z"):
        found["z"]
    assert found.used == {"a"}


def test_changing_a_read_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    save_safetensors(TENSORS, tmp_path / ONE_FILE)
    before = (tmp_path / ONE_FILE).read_bytes()
    open_safetensors(tmp_path)["a"].zero_()
    assert (tmp_path / ONE_FILE).read_bytes() == before
    assert open_safetensors(tmp_path)["a"].sum() == 15


def test_a_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"came without weights; expected model\.safetensors"):
        open_safetensors(tmp_path)


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / ONE_FILE)
    whole = (tmp_path / ONE_FILE).read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        place = dice.randrange(len(whole))
        damaged[place] ^= 1 << dice.randrange(8)
        (tmp_path / ONE_FILE).write_bytes(damaged if dice.random() < 0.7 else damaged[:place])
        try:
            found = open_safetensors(tmp_path)
            [found[name] for name in found]
        except CheckpointError as error:
            assert "cannot be read as safetensors" in str(error)
            refused += 1
    assert 50 < refused < 200
