from __future__ import annotations

import random
import time
from pathlib import Path

import gguf
import pytest
import torch

from danlu.base.errors import CheckpointError, ConfigError
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_wordpiece
from danlu.models.gguf import FILE_TYPES
from danlu.models.loading import Loaded, families, load_model, save_gguf

from .gguf_files import small_tokenizer, write_gguf
from .shapes import SHAPES, distance, foreign_logits, own_logits, some_ids, write_foreign


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("shape", ["llama-grouped", "llama-untied", "qwen2", "qwen3"])
def test_small_files_give_the_logits_of_their_model(shape: str, quantization: str, tmp_path: Path) -> None:
    foreign = write_gguf(tmp_path / "model.gguf", shape, quantization)
    for name in ("model.gguf", ""):  # the file, or a folder that holds just it
        loaded = load_model(str(tmp_path / name))
        ids = some_ids(97)
        assert distance(own_logits(loaded.module, ids), foreign_logits(foreign, ids)) < 1e-4
        assert loaded.tokenizer is not None and loaded.tokenizer.end_of_text_id == 95


def test_scaled_positions_and_unknown_cuttings_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "scaled.gguf", "llama-grouped", **{"llama.rope.scaling.type": "yarn"})
    with pytest.raises(CheckpointError, match="scaled rotary positions"):
        load_model(str(tmp_path / "scaled.gguf"))
    write_gguf(tmp_path / "cutting.gguf", "llama-grouped", **{"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(CheckpointError, match="kind 'rwkv'"):
        load_model(str(tmp_path / "cutting.gguf"))


def outcome(file: Path) -> bool:
    """True if it loads, False if it is refused in one line; anything else fails the test, and so does taking long."""
    began = time.monotonic()
    try:
        load_model(str(file))
    except CheckpointError as error:
        assert "\n" not in str(error)
        assert file.name in str(error)
        return False
    finally:
        assert time.monotonic() - began < 5
    return True


def test_files_cut_anywhere_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", "qwen3")
    whole = (tmp_path / "whole.gguf").read_bytes()
    last = len(whole) - 33  # the last tensor may be followed by padding
    for length in [0, 1, 4, 8, 23, 24, 25, *range(100, last, last // 40), last]:
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        assert not outcome(tmp_path / "cut.gguf"), length


@pytest.mark.parametrize("shape", ["llama-untied", "qwen2", "qwen3"])
def test_files_damaged_anywhere_are_read_or_refused(shape: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", shape)
    whole = (tmp_path / "whole.gguf").read_bytes()
    header = whole.index(b"ffn_down") + 2500  # most damage is done to settings and the table of tensors
    dice = random.Random(shape)
    results = []
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            place = dice.randrange(dice.choice([header, header, len(whole)]))
            count = dice.choice([1, 1, 4, 8])
            damaged[place : place + count] = dice.choice([dice.randbytes(count), b"\xff" * count, b"\0" * count])
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        results.append(outcome(tmp_path / "damaged.gguf"))
    assert len(set(results)) == 2  # some change a weight or a word, some break the file


# What llama.cpp has no word for, and what the refusal names.
UNSAID = {
    "gpt2-narrow-inner": "activation_function = 'gelu'",
    "gpt2-relu-untied": "activation_function = 'relu'",
    "llama-gelu": "hidden_act",
    "llama-scaled-as-llama3": "scaled as llama3",
    "qwen3-bias-untied": "attention_bias = True",
    "bert-words": "hidden_act = 'relu'",
    "bert-classes": "architectures",
    "roberta-plain": "a roberta cannot be written as GGUF",
    "t5": "a t5 cannot be written as GGUF",
}
SAID = [name for name in (*SHAPES, "bert-plain") if name not in UNSAID]
# The largest error of a weight as a share of the largest weight.
ERRORS = {"F32": 0.0, "F16": 2**-11, "Q8_0": 1 / 240, "Q4_0": 1 / 7}


def tokenizer_for(loaded: Loaded) -> Tokenizer:
    """One of fewer tokens than the model has rows."""
    size = loaded.config.vocabulary_size
    return train_wordpiece(["the furnace is hot"], 128) if loaded.family.name == "bert" else small_tokenizer(size - 1)


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("shape", SAID)
def test_what_is_written_comes_back(shape: str, kind: str, tmp_path: Path) -> None:
    loaded = load_model(str(write_foreign(shape, tmp_path / "model")))
    tokenizer, size = tokenizer_for(loaded), loaded.config.vocabulary_size
    save_gguf(loaded.module, loaded.family, tokenizer, tmp_path / "x.gguf", kind)
    again = load_model(str(tmp_path / "x.gguf"))
    assert again.family.write_config(again.config) == loaded.family.write_config(loaded.config)
    weights = {name: weight for name, weight in loaded.module.state_dict().items() if not name.startswith("pooler.")}
    found = again.module.state_dict()
    assert found.keys() == weights.keys()
    assert all(distance(found[name], weight) <= ERRORS[kind] for name, weight in weights.items())
    ids = some_ids(size)
    assert distance(own_logits(again.module, ids), own_logits(loaded.module, ids)) < {"F32": 1e-5, "F16": 1e-2}.get(kind, 1.0)
    assert again.tokenizer is not None and again.tokenizer.vocabulary_size == size
    assert again.tokenizer.encode("the hot") == tokenizer.encode("the hot")
    assert again.tokenizer.chat_template == tokenizer.chat_template


# As llama.cpp's own conversion packs them, but for what scores words (Q6_K there). Rows of 56 and 48 fill no blocks of 32.
IN_Q4_0 = {
    "llama-untied": {"token_embd": "Q4_0", "output": "Q8_0", "blk.0.attn_q": "Q4_0", "blk.1.ffn_down": "F16", "output_norm": "F32"},
    "llama-grouped": {"token_embd": "Q8_0", "output": None},
    "gpt2": {"token_embd": "F16", "position_embd": "F32", "blk.2.attn_qkv": "F16", "output": None},
    "bert-plain": {"token_embd": "Q8_0", "position_embd": "F32", "token_types": "F32", "blk.1.ffn_up": "Q4_0", "pooler": None},
}


@pytest.mark.parametrize("shape", IN_Q4_0)
def test_the_gguf_package_finds_what_llama_cpp_expects(shape: str, tmp_path: Path) -> None:
    loaded = load_model(str(write_foreign(shape, tmp_path / "model")))
    save_gguf(loaded.module, loaded.family, tokenizer_for(loaded), tmp_path / "small.gguf", "Q4_0")
    read = gguf.GGUFReader(tmp_path / "small.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read.tensors}
    assert {name: kinds.get(f"{name}.weight") for name in IN_Q4_0[shape]} == IN_Q4_0[shape]
    assert all(kind == "F32" for name, kind in kinds.items() if name.endswith(".bias"))

    settings = {name: (field.types[0].name, field.contents()) for name, field in read.fields.items()}
    kind = loaded.config.architecture
    assert settings["general.architecture"] == ("STRING", kind) and settings["general.name"] == ("STRING", "small")
    assert settings["general.file_type"] == ("UINT32", gguf.LlamaFileType.MOSTLY_Q4_0)
    assert settings[f"{kind}.attention.head_count"] == ("UINT32", 4)
    epsilon = "attention.layer_norm_rms_epsilon" if kind == "llama" else "attention.layer_norm_epsilon"
    assert settings[f"{kind}.{epsilon}"] == ("FLOAT32", pytest.approx(loaded.config.norm.epsilon))
    if kind == "llama":
        assert settings["llama.rope.freq_base"] == ("FLOAT32", 10_000.0)
    if kind == "bert":
        assert settings["bert.attention.causal"] == ("BOOL", False)
        assert settings["bert.pooling_type"] == ("UINT32", gguf.PoolingType.MEAN)


def test_smollm2_written_in_half_precision_gives_the_same_logits(tmp_path: Path) -> None:
    loaded = load_model("smollm2-135m-instruct")
    save_gguf(loaded.module, loaded.family, loaded.tokenizer, tmp_path / "x.gguf", "F16")
    again = load_model(str(tmp_path / "x.gguf"))
    assert loaded.tokenizer is not None and again.tokenizer is not None
    text = "The capital of France is Paris; 1234 + 5 =\n\n  丹炉 😀, isn't it?"
    ids = loaded.tokenizer.encode(text)
    assert again.tokenizer.encode(text) == ids
    assert again.config == loaded.config and again.tokenizer.settings == loaded.tokenizer.settings
    assert distance(own_logits(again.module, torch.tensor([ids])), own_logits(loaded.module, torch.tensor([ids]))) < 1e-2


@pytest.mark.parametrize("shape", UNSAID)
def test_what_llama_cpp_would_compute_otherwise_is_refused(shape: str, tmp_path: Path) -> None:
    loaded = load_model(str(write_foreign(shape, tmp_path / "model")))
    with pytest.raises(CheckpointError, match=UNSAID[shape]):
        save_gguf(loaded.module, loaded.family, tokenizer_for(loaded), tmp_path / "x.gguf", "F16")
    assert not (tmp_path / "x.gguf").exists()


def test_models_without_a_tokenizer_recurrent_ones_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    loaded = load_model(str(write_foreign("qwen3", tmp_path / "model")))
    with pytest.raises(CheckpointError, match="no tokenizer"):
        save_gguf(loaded.module, loaded.family, None, tmp_path / "x.gguf", "F16")
    with pytest.raises(ConfigError, match="'Q5_K'; expected one of F32, F16, Q8_0, Q4_0"):
        save_gguf(loaded.module, loaded.family, small_tokenizer(97), tmp_path / "x.gguf", "Q5_K")
    recurrent = families()["rnn"]
    with pytest.raises(CheckpointError, match="a danlu-rnn cannot be written as GGUF"):
        save_gguf(recurrent.build(recurrent.sizes("nano", 97, None)), recurrent, small_tokenizer(97), tmp_path / "x.gguf", "F16")
    assert not (tmp_path / "x.gguf").exists()
