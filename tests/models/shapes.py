"""Small random models of many shapes, made and saved by transformers: the other side of every comparison."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MarianConfig,
    MT5Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from danlu.models.base import Head, Inputs

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


BERT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
THREE = {"id2label": {0: "good", 1: "bad", 2: "中"}, "label2id": {"good": 0, "bad": 1, "中": 2}}


def _bert(head: str, kind: type[PretrainedConfig] = BertConfig, **changes: Any) -> PretrainedConfig:
    return kind(**(BERT | {"architectures": [kind.__name__.removesuffix("Config") + head]} | changes))


ENCODERS: dict[str, PretrainedConfig] = {
    "bert-plain": _bert("Model"),
    "bert-pretraining": _bert("ForPreTraining"),
    "bert-words": _bert("ForMaskedLM", hidden_act="relu", layer_norm_eps=1e-5),
    "bert-classes": _bert("ForSequenceClassification", **THREE),
    "bert-number": _bert("ForSequenceClassification", num_labels=1, problem_type="regression"),
    "bert-labels": _bert("ForTokenClassification", type_vocab_size=1, **THREE),
    "bert-spans": _bert("ForQuestionAnswering", hidden_act="gelu_new"),
    "bert-odd-sizes": _bert("ForMaskedLM", vocab_size=61, hidden_size=35, intermediate_size=41, num_attention_heads=5),
    "roberta-plain": _bert("Model", RobertaConfig, pad_token_id=1),
    "roberta-words": _bert("ForMaskedLM", RobertaConfig, pad_token_id=1),
    "roberta-classes": _bert("ForSequenceClassification", RobertaConfig, pad_token_id=1, **THREE),
    "roberta-labels": _bert("ForTokenClassification", RobertaConfig, pad_token_id=1, type_vocab_size=1, **THREE),
    "roberta-spans": _bert("ForQuestionAnswering", RobertaConfig, pad_token_id=3),
}

T5: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 32,
    "d_kv": 10,
    "d_ff": 56,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
SEQ2SEQS: dict[str, PretrainedConfig] = {
    "t5": T5Config(**T5),
    "t5-gated": T5Config(**(T5 | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3, "tie_word_embeddings": False})),
    "t5-gated-silu": T5Config(**(T5 | {"feed_forward_proj": "gated-silu"})),
    "mt5": MT5Config(**T5),
    "bart": BartConfig(**BART),
    "bart-scaled": BartConfig(**(BART | {"scale_embedding": True, "activation_function": "relu"})),
    "marian": MarianConfig(**(BART | {"activation_function": "swish", "scale_embedding": True, "pad_token_id": 96})),
}
ALL = SHAPES | ENCODERS | SEQ2SEQS


def class_of(config: PretrainedConfig) -> Any:
    """The class of transformers that a configuration belongs to."""
    if config.architectures:
        return getattr(transformers, config.architectures[0])
    names = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration", "bart": "BartForConditionalGeneration"}
    return getattr(transformers, names.get(config.model_type, "MarianMTModel")) if config.is_encoder_decoder else AutoModelForCausalLM


def make_foreign(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of transformers in which every weight, bias and norm counts."""
    torch.manual_seed(seed)
    kind, config = class_of(ALL[name]), copy.deepcopy(ALL[name])
    config.update(changes)
    model = (kind.from_config(config) if kind is AutoModelForCausalLM else kind(config)).float().eval()
    with torch.no_grad():
        for at, parameter in model.named_parameters():
            if "embed_positions" in at and config.model_type == "marian":  # sines, which nobody learns
                continue
            around = 1.0 if parameter.dim() == 1 and at.endswith("weight") else 0.0  # norms
            parameter.copy_(around + 0.3 * torch.randn(parameter.shape))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape))
    return model


def write_foreign(name: str, folder: Path, **options: Any) -> Path:
    make_foreign(name).save_pretrained(folder, **options)
    return folder


def some_ids(vocabulary_size: int, length: int = 17, rows: int = 3) -> Tensor:
    return torch.randint(vocabulary_size, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def own_logits(module: Any, ids: Tensor, source: Tensor | None = None) -> Tensor:
    hidden = module(Inputs(tokens=ids, source=source))
    headless = getattr(module.config, "head", Head()) is None
    return hidden if headless else module.logits(hidden)


@torch.no_grad()
def foreign_logits(model: Any, ids: Tensor, source: Tensor | None = None) -> Tensor:
    """Their logits; of a model without a head the last hidden states; of spans begin and end side by side."""
    found = model(input_ids=ids) if source is None else model(input_ids=source, decoder_input_ids=ids)
    if "start_logits" in found:
        return torch.stack((found.start_logits, found.end_logits), dim=-1)
    for name in ("logits", "prediction_logits", "last_hidden_state"):
        if name in found:
            return found[name]
    raise AssertionError(list(found))


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
