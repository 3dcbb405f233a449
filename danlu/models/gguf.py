"""GGUF's words for what Hugging Face folders say: settings and names of weights, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danlu.base.errors import CheckpointError
from danlu.models.naming import Form, Names, Rows


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one "general.architecture" is written: GGUF's settings (without the architecture before them) -> those of config.json."""

    settings: Mapping[str, str]
    names: Names
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what a config.json must say, since GGUF cannot say otherwise
    added: Mapping[str, Any] = field(default_factory=dict)  # what GGUF wants to be told, and a config.json does not
    left_out: tuple[str, ...] = ()  # own modules that GGUF has no place for and its readers no use
    biases: Mapping[str, str] = field(default_factory=dict)  # a setting of config.json that is true if this tensor is there


def read_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that says what a GGUF file's metadata (with the tensors' names under "tensors") say.

    Raises: CheckpointError for what is not understood; KeyError for a setting that is missing.
    """
    kind, tensors = metadata["general.architecture"], metadata["tensors"]
    dialect = DIALECTS[kind]
    given = {key.removeprefix(f"{kind}."): value for key, value in metadata.items() if key.startswith(f"{kind}.")}
    raw = {"model_type": kind, **dialect.fixed}
    raw |= {theirs: _exact(given[ours]) for ours, theirs in dialect.settings.items() if ours in given}
    raw |= {setting: tensor in tensors for setting, tensor in dialect.biases.items()}
    scaling = given.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear") or "rope_freqs.weight" in tensors:
        raise CheckpointError(
            f"the GGUF came with scaled rotary positions ({scaling}); this version reads unscaled and linearly scaled ones"
        )
    if scaling == "linear":
        raw["rope_scaling"] = {"rope_type": "linear", "factor": _exact(given["rope.scaling.factor"])}
    return raw | {"vocab_size": len(metadata["tokenizer.ggml.tokens"]), "tie_word_embeddings": "output.weight" not in tensors}


def write_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that say what a config.json says. Raises: CheckpointError for what GGUF cannot say."""
    kind = str(raw["model_type"])
    if kind not in DIALECTS:
        raise CheckpointError(f"a {kind} cannot be written as GGUF; known are {', '.join(DIALECTS)}: write a Hugging Face folder instead")
    dialect = DIALECTS[kind]
    for setting, known in dialect.fixed.items():
        if raw.get(setting, known) != known:
            raise CheckpointError(
                f"GGUF cannot say that a {kind} has {setting} = {raw[setting]!r} (only {known!r}); write a folder instead"
            )
    given = {ours: raw[theirs] for ours, theirs in dialect.settings.items() if raw.get(theirs) is not None}
    metadata = {f"{kind}.{ours}": _exact(float(value)) if ours.endswith(REAL) else value for ours, value in given.items()}
    if scaling := raw.get("rope_scaling"):
        if scaling.get("rope_type") != "linear":
            raise CheckpointError(
                f"rotary positions scaled as {scaling.get('rope_type')} cannot be written as GGUF yet; write a folder instead"
            )
        metadata |= {f"{kind}.rope.scaling.type": "linear", f"{kind}.rope.scaling.factor": _exact(float(scaling["factor"]))}
    return {"general.architecture": kind, **metadata, **dialect.added}


def kind_of(name: str, shape: Sequence[int], file_kind: str, has_output: bool) -> str:
    """What a tensor is packed as in a file of some kind (FILE_TYPES), as llama.cpp's own conversion does it.

    Vectors, positions and segments stay float32, and rows that do not fill blocks of 32 half precision. What scores words (the
    embedding, without an output of its own) is Q8_0 in a Q4_0 file: llama.cpp has Q6_K there, which the gguf package cannot pack.
    """
    if len(shape) < 2 or name.startswith(("position_embd.", "token_types.")):
        return "F32"
    if file_kind.startswith("Q") and shape[-1] % 32:
        return "F16"
    return "Q8_0" if file_kind == "Q4_0" and name == ("output.weight" if has_output else "token_embd.weight") else file_kind


def _exact(value: Any) -> Any:
    """A float as the shortest decimal that gives the same float32, which is what GGUF holds: 1e-6, not 9.999999974752427e-07."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


REAL = ("epsilon", "freq_base")  # how the names of settings end that are floats, though a config.json may have a whole number there
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_0": 2}  # kinds of files that are written -> llama.cpp's number, "general.file_type"

_LAYER = {
    "attention_norm": "attn_norm",
    "feedforward_norm": "ffn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feedforward.gate": "ffn_gate",
    "feedforward.up": "ffn_up",
    "feedforward.down": "ffn_down",
}
_TABLE = {"embedding": "token_embd", "position": "position_embd", "norm": "output_norm", "head": "output"} | {
    f"blocks.{{i}}.{own}": f"blk.{{i}}.{foreign}" for own, foreign in _LAYER.items()
}


def _pair(rows: Rows, config: Any) -> Rows:
    return rows.reshape(-1, 2, config.head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _unpair(rows: Rows, config: Any) -> Rows:
    return rows.reshape(-1, config.head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


# Llama's rows of queries and keys stand so that the two channels of a pair are neighbours; GPT-2 has the three in one matrix.
_PAIRED = {f"blocks.{{i}}.attention.{part}": Form(to_own=_unpair, to_foreign=_pair) for part in ("query", "key")}
_FUSED = {f"blocks.{{i}}.attention.{part}": Form(part=i, parts=3) for i, part in enumerate(("query", "key", "value"))}

_SHAPE = {"embedding_length": "hidden_size", "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size"}
_LLAMA = _SHAPE | {
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
}
_LLAMA_BIASES = {"attention_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_down.bias"}
DIALECTS: dict[str, Dialect] = {
    "llama": Dialect(settings=_LLAMA, names=Names(table=_TABLE, forms=_PAIRED), fixed={"hidden_act": "silu"}, biases=_LLAMA_BIASES),
    "qwen2": Dialect(settings=_LLAMA, names=Names(table=_TABLE), fixed={"hidden_act": "silu"}),
    "qwen3": Dialect(settings=_LLAMA, names=Names(table=_TABLE), fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}),
    "gpt2": Dialect(
        settings={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        names=Names(table=_TABLE | dict.fromkeys(_FUSED, "blk.{i}.attn_qkv"), forms=_FUSED),
        fixed={"activation_function": "gelu_new"},
    ),
    "bert": Dialect(
        settings=_SHAPE
        | {
            "context_length": "max_position_embeddings",
            "attention.head_count": "num_attention_heads",
            "attention.layer_norm_epsilon": "layer_norm_eps",
        },
        names=Names(
            table=_TABLE
            | {
                "embedding_norm": "token_embd_norm",
                "segment": "token_types",
                "blocks.{i}.attention_norm": "blk.{i}.attn_output_norm",
                "blocks.{i}.feedforward_norm": "blk.{i}.layer_output_norm",
            }
        ),
        fixed={"hidden_act": "gelu", "type_vocab_size": 2, "architectures": ["BertModel"]},
        added={"bert.attention.causal": False, "bert.pooling_type": 1, "tokenizer.ggml.token_type_count": 2},  # 1: the mean
        left_out=("pooler.",),
    ),
}
