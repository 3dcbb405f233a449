"""Small random models of many shapes, made and saved by transformers: the other side of every comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from danlu.models.base import Inputs

LLAMA: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2: dict[str, Any] = {"vocab_size": 101, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}


def _llama(kind: type[PretrainedConfig] = LlamaConfig, **changes: Any) -> PretrainedConfig:
    return kind(**(LLAMA | changes))


SHAPES: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2-narrow-inner": GPT2Config(**(GPT2 | {"n_inner": 36, "activation_function": "gelu", "layer_norm_epsilon": 1e-3})),
    "gpt2-relu-untied": GPT2Config(**(GPT2 | {"activation_function": "relu", "tie_word_embeddings": False})),
    "gpt2-one-of-all": GPT2Config(vocab_size=5, n_positions=17, n_embd=3, n_layer=1, n_head=1),
    "llama-grouped": _llama(),
    "llama-untied": _llama(tie_word_embeddings=False),
    "llama-one-head-for-all": _llama(num_key_value_heads=1),
    "llama-every-head-its-own": _llama(num_key_value_heads=4),
    "llama-wide-heads": _llama(head_dim=20),
    "llama-attention-bias": _llama(attention_bias=True),
    "llama-mlp-bias": _llama(mlp_bias=True),
    "llama-all-bias": _llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "llama-scaled-as-llama3": _llama(rope_parameters=LLAMA3),
    "llama-scaled-linear": _llama(rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 10_000.0}),
    "llama-slow-turns": _llama(rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}, rms_norm_eps=1e-3),
    "llama-odd-sizes": _llama(
        vocab_size=61, hidden_size=35, intermediate_size=41, num_attention_heads=5, num_key_value_heads=5, head_dim=6
    ),
    "llama-gelu": _llama(hidden_act="gelu_pytorch_tanh"),
    "qwen2": _llama(Qwen2Config),
    "qwen2-untied": _llama(Qwen2Config, tie_word_embeddings=False, num_key_value_heads=1),
    "qwen3": _llama(Qwen3Config, head_dim=12),
    "qwen3-bias-untied": _llama(Qwen3Config, head_dim=8, attention_bias=True, tie_word_embeddings=False),
}


def make_foreign(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of transformers in which every weight, bias and norm counts."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(SHAPES[name], dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            around = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(around + 0.3 * torch.randn(parameter.shape))
    return model


def write_foreign(name: str, folder: Path, **options: Any) -> Path:
    make_foreign(name).save_pretrained(folder, **options)
    return folder


def some_ids(vocabulary_size: int, length: int = 17, rows: int = 3) -> Tensor:
    return torch.randint(vocabulary_size, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def own_logits(module: Any, ids: Tensor) -> Tensor:
    return module.logits(module(Inputs(tokens=ids)))


@torch.no_grad()
def foreign_logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids).logits


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
