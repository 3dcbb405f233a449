"""GPT: one decoder that is GPT-2, Llama, Qwen2 or Qwen3 by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from danlu.base.errors import CheckpointError, ConfigError
from danlu.models.base import Family, Inputs, Names, Recipe
from danlu.nn.attention import AttentionConfig, LayerCache
from danlu.nn.block import Block
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import Rotary, RotaryConfig

# Far above any model there is, so that a damaged number cannot ask for all memory.
LARGEST = {"vocabulary_size": 2**24, "context_length": 2**21, "width": 2**17, "num_layers": 2**10}


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of a decoder; without `rotary`, positions are learned."""

    vocabulary_size: int
    context_length: int
    width: int
    num_layers: int
    attention: AttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    rotary: RotaryConfig | None
    tied: bool = True  # the output layer is the embedding

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} came as {value!r}; expected a whole number from 1 to {most}")
        if self.rotary is not None and self.head_dim % 2:
            raise ConfigError(f"head_dim came as {self.head_dim}; expected an even number, since rotary positions turn pairs of channels")

    num_heads = property(lambda self: self.attention.num_heads)
    num_kv_heads = property(lambda self: self.attention.num_kv_heads)
    head_dim = property(lambda self: self.attention.head_dim)

    @property
    def architecture(self) -> str:
        """The Hugging Face "model_type" that computes the same."""
        plain = not (self.attention.input_bias or self.attention.output_bias or self.feedforward.bias)
        if self.rotary is None:
            return "gpt2"
        if self.attention.query_key_norm:
            return "qwen3"
        return "llama" if plain or self.attention.output_bias or self.feedforward.bias else "qwen2"


