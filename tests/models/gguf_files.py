"""Small GGUF files, written by llama.cpp's own package from a model of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedModel

from danlu.inputs.tokenizer import END_OF_TEXT, Tokenizer
from danlu.inputs.vocabulary_training import train_bpe

from .shapes import make_foreign

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    file: Path,
    shape: str,
    quantization: str = "F32",
    changes: Mapping[str, Any] | None = None,
    kinds: Mapping[str, str] | None = None,
    **fields: Any,
) -> PreTrainedModel:
    """Write the file as llama.cpp's conversion does; return the model whose weights it holds.

    `changes` are made to the shape; `kinds` pack tensors whose names hold their keys otherwise than the others.
    """
    model = make_foreign(shape, **(changes or {}))
    config = model.config
    writer = gguf.GGUFWriter(file, config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    add_vocabulary(writer, config.vocab_size)
    for key, value in fields.items():
        writer.add_string(key, value)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
            is_paired = config.model_type == "llama" and heads is not None  # the two channels of a pair stand side by side
            values = tensor.numpy()
            if is_paired:
                values = values.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
            chosen = next((kind for part, kind in (kinds or {}).items() if part in rename(name)), quantization)
            kind = kind_for(values.shape, chosen)
            packed = gguf.quantize(values, kind)
            writer.add_tensor(rename(name), packed, raw_dtype=kind)
            held = torch.from_numpy(gguf.dequantize(packed, kind).copy())  # the model compared with holds what the file can hold
            tensor.copy_(held.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2) if is_paired else held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def kind_for(shape: tuple[int, ...], quantization: str) -> gguf.GGMLQuantizationType:
    """Norms and biases stay in float32; rows that do not fill blocks of 32 stay in half precision."""
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    return gguf.GGMLQuantizationType["F16" if quantization.startswith("Q") and shape[-1] % 32 else quantization]


def rename(name: str) -> str:
    for theirs, short in NAMES.items():
        name = name.replace(theirs, short)
    return name


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """A vocabulary of the model's size: some characters, a merge and control tokens."""
    raw = train_bpe([], 257).raw
    characters = [raw.id_to_token(id) for id in range(1, size - 2)]
    tokens = [*characters, characters[0] * 2, END_OF_TEXT, "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (size - 2) + [3, 3])
    writer.add_token_merges([f"{tokens[0]} {tokens[0]}"])
    writer.add_eos_token_id(size - 2)


def small_tokenizer(size: int) -> Tokenizer:
    """A byte-level BPE of so many tokens: the end of text, and some bytes."""
    whole = json.loads(train_bpe([], 257).raw.to_str())
    tokens = [END_OF_TEXT, *sorted(whole["model"]["vocab"].keys() - {END_OF_TEXT}, key=lambda token: (token != "a", token))]
    whole["model"]["vocab"] = {token: id for id, token in enumerate(tokens[:size])}
    return Tokenizer(RawTokenizer.from_str(json.dumps(whole)), {"eos_token": END_OF_TEXT, "chat_template": "{{ messages[0].content }}"})
