"""GPT: one decoder that is GPT-2, Llama, Qwen2 or Qwen3 by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from danlu.base.errors import CheckpointError, ConfigError
from danlu.models.base import Family, Inputs, Recipe, check_sizes, choose_size, initialise, read_activation, words_only, write_activation
from danlu.models.naming import Form, Names
from danlu.nn.attention import AttentionConfig, LayerCache, Look, Packing
from danlu.nn.block import Block, BlockConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.linear import Linear, linear
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import Rotary, RotaryConfig


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
        check_sizes(self)
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
        block = BlockConfig(attention=config.attention, feedforward=config.feedforward, norm=config.norm)
        self.blocks = nn.ModuleList(Block(block, config.width) for _ in range(config.num_layers))
        self.norm = make_norm(config.norm, config.width)
        self.head = None if config.tied else Linear(config.width, config.vocabulary_size, bias=False)
        initialise(self, 0.02 / math.sqrt(2 * config.num_layers), ("attention.output.weight", "feedforward.down.weight"))

    def forward(self, inputs: Inputs, cache: Sequence[LayerCache] | None = None) -> Tensor:
        given = inputs.visible.positions if isinstance(inputs.visible, Packing) else inputs.positions
        positions: Tensor | int = inputs.tokens.shape[1] if given is None else given
        x = self.embedding(inputs.tokens)
        if self.position is not None:
            x = x + (self.position.weight[:positions] if isinstance(positions, int) else self.position(positions))
        look = Look(rotation=None if self.rotary is None else self.rotary(positions, x.dtype), visible=inputs.visible)
        for index, block in enumerate(self.blocks):
            x = block(x, look, None if cache is None else cache[index])
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry: (..., D) -> (..., V)."""
        return linear(hidden, self.embedding.weight if self.head is None else self.head.weight)


# Sizes: depth is the dial; width, heads and context follow.
DEPTHS = {"nano": 2, "tiny": 4, "mini": 6, "small": 10, "medium": 16, "large": 24, "xl": 30, "3b": 36, "7b": 48}
CONTEXTS = {2: 128, 4: 256, 6: 512, 10: 1024, 16: 2048, 24: 2048, 30: 4096, 36: 4096, 48: 4096}


def size(name: str, vocabulary_size: int, context_length: int | None = None) -> GPTConfig:
    """The configuration of gpt/NAME: heads of 64, about 64 channels and one head for each layer, Qwen3's architecture.

    Raises: ConfigError if the name is none of DEPTHS.
    """
    depth = choose_size("gpt", name, DEPTHS)
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
    tokens = max(2**11 * config.width // 256, 2**10 * (config.width // 256) ** 2)
    return Recipe(rate=rate if from_scratch else 0.05 * rate, batch_tokens=min(2**19, tokens), beside_muon=7.0)


LLAMA = Names(
    table={
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "blocks.{i}.attention_norm": "model.layers.{i}.input_layernorm",
        "blocks.{i}.feedforward_norm": "model.layers.{i}.post_attention_layernorm",
        "blocks.{i}.attention.query": "model.layers.{i}.self_attn.q_proj",
        "blocks.{i}.attention.key": "model.layers.{i}.self_attn.k_proj",
        "blocks.{i}.attention.value": "model.layers.{i}.self_attn.v_proj",
        "blocks.{i}.attention.output": "model.layers.{i}.self_attn.o_proj",
        "blocks.{i}.attention.query_norm": "model.layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.key_norm": "model.layers.{i}.self_attn.k_norm",
        "blocks.{i}.feedforward.gate": "model.layers.{i}.mlp.gate_proj",
        "blocks.{i}.feedforward.up": "model.layers.{i}.mlp.up_proj",
        "blocks.{i}.feedforward.down": "model.layers.{i}.mlp.down_proj",
    },
    prefix="model.",
    ignored=(".rotary_emb.inv_freq", "lm_head.weight"),
)


# GPT-2 keeps queries, keys and values in one matrix, and all matrices of its layers transposed.
def _turn(tensor: Tensor, config: GPTConfig) -> Tensor:
    return tensor.t() if tensor.dim() == 2 else tensor


GPT2 = Names(
    table={
        "embedding": "transformer.wte",
        "position": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
        "blocks.{i}.attention_norm": "transformer.h.{i}.ln_1",
        "blocks.{i}.feedforward_norm": "transformer.h.{i}.ln_2",
        "blocks.{i}.attention.query": "transformer.h.{i}.attn.c_attn",
        "blocks.{i}.attention.key": "transformer.h.{i}.attn.c_attn",
        "blocks.{i}.attention.value": "transformer.h.{i}.attn.c_attn",
        "blocks.{i}.attention.output": "transformer.h.{i}.attn.c_proj",
        "blocks.{i}.feedforward.up": "transformer.h.{i}.mlp.c_fc",
        "blocks.{i}.feedforward.down": "transformer.h.{i}.mlp.c_proj",
    },
    forms={
        f"blocks.{{i}}.attention.{part}": Form(to_own=_turn, to_foreign=_turn, part=i, parts=3)
        for i, part in enumerate(("query", "key", "value"))
    }
    | {f"blocks.{{i}}.{part}": Form(to_own=_turn, to_foreign=_turn) for part in ("attention.output", "feedforward.up", "feedforward.down")},
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias", "lm_head.weight"),
)


GPT2_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}


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
            attention=AttentionConfig.biased(heads, width, causal=True),
            feedforward=FeedForwardConfig(
                hidden_width=raw.get("n_inner") or 4 * width,
                activation=read_activation(raw.get("activation_function", "gelu_new")),
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
            activation=read_activation(raw.get("hidden_act", "silu")),
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
    activation = write_activation(config.feedforward.activation)
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


FAMILY = Family(
    name="gpt",
    pretraining="next-token",
    tokenizer="bpe",
    sizes=size,
    recipe=recipe,
    build=GPT,
    with_head=words_only,
    packs=True,
    memory="keys",
    model_types=("gpt2", "llama", "qwen2", "qwen3"),
    names=lambda config: GPT2 if config.architecture == "gpt2" else LLAMA,
    read_config=read_config,
    write_config=write_config,
)