class GPT(nn.Module):
    """Read tokens, tell what may come next.

    Shapes: inputs.tokens (B, T) -> hidden states (B, T, D); logits() maps those to (B, T, V).
    Source: Radford et al. 2019 (GPT-2); Touvron et al. 2023, arXiv:2302.13971 (Llama); Yang et al. 2025, arXiv:2505.09388 (Qwen3).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position = nn.Embedding(config.context_length, config.width) if config.rotary is None else None
        self.rotary = Rotary(config.rotary, config.head_dim, config.context_length) if config.rotary is not None else None
        self.blocks = nn.ModuleList(
            Block(config.width, config.attention, config.feedforward, config.norm) for _ in range(config.num_layers)
        )
        self.norm = make_norm(config.norm, config.width)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary_size, bias=False)
        self.initialise()

    def forward(self, inputs: Inputs, cache: Sequence[LayerCache] | None = None) -> Tensor:
        positions: Tensor | int = inputs.tokens.shape[1] if inputs.positions is None else inputs.positions
        x = self.embedding(inputs.tokens)
        if self.position is not None:
            x = x + (self.position.weight[:positions] if isinstance(positions, int) else self.position(positions))
        rotation = None if self.rotary is None else self.rotary(positions, x.dtype)
        for index, block in enumerate(self.blocks):
            x = block(x, rotation, inputs.visible, None if cache is None else cache[index])
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry: (..., D) -> (..., V)."""
        return nn.functional.linear(hidden, self.embedding.weight if self.head is None else self.head.weight)

    def initialise(self) -> None:
        """Small random weights; what is added to the residual path starts smaller the deeper the model is."""
        for name, parameter in self.named_parameters():
            if parameter.is_meta:  # built only for its shapes, or about to be filled from a file
                continue
            if parameter.dim() > 1:
                added = name.endswith(("attention.output.weight", "feedforward.down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.num_layers) if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


# Sizes: depth is the dial; width, heads and context follow.
DEPTHS = {"nano": 2, "tiny": 4, "mini": 6, "small": 10, "medium": 16, "large": 24, "xl": 30, "3b": 36, "7b": 48}
CONTEXTS = {2: 128, 4: 256, 6: 512, 10: 1024, 16: 2048, 24: 2048, 30: 4096, 36: 4096, 48: 4096}


def size(name: str, vocabulary_size: int, context_length: int | None = None) -> GPTConfig:
    """The configuration of gpt/NAME: heads of 64, about 64 channels and one head for each layer, Qwen3's architecture.

    Raises: ConfigError if the name is none of DEPTHS.
    """
    if name not in DEPTHS:
        raise ConfigError(f"the size came as gpt/{name}; expected one of {', '.join(f'gpt/{known}' for known in DEPTHS)}")
    depth = DEPTHS[name]
    heads = depth + depth % 2
    width = 64 * heads
    return GPTConfig(
        vocabulary_size=vocabulary_size,
        context_length=context_length or CONTEXTS[depth],
        width=width,
        num_layers=depth,
        attention=AttentionConfig(num_heads=heads, num_kv_heads=heads if depth < 16 else heads // 2, head_dim=64, query_key_norm=True),
        feedforward=FeedForwardConfig(hidden_width=math.ceil(width * 8 / 3 / 64) * 64),
        norm=NormConfig(kind="rms", epsilon=1e-6),
        rotary=RotaryConfig(base=10_000.0 if depth < 16 else 100_000.0),
        tied=depth < 24,
    )


def recipe(config: GPTConfig, from_scratch: bool) -> Recipe:
    """Wider models want smaller rates and larger batches; weights that are there want to be moved gently."""
    rate = 3e-3 * (256 / config.width) ** 0.75
    return Recipe(rate=rate if from_scratch else 0.05 * rate, batch_tokens=min(2**19, 2**10 * max(1, config.width // 256) ** 2))


# Names: (own, Hugging Face for the Llama line, GGUF); {i} counts layers.
LLAMA_NAMES = [
    ("embedding.weight", "model.embed_tokens.weight", "token_embd.weight"),
    ("norm.weight", "model.norm.weight", "output_norm.weight"),
    ("head.weight", "lm_head.weight", "output.weight"),
    ("blocks.{i}.attention_norm.weight", "model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
    ("blocks.{i}.feedforward_norm.weight", "model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"),
    ("blocks.{i}.attention.query_norm.weight", "model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight"),
    ("blocks.{i}.attention.key_norm.weight", "model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight"),
    ("blocks.{i}.attention.query.{p}", "model.layers.{i}.self_attn.q_proj.{p}", "blk.{i}.attn_q.{p}"),
    ("blocks.{i}.attention.key.{p}", "model.layers.{i}.self_attn.k_proj.{p}", "blk.{i}.attn_k.{p}"),
    ("blocks.{i}.attention.value.{p}", "model.layers.{i}.self_attn.v_proj.{p}", "blk.{i}.attn_v.{p}"),
    ("blocks.{i}.attention.output.{p}", "model.layers.{i}.self_attn.o_proj.{p}", "blk.{i}.attn_output.{p}"),
    ("blocks.{i}.feedforward.gate.{p}", "model.layers.{i}.mlp.gate_proj.{p}", "blk.{i}.ffn_gate.{p}"),
    ("blocks.{i}.feedforward.up.{p}", "model.layers.{i}.mlp.up_proj.{p}", "blk.{i}.ffn_up.{p}"),
    ("blocks.{i}.feedforward.down.{p}", "model.layers.{i}.mlp.down_proj.{p}", "blk.{i}.ffn_down.{p}"),
]
GPT2_NAMES = [
    ("embedding.weight", "transformer.wte.weight"),
    ("position.weight", "transformer.wpe.weight"),
    ("norm.{p}", "transformer.ln_f.{p}"),
    ("head.weight", "lm_head.weight"),
    ("blocks.{i}.attention_norm.{p}", "transformer.h.{i}.ln_1.{p}"),
    ("blocks.{i}.feedforward_norm.{p}", "transformer.h.{i}.ln_2.{p}"),
    ("blocks.{i}.attention.output.{p}", "transformer.h.{i}.attn.c_proj.{p}"),
    ("blocks.{i}.feedforward.up.{p}", "transformer.h.{i}.mlp.c_fc.{p}"),
    ("blocks.{i}.feedforward.down.{p}", "transformer.h.{i}.mlp.c_proj.{p}"),
]


def _table(config: GPTConfig, rows: Sequence[tuple[str, ...]], column: int) -> dict[str, str]:
    """Own name -> foreign name, for every parameter that this configuration has."""
    with torch.device("meta"):
        own = dict(GPT(config).named_parameters())
    layers = [str(i) for i in range(config.num_layers)]
    filled = (
        (row[0].format(i=i, p=p), row[column].format(i=i, p=p))
        for row in rows
        for i in (layers if "{i}" in row[0] else [""])
        for p in (["weight", "bias"] if "{p}" in row[0] else [""])
    )
    return {name: foreign for name, foreign in filled if name in own}


def _llama_to_own(foreign: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    return {name: foreign[other] for name, other in _table(config, LLAMA_NAMES, 1).items()}


def _own_to_llama(own: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    return {other: own[name] for name, other in _table(config, LLAMA_NAMES, 1).items()}


def _gguf_to_own(foreign: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    return {name: foreign[other] for name, other in _table(config, LLAMA_NAMES, 2).items()}


def _gguf_llama_to_own(foreign: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """As above; Llama's GGUF stores the rows of queries and keys so that a pair of channels stands together."""
    own = _gguf_to_own(foreign, config)
    for name, tensor in own.items():
        if ".attention.query." in name or ".attention.key." in name:
            pairs = tensor.unflatten(0, (-1, config.head_dim // 2, 2))  # (heads, E/2, 2, ...)
            own[name] = pairs.transpose(1, 2).flatten(0, 2)
    return own


def _own_to_gguf(own: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    raise CheckpointError("writing GGUF came as a wish; this version reads GGUF only: write a Hugging Face folder instead")


def _gpt2_to_own(foreign: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """GPT-2 keeps its matrices transposed, with queries, keys and values in one, at times without the "transformer." before all."""
    prefix = "transformer." if "transformer.wte.weight" in foreign else ""
    own = {}
    for name, other in _table(config, GPT2_NAMES, 1).items():
        tensor = foreign[other.replace("transformer.", prefix)]
        own[name] = tensor.t() if name.startswith("blocks") and tensor.dim() == 2 else tensor
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            parts = foreign[f"{prefix}h.{i}.attn.c_attn.{kind}"].t().chunk(3)
            own |= {f"blocks.{i}.attention.{part}.{kind}": tensor for part, tensor in zip(("query", "key", "value"), parts, strict=True)}
    return own


def _own_to_gpt2(own: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    foreign = {}
    for name, other in _table(config, GPT2_NAMES, 1).items():
        foreign[other] = own[name].t() if name.startswith("blocks") and own[name].dim() == 2 else own[name]
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            parts = [own[f"blocks.{i}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            foreign[f"transformer.h.{i}.attn.c_attn.{kind}"] = torch.cat(parts).t()
    return foreign


GPT2_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
GELUS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}


def _activation(foreign: Any) -> str:
    return GELUS.get(str(foreign), str(foreign))


def read_config(raw: Mapping[str, Any]) -> GPTConfig:
    """Understand a Hugging Face config.json of GPT-2, Llama, Qwen2 or Qwen3."""
    kind = raw["model_type"]
    if kind == "gpt2":
        for setting, known in GPT2_FIXED.items():
            if raw.get(setting, known) != known:
                raise CheckpointError(f"the GPT-2 came with {setting} = {raw[setting]}; this version knows {known} only")
        width, heads = raw["n_embd"], raw["n_head"]
        return GPTConfig(
            vocabulary_size=raw["vocab_size"],
            context_length=raw["n_positions"],
            width=width,
            num_layers=raw["n_layer"],
            attention=AttentionConfig(num_heads=heads, num_kv_heads=heads, head_dim=width // heads, input_bias=True, output_bias=True),
            feedforward=FeedForwardConfig(
                hidden_width=raw.get("n_inner") or 4 * width,
                activation=_activation(raw.get("activation_function", "gelu_new")),
                gated=False,
                bias=True,
            ),
            norm=NormConfig(kind="layer", epsilon=raw.get("layer_norm_epsilon", 1e-5)),
            rotary=None,
            tied=raw.get("tie_word_embeddings", True),
        )
    if raw.get("use_sliding_window"):
        raise CheckpointError(f"{kind} came with sliding-window attention; this version knows full attention only")
    width, heads = raw["hidden_size"], raw["num_attention_heads"]
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return GPTConfig(
        vocabulary_size=raw["vocab_size"],
        context_length=raw["max_position_embeddings"],
        width=width,
        num_layers=raw["num_hidden_layers"],
        attention=AttentionConfig(
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or width // heads,
            input_bias=kind == "qwen2" or bool(raw.get("attention_bias")),
            output_bias=kind != "qwen2" and bool(raw.get("attention_bias")),
            query_key_norm=kind == "qwen3",
        ),
        feedforward=FeedForwardConfig(
            hidden_width=raw["intermediate_size"],
            activation=_activation(raw.get("hidden_act", "silu")),
            bias=bool(raw.get("mlp_bias")),
        ),
        norm=NormConfig(kind="rms", epsilon=raw.get("rms_norm_eps", 1e-6)),
        rotary=RotaryConfig(
            base=rope.get("rope_theta") or raw.get("rope_theta", 10_000.0),
            scaling={key: value for key, value in rope.items() if key != "rope_theta"},
        ),
        tied=raw.get("tie_word_embeddings", kind == "gpt2"),
    )


def write_config(config: GPTConfig) -> dict[str, Any]:
    """The config.json with which transformers, llama.cpp and vLLM compute the same."""
    activations = {own: foreign for foreign, own in reversed(GELUS.items())}
    activation = activations[config.feedforward.activation]
    shared = {"vocab_size": config.vocabulary_size, "tie_word_embeddings": config.tied, "dtype": "float32"}
    if config.architecture == "gpt2":
        return shared | {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": config.context_length,
            "n_embd": config.width,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.feedforward.hidden_width,
            "activation_function": activation,
            "layer_norm_epsilon": config.norm.epsilon,
        }
    assert config.rotary is not None
    return shared | {
        "model_type": config.architecture,
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config.architecture]],
        "max_position_embeddings": config.context_length,
        "hidden_size": config.width,
        "intermediate_size": config.feedforward.hidden_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "rms_norm_eps": config.norm.epsilon,
        "rope_theta": config.rotary.base,
        "rope_scaling": None if config.rotary.kind == "default" else dict(config.rotary.scaling),
        "attention_bias": config.attention.output_bias,
        "mlp_bias": config.feedforward.bias,
    }


def read_gguf_config(metadata: Mapping[str, Any]) -> GPTConfig:
    """Understand the metadata of a GGUF file of the Llama line."""
    kind = metadata["general.architecture"]
    raw = {key.removeprefix(f"{kind}."): value for key, value in metadata.items() if key.startswith(f"{kind}.")}
    scaling = raw.get("rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in metadata["tensors"]:
        raise CheckpointError(f"the GGUF came with scaled rotary positions ({scaling}); this version reads unscaled ones from GGUF")
    width, heads = raw["embedding_length"], raw["attention.head_count"]
    return GPTConfig(
        vocabulary_size=len(metadata["tokenizer.ggml.tokens"]),
        context_length=raw["context_length"],
        width=width,
        num_layers=raw["block_count"],
        attention=AttentionConfig(
            num_heads=heads,
            num_kv_heads=raw.get("attention.head_count_kv", heads),
            head_dim=raw.get("attention.key_length", width // heads),
            input_bias="blk.0.attn_q.bias" in metadata["tensors"],
            output_bias="blk.0.attn_output.bias" in metadata["tensors"],
            query_key_norm="blk.0.attn_q_norm.weight" in metadata["tensors"],
        ),
        feedforward=FeedForwardConfig(hidden_width=raw["feed_forward_length"], bias="blk.0.ffn_down.bias" in metadata["tensors"]),
        norm=NormConfig(kind="rms", epsilon=raw["attention.layer_norm_rms_epsilon"]),
        rotary=RotaryConfig(base=raw.get("rope.freq_base", 10_000.0)),
        tied="output.weight" not in metadata["tensors"],
    )


_LLAMA = Names(to_own=_llama_to_own, to_foreign=_own_to_llama)
_GGUF = Names(to_own=_gguf_to_own, to_foreign=_own_to_gguf)
FAMILY = Family(
    name="gpt",
    sizes=size,
    recipe=recipe,
    build=GPT,
    hugging_face={"gpt2": Names(to_own=_gpt2_to_own, to_foreign=_own_to_gpt2), "llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA},
    read_config=read_config,
    write_config=write_config,
    gguf={"llama": Names(to_own=_gguf_llama_to_own, to_foreign=_own_to_gguf), "qwen2": _GGUF, "qwen3": _GGUF},
    read_gguf_config=read_gguf_config,
)
